"""Getting one published file into the cache: from a mirror of one's own, or from the public mirrors, in that order.

A file enters the cache only whole: it is written beside its place, its hash is checked, then it is moved. What was
interrupted or damaged leaves nothing behind, so that the next try starts clean.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from contextlib import ExitStack
from io import BufferedReader, BytesIO
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

from dgm_lib.datasets import paths
from dgm_lib.datasets.formats import DataError, decompressed, members_of

TIMEOUT = (10, 60)  # seconds to connect, and to wait for more of a file
PAUSE = 1.0  # seconds before the sources whose failure may pass are asked once more


class Refused(Exception):
    """A source did not give the file. `again`: the same source may do better a moment later."""

    def __init__(self, why: str, again: bool = False):
        super().__init__(why)
        self.again = again


def fetch_file(set_name: str, file: dict, mirrors: list[str], *, progress: bool = True) -> Path:
    """Makes sure that the cache has a genuine copy of a file, and returns its path.

    file: its entry in the registry (`name`, `bytes`, `archive`, perhaps `content`). mirrors: addresses that end in /.
    Raises DataError, which names each source and what was wrong with it; KeyboardInterrupt passes through. Neither
    leaves half a file, nor touches a file that was there before.
    """
    target = cached(set_name, file)
    if target.is_file() and is_genuine(target, file):
        return target
    sources = own_mirror(set_name, file) + [urljoin(mirror, file["name"]) for mirror in mirrors]
    refusals: dict[Path | str, Refused] = {}
    for pause in (0, PAUSE):
        time.sleep(pause if sources else 0)
        for source in sources:
            try:
                return _bring(source, target, set_name, file, progress)
            except Refused as refusal:
                refusals[source] = refusal
        sources = [source for source in sources if refusals[source].again]
    said = dict.fromkeys(f"{_place(source)} {refusal}" for source, refusal in refusals.items())
    raise DataError(f"{file['name']} of {set_name} could not be fetched: {'; '.join(said)}. {remedy(set_name)}")


def remedy(set_name: str) -> str:
    """What to do when a data set cannot be had, as one sentence."""
    return (
        f"Try `python -m dgm_lib fetch {set_name}` again later, or get the files another way and set the environment "
        f"variable DGM_DATA_MIRROR to the folder or address where they lie."
    )


# ---- places --------------------------------------------------------------------------------------------------------


def cached(set_name: str, file: dict) -> Path:
    """The place of a file in the cache."""
    return paths.cache_folder() / set_name / file["name"]


def own_mirror(set_name: str, file: dict) -> list[Path | str]:
    """Where DGM_DATA_MIRROR may have a file, under the name of its data set or directly: paths or addresses."""
    mirror = os.environ.get("DGM_DATA_MIRROR", "")
    if not mirror:
        return []
    scheme = urlsplit(mirror).scheme
    if scheme in ("http", "https"):
        base = mirror.rstrip("/")
        return [f"{base}/{set_name}/{file['name']}", f"{base}/{file['name']}"]
    folder = Path(url2pathname(urlsplit(mirror).path) if scheme == "file" else mirror).expanduser()
    return [folder / set_name / file["name"], folder / file["name"]]


def local_file(set_name: str, file: dict) -> Path | None:
    """Where a file lies on this machine, in the cache or in DGM_DATA_MIRROR if that is a folder; its hash unchecked."""
    places = [cached(set_name, file), *(place for place in own_mirror(set_name, file) if isinstance(place, Path))]
    return next((place for place in places if place.is_file()), None)


def _place(source: Path | str) -> str:
    return str(source.parent) if isinstance(source, Path) else urlsplit(source).netloc


# ---- hashes --------------------------------------------------------------------------------------------------------


def is_genuine(path: Path, file: dict) -> bool:
    """Whether a file is the published one: its own hash agrees, or that of its content, compressed anew."""
    with path.open("rb") as archive:
        if _agrees(archive, file["archive"]):
            return True
    content = file.get("content")
    try:
        if isinstance(content, dict):
            return all(_agrees(BytesIO(data), content[name]) for name, data in members_of(path, list(content)))
        return content is not None and _agrees(BytesIO(decompressed(path)), content)
    except DataError:
        return False


def _agrees(stream: BufferedReader | BytesIO, known: str) -> bool:
    """Whether the hash of a stream is the known one: an MD5 where that has the prefix `md5:`, else a SHA-256."""
    algorithm = "md5" if known.startswith("md5:") else "sha256"
    digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return digest.hexdigest() == known.removeprefix("md5:")


# ---- one source ----------------------------------------------------------------------------------------------------


def _bring(source: Path | str, target: Path, set_name: str, file: dict, progress: bool) -> Path:
    """Moves the file of one source to its place in the cache. Raises Refused, or DataError if the disk fails."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            _copy(source, part)
        else:
            _download(source, part, file, progress)
        if not is_genuine(part, file):
            raise Refused("sent a file whose hash is not the published one: damaged or changed", again=True)
        os.replace(part, target)
        return target
    except OSError as error:
        raise DataError(_disk_trouble(error, target, set_name, file)) from error
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Path, part: Path) -> None:
    if not source.is_file():
        raise Refused("has no such file")
    shutil.copyfile(source, part)


def _download(url: str, part: Path, file: dict, progress: bool) -> None:
    import pooch
    import requests
    from tqdm.auto import tqdm

    quiet = not progress or os.environ.get("TQDM_DISABLE", "0") != "0"
    # disable=None: a bar in notebooks and terminals, none where the output is a file
    bar = tqdm(total=file["bytes"], unit="B", unit_scale=True, desc=file["name"], disable=quiet or None)
    with bar, ExitStack() as at_end:

        def close_later(response: requests.Response, **_: object) -> None:
            at_end.callback(response.close)  # pooch leaves the connection open when a download fails

        hooks = {"response": close_later}
        get = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**18, timeout=TIMEOUT, hooks=hooks)
        try:
            get(url, str(part), None)
        except requests.RequestException as error:
            raise _refusal(error) from error


def _refusal(error: Exception) -> Refused:
    """What a failed request says about its source, in a few words."""
    import requests

    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        return Refused(f"said {status} {error.response.reason}", again=status >= 500 or status == 429)
    if isinstance(error, requests.exceptions.SSLError):
        return Refused("has a certificate that this machine does not trust")
    if isinstance(error, (requests.ConnectionError, requests.Timeout)):
        return Refused("does not answer (no network?)")
    if isinstance(error, (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)):
        return Refused("broke off in mid-download", again=True)
    return Refused(f"is no usable address ({type(error).__name__})")


def _disk_trouble(error: OSError, target: Path, set_name: str, file: dict) -> str:
    again = (
        f"and run `python -m dgm_lib fetch {set_name}` again; or set DGM_DATA_MIRROR to a folder that has the files."
    )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk of {target.parent} is full, {file['name']} needs {file['bytes'] / 1e6:.1f} MB: "
            f"free some space, or set DGM_CACHE to a folder on another disk, {again}"
        )
    return f"{target} could not be written ({error}): set DGM_CACHE to a folder that can be, {again}"
