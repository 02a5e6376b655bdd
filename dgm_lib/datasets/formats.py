"""The two file formats of the published image sets: IDX, and CIFAR-10's binary records. Nothing is ever unpickled."""

from __future__ import annotations

import gzip
import math
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BYTES = 0x08  # the code of unsigned bytes in an IDX header, the only type that images come in
RECORD = 1 + 3 * 32 * 32  # CIFAR-10: the label, then the red, green and blue plane, each row by row


class DataError(RuntimeError):
    """Data that are missing, damaged or out of reach; the message says what to do."""


def read_idx(path: Path) -> Tensor:
    """The array of bytes in an IDX file, compressed with gzip or not: uint8, of the shape that its header states.

    The header: two zero bytes, the type, the number of axes, and the length of each axis as a big-endian 32-bit
    integer (LeCun, Cortes & Burges 1998). Raises DataError if the file is not IDX or its length disagrees with it.
    """
    content = decompressed(path)
    axes = content[3] if len(content) > 3 else 0
    if content[:3] != bytes([0, 0, BYTES]) or axes == 0:
        start = content[:4].hex(" ") or "nothing"
        raise DataError(f"{path.name} starts with {start}, but an IDX file of bytes starts with 00 00 08 0n")
    start = 4 + 4 * axes
    shape = np.frombuffer(content[4:start].ljust(4 * axes, b"\0"), ">u4").tolist()
    if len(content) != start + math.prod(shape):
        promised = " × ".join(map(str, shape))
        raise DataError(f"{path.name} promises {promised} bytes after its header, but holds {len(content[start:])}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def read_cifar10(path: Path, members: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of CIFAR-10's binary version (Krizhevsky 2009).

    path: a file of records, or a tar (compressed or not) whose `members`, by file name, are such files. They are
    read out of the tar: no path in it is ever written to. Raises DataError for whatever is not made of records.
    """
    if not members:
        return _records(path.read_bytes(), path.name)
    parts = {name: _records(content, name) for name, content in members_of(path, members)}
    images, labels = zip(*(parts[name] for name in members))
    return torch.cat(images), torch.cat(labels)


def _records(content: bytes, name: str) -> tuple[Tensor, Tensor]:
    if not content or len(content) % RECORD:
        raise DataError(f"{name} has {len(content)} bytes, not a multiple of {RECORD}: these are no CIFAR-10 records")
    records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, RECORD).copy())
    labels = records[:, 0].long()
    if labels.max() > 9:
        raise DataError(f"{name} has the label {labels.max()}, but CIFAR-10 has 0 to 9: it is not the binary version")
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), labels


def decompressed(path: Path) -> bytes:
    """The content of a file: what gzip compressed if it starts as gzip does, whatever its name, else the file itself.

    Some servers decompress on the way, so that a file named .gz arrives plain.
    """
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be decompressed ({error}): it is truncated or damaged") from error


def members_of(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Pairs (file name, content) of the regular files of a tar that have one of these names, as they stand in it.

    Nothing is extracted to disk. Raises DataError if the tar is damaged or, at its end, if it lacks one of the names.
    """
    found = []
    try:
        with tarfile.open(path) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                found.append(Path(member.name).name)
                if found[-1] in names:
                    yield found[-1], archive.extractfile(member).read()
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        why = str(error).partition("\n")[0].rstrip(":")
        raise DataError(f"{path.name} cannot be read as a tar ({why}): it is truncated or damaged") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{path.name} has no {missing[0]}, only {', '.join(found) or 'nothing'}: CIFAR-10's binary version is "
            f"needed, the one for Python is pickled and is never read"
        )
