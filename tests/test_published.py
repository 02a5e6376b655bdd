"""Published sets: downloads that fail in every way there is, served from a loopback server, and the real registry."""

import errno
import gzip
import hashlib
import io
import re
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from dgm_lib import datasets
from dgm_lib.datasets import paths, published, remote
from dgm_lib.datasets.published import DataError

OWN_MNIST = Path(__file__).resolve().parents[2] / "shared" / "data"
FIRST = "train-images-idx3-ubyte.gz"
N_TRAIN, N_TEST, SIDE = 8, 3, 16


# ---- a tiny set in the format of MNIST, and a server that misbehaves on command --------------------------------------


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def idx(*shape, high=256):
    pixels = torch.randint(high, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + pixels.numpy().tobytes()


def tiny_files():
    return {
        FIRST: idx(N_TRAIN, SIDE, SIDE),
        "train-labels-idx1-ubyte.gz": idx(N_TRAIN, high=10),
        "t10k-images-idx3-ubyte.gz": idx(N_TEST, SIDE, SIDE),
        "t10k-labels-idx1-ubyte.gz": idx(N_TEST, high=10),
    }


def entry_of(contents, mirrors, **changes):
    archives = {name: gzip.compress(content, mtime=0) for name, content in contents.items()}
    files = [
        {"name": name, "bytes": len(archive), "archive": sha256(archive), "content": sha256(contents[name])}
        for name, archive in archives.items()
    ]
    known = {"shape": [1, SIDE, SIDE], "levels": 256, "classes": list("0123456789"), "format": "idx", "validation": 2}
    return archives, {**known, "train": N_TRAIN, "test": N_TEST, "files": files, "mirrors": mirrors, **changes}


class Server(ThreadingHTTPServer):
    """Serves `files`; `troubles` holds for a file name the answers to give instead, each used once."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.troubles, self.asked = {}, {}, []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):
        """A client that hung up is part of the game."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(self.path)
        waiting = self.server.troubles.get(name)
        if waiting:
            waiting.pop(0)(self, self.server.files[name])
        elif name in self.server.files and self.path.count("/") == 1:
            answer(self, self.server.files[name])
        else:
            answer(self, b"", 404)

    def log_message(self, *_):
        """Silent."""


def answer(handler, body, status=200, length=None, **headers):
    handler.send_response(status)
    if length != "unknown":
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The tiny set under the name of MNIST, on a server that works, with a cache of its own and no waiting."""
    monkeypatch.setenv("DGM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("DGM_DATA_MIRROR", raising=False)
    monkeypatch.setattr(remote, "PAUSE", 0)
    monkeypatch.setattr(remote, "TIMEOUT", (5, 0.5))
    with Server() as running:
        running.files, entry = entry_of(tiny_files(), [running.url])
        monkeypatch.setattr(published, "registry", lambda: {"mnist": entry})
        running.entry = entry
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.released.set()
        running.shutdown()


def cache_content():
    return sorted(path.name for path in paths.cache_folder().rglob("*") if path.is_file())


def assert_fetch_now_works():
    published.fetch("mnist")
    assert cache_content() == sorted(tiny_files())
    assert len(datasets.load("mnist").train) == N_TRAIN - 2


def assert_one_clear_sentence(message):
    assert "\n" not in message
    assert "DGM_DATA_MIRROR" in message
    assert "python -m dgm_lib fetch mnist" in message


# ---- what works ----------------------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_served_split_by_the_rule(server):
    data = datasets.load("mnist", download=True)
    images = torch.frombuffer(bytearray(tiny_files()[FIRST][16:]), dtype=torch.uint8).reshape(-1, 1, SIDE, SIDE)
    labels = torch.frombuffer(bytearray(tiny_files()["train-labels-idx1-ubyte.gz"][8:]), dtype=torch.uint8).long()
    for split, rows in ((data.train, slice(0, -2)), (data.validation, slice(-2, None))):
        torch.testing.assert_close(split.x, images[rows])
        torch.testing.assert_close(split.y, labels[rows])
    assert (len(data.test), data.levels, data.classes) == (N_TEST, 256, tuple("0123456789"))
    assert data.card.startswith("Handwritten digits")
    assert len(datasets.load("mnist", validation=5).validation) == 5


def test_nothing_is_downloaded_unasked_nor_twice(server):
    assert not published.is_present("mnist")
    with pytest.raises(DataError, match=r"load\('mnist', download=True\)") as error:
        datasets.load("mnist")
    assert_one_clear_sentence(str(error.value))
    assert server.asked == []
    published.fetch("mnist")
    published.fetch("mnist")
    assert published.is_present("mnist")
    assert len(server.asked) == 4


def test_no_bar_where_the_output_is_a_file(server, capfd, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    published.fetch("mnist", progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("again", [lambda content: gzip.compress(content, 1), bytes], ids=["recompressed", "plain"])
def test_a_mirror_that_compresses_anew_is_accepted(server, again):
    for name, content in tiny_files().items():
        server.files[name] = again(content)
        assert sha256(server.files[name]) not in [file["archive"] for file in server.entry["files"]]
    assert_fetch_now_works()


def test_a_server_that_decompresses_on_the_way_is_accepted(server):
    server.troubles[FIRST] = [lambda handler, body: answer(handler, body, Content_Encoding="gzip")]
    assert_fetch_now_works()


# ---- what goes wrong -----------------------------------------------------------------------------------------------

TROUBLES = {
    "403": (lambda handler, body: answer(handler, b"no", 403), "said 403 Forbidden"),
    "404": (lambda handler, body: answer(handler, b"", 404), "said 404 Not Found"),
    "503": (lambda handler, body: answer(handler, b"", 503), "said 503 Service Unavailable"),
    "truncated": (lambda handler, body: answer(handler, body[:99], length=len(body)), "broke off in mid-download"),
    "truncated, length not stated": (lambda handler, body: answer(handler, body[:99], length="unknown"), "hash"),
    "one bit flipped": (lambda handler, body: answer(handler, body[:50] + bytes([body[50] ^ 1]) + body[51:]), "hash"),
    "stalled": (lambda handler, body: handler.server.released.wait(5), "does not answer"),
    "a login page": (lambda handler, body: answer(handler, b"<html>please log in</html>"), "hash"),
}


@pytest.mark.parametrize(("trouble", "says"), TROUBLES.values(), ids=TROUBLES)
def test_after_each_trouble_nothing_is_left_and_a_retry_succeeds(server, trouble, says):
    server.troubles[FIRST] = [trouble, trouble]
    with pytest.raises(DataError, match=rf"^{FIRST} of mnist could not be fetched: 127\.0\.0\.1:\d+ ") as error:
        published.fetch("mnist")
    assert says in str(error.value)
    assert_one_clear_sentence(str(error.value))
    assert cache_content() == []
    server.troubles.clear()
    assert_fetch_now_works()


@pytest.mark.parametrize("name", ["503", "truncated", "one bit flipped"])
def test_what_may_pass_is_tried_once_more(server, name):
    server.troubles[FIRST] = [TROUBLES[name][0]]
    assert_fetch_now_works()


def test_a_refusal_is_not_asked_again(server):
    server.troubles[FIRST] = [TROUBLES["403"][0]] * 2
    with pytest.raises(DataError):
        published.fetch("mnist")
    assert len(server.asked) == 1


def test_every_mirror_is_tried_and_named(server):
    server.entry["mirrors"] = ["http://127.0.0.1:1/", server.url + "nowhere/", server.url]
    assert_fetch_now_works()
    server.troubles[FIRST] = [TROUBLES["404"][0]] * 2
    (paths.cache_folder() / "mnist" / FIRST).unlink()
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1 does not answer \(no network\?\); 127\.0\.0\.1:\d+ said 404"):
        published.fetch("mnist")


class BreakingFile(io.FileIO):
    """A file that takes 50 bytes, then fails."""

    trouble: BaseException

    def write(self, data):
        super().write(data[:50])
        assert Path(self.name).stat().st_size == 50
        raise self.trouble


@pytest.mark.parametrize(
    ("trouble", "raised", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            DataError,
            r"^The disk of .* is full, .* needs 0\.0 MB: free",
        ),
        (OSError(errno.EACCES, "Permission denied"), DataError, r"could not be written \(.*denied\): set DGM_CACHE"),
        (KeyboardInterrupt(), KeyboardInterrupt, r"^$"),
    ],
    ids=["full disk", "not writable", "interrupt"],
)
def test_a_write_that_breaks_off_leaves_nothing(server, monkeypatch, trouble, raised, says):
    with monkeypatch.context() as patch:
        patch.setattr(BreakingFile, "trouble", trouble, raising=False)
        patch.setattr("pooch.downloaders.open", BreakingFile, raising=False)
        with pytest.raises(raised, match=says) as error:
            published.fetch("mnist")
    if raised is DataError:
        assert_one_clear_sentence(str(error.value))
    assert cache_content() == []
    assert_fetch_now_works()


def test_a_damaged_file_in_the_cache_is_refused_and_replaced_on_request(server):
    published.fetch("mnist")
    (paths.cache_folder() / "mnist" / FIRST).write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged or of another set") as error:
        datasets.load("mnist")
    assert_one_clear_sentence(str(error.value))
    assert len(datasets.load("mnist", download=True).test) == N_TEST
    assert_fetch_now_works()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (FIRST, idx(N_TRAIN - 1, SIDE, SIDE), r"images of shape \(7, 1, 16, 16\), but the registry promises \(8, "),
        ("train-labels-idx1-ubyte.gz", idx(N_TRAIN - 1, high=10), r"8 images, but labels of shape \(7,\)"),
        ("t10k-labels-idx1-ubyte.gz", idx(N_TEST), r"the label \d+, but there are only 10 classes"),
        (FIRST, b"\1\2\3\4" * 9, rf"{FIRST} starts with 01 02 03 04"),
        (FIRST, idx(N_TRAIN, SIDE, SIDE)[:-1], "8 × 16 × 16 bytes after its header, but holds 2047"),
    ],
    ids=["too few images", "too few labels", "impossible label", "wrong magic number", "a byte short"],
)
def test_files_that_disagree_are_refused(server, name, content, says):
    contents = {**tiny_files(), name: content}
    server.files, entry = entry_of(contents, [server.url])
    server.entry.update(entry)
    with pytest.raises(DataError, match=says):
        datasets.load("mnist", download=True)


def test_unknown_names_and_impossible_splits_are_refused(server):
    with pytest.raises(ValueError, match=r"no published data set 'mnits'; there are: mnist$"):
        published.fetch("mnits")
    with pytest.raises(ValueError, match=r"validation is 8: .* below the 8 training images"):
        datasets.load("mnist", download=True, validation=N_TRAIN)


# ---- a mirror of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "mnist"])
@pytest.mark.parametrize("address", [str, Path.as_uri])
def test_a_local_folder_is_read_without_a_download(server, tmp_path, monkeypatch, folder, address):
    own = tmp_path / "my mirror"
    (own / folder).mkdir(parents=True)
    monkeypatch.setenv("DGM_DATA_MIRROR", address(own))
    assert not published.is_present("mnist")
    for name, content in tiny_files().items():
        (own / folder / name).write_bytes(gzip.compress(content, 1))
    assert published.is_present("mnist")
    assert len(datasets.load("mnist").test) == N_TEST
    assert cache_content() == []
    assert_fetch_now_works()  # fetching copies it into the cache
    assert server.asked == []


def test_an_address_is_asked_first(server, monkeypatch):
    monkeypatch.setenv("DGM_DATA_MIRROR", server.url + "own")
    assert_fetch_now_works()
    assert server.asked[:3] == [f"/own/mnist/{FIRST}", f"/own/{FIRST}", f"/{FIRST}"]


# ---- CIFAR-10 ------------------------------------------------------------------------------------------------------


def cifar_archive(members, mode):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name in sorted(members, reverse=True):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(members[name])
            archive.addfile(info, io.BytesIO(members[name]))
    return out.getvalue()


def test_cifar10_by_the_same_road(server, monkeypatch):
    batches = {name: bytes([i]) + bytes(3072) for i, name in enumerate(["data_1.bin", "data_2.bin", "test.bin"])}
    archive = cifar_archive(batches, "w:gz")
    hashes = {name: "md5:" + hashlib.md5(content).hexdigest() for name, content in batches.items()}
    file = {"name": "c.tar.gz", "bytes": len(archive), "archive": sha256(archive), "content": hashes}
    changes = {"shape": [3, 32, 32], "format": "cifar10", "train": 2, "test": 1, "validation": 1, "files": [file]}
    entry = {**server.entry, **changes}
    monkeypatch.setattr(published, "registry", lambda: {"cifar10": entry})
    server.files["c.tar.gz"] = cifar_archive({**batches, "data_2.bin": bytes([1]) + bytes(3071) + b"!"}, "w:xz")
    with pytest.raises(DataError, match="hash"):
        published.fetch("cifar10")
    server.files["c.tar.gz"] = cifar_archive(batches, "w:xz")  # packed anew, its members the same
    data = datasets.load("cifar10", download=True)
    assert [split.y.tolist() for split in (data.train, data.validation, data.test)] == [[0], [1], [2]]
    assert data.train.x.shape == (1, 3, 32, 32)


# ---- the real thing ------------------------------------------------------------------------------------------------


def test_the_registry_says_what_it_must():
    for name, entry in published.registry().items():
        assert datasets.MODULES[name] == "published"
        assert paths.card(name).partition("\n")[0].endswith(".")
        assert entry["licence"].split(",")[0] in paths.card(name)
        assert {"title", "paper", "shape", "levels"} <= set(entry)
        assert len(entry["classes"]) == 10
        assert len(entry["mirrors"]) >= 2
        assert all(re.fullmatch(r"https?://\S+/", mirror) for mirror in entry["mirrors"])
        assert len(entry["files"]) == (1 if entry["format"] == "cifar10" else 4)
        for file in entry["files"]:
            assert re.fullmatch("[0-9a-f]{64}", file["archive"])
            content = file.get("content", {})
            for known in content.values() if isinstance(content, dict) else [content]:
                assert re.fullmatch("md5:[0-9a-f]{32}|[0-9a-f]{64}", known)


@pytest.mark.skipif(not (OWN_MNIST / "mnist").is_dir(), reason="no folder ../shared/data with a copy of MNIST")
def test_the_real_mnist_from_a_local_mirror(monkeypatch, tmp_path):
    monkeypatch.setenv("DGM_DATA_MIRROR", str(OWN_MNIST))
    monkeypatch.setenv("DGM_CACHE", str(tmp_path))
    data = datasets.load("mnist")
    assert [tuple(split.x.shape) for split in (data.train, data.validation, data.test)] == [
        (50_000, 1, 28, 28),
        (10_000, 1, 28, 28),
        (10_000, 1, 28, 28),
    ]
    counts = sum(split.x.flatten().bincount(minlength=256) for split in (data.train, data.validation)).double()
    level = torch.linspace(0, 1, 256, dtype=torch.float64)
    mean = (counts * level).sum() / counts.sum()
    std = ((counts * (level - mean) ** 2).sum() / counts.sum()).sqrt()
    assert (round(mean.item(), 4), round(std.item(), 4)) == (0.1307, 0.3081)
    assert data.test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
