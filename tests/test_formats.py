"""The readers of IDX and of CIFAR-10's binary records, on small files that each test writes itself."""

import gzip
import io
import pickle
import struct
import tarfile

import pytest
import torch

from dgm_lib.datasets.formats import DataError, read_cifar10, read_idx


def idx(shape, content=None, start=b"\0\0\x08"):
    """An IDX file, written by hand: the header that the format's description states, then the bytes."""
    content = bytes(i % 256 for i in range(torch.Size(shape).numel())) if content is None else content
    return start + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


def records(n, label=lambda i: i % 10):
    return b"".join(bytes([label(i)]) + bytes((i + j) % 256 for j in range(3072)) for i in range(n))


def tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_idx_gives_every_byte_in_its_place(tmp_path, shape, compress):
    (tmp_path / "f.gz").write_bytes(compress(idx(shape)))
    x = read_idx(tmp_path / "f.gz")
    assert x.dtype == torch.uint8
    torch.testing.assert_close(x, torch.arange(x.numel(), dtype=torch.uint8).reshape(shape))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (idx((2, 3), start=b"\0\0\x0d"), "00 00 0d 02"),  # floats
        (b"<!DOCTYPE html><html>", "3c 21 44 4f"),  # an error page
        (idx(()), "00 00 08 00"),
        (b"", "starts with nothing"),
        (idx((2, 3), b"12345"), "2 × 3 bytes after its header, but holds 5"),
        (idx((2, 3), b"1234567"), "2 × 3 bytes after its header, but holds 7"),
        (idx((2, 3), b"")[:-2], "but holds 0"),
        (gzip.compress(idx((2, 3)), mtime=0)[:-12], "truncated or damaged"),
        (gzip.compress(idx((2, 3)), mtime=0)[:12] + b"junk" * 9, "truncated or damaged"),
    ],
)
def test_idx_refuses_what_is_not_whole(tmp_path, content, says):
    path = tmp_path / "train-images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^train-images\.gz ") as error:
        read_idx(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_cifar10_reads_labels_and_colour_planes(tmp_path):
    (tmp_path / "data.bin").write_bytes(records(3))
    x, y = read_cifar10(tmp_path / "data.bin")
    assert (x.shape, x.dtype, y.dtype) == ((3, 3, 32, 32), torch.uint8, torch.int64)
    assert y.tolist() == [0, 1, 2]
    channel, row, column = 2, 5, 7  # byte 1024·channel + 32·row + column of the image, which is that number plus i
    assert x[1, channel, row, column] == (1 + 1024 * channel + 32 * row + column) % 256


def test_cifar10_reads_a_tar_in_the_order_asked_for_and_writes_nothing(tmp_path):
    first, second = records(2, lambda i: 1), records(1, lambda i: 7)
    path = tar(tmp_path / "c.tar.gz", {"../../b.bin": second, "/etc/a.bin": first, "readme": b"hello"})
    x, y = read_cifar10(path, ["a.bin", "b.bin"])
    assert y.tolist() == [1, 1, 7]
    assert len(x) == 3
    assert list(tmp_path.iterdir()) == [path]


class Trap:
    """Unpickling this would raise Sprung."""

    def __reduce__(self):
        return exec, ("raise KeyboardInterrupt('unpickled')",)


@pytest.mark.parametrize("size", [None, 2 * 3073])
def test_cifar10_never_unpickles(tmp_path, size):
    content = pickle.dumps({"data": Trap()})
    content = content if size is None else content.ljust(size, b".")
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=r"not a multiple of 3073|label 128.*not the binary version"):
        read_cifar10(tmp_path / "data_batch_1")
    path = tar(tmp_path / "cifar-10-python.tar.gz", {"cifar-10-batches-py/data_batch_1": content})
    with pytest.raises(DataError, match=r"no data_batch_1\.bin, only data_batch_1.*never read"):
        read_cifar10(path, ["data_batch_1.bin"])


def test_cifar10_refuses_a_damaged_tar(tmp_path):
    path = tar(tmp_path / "c.tar.gz", {"a.bin": records(9)})
    for content in (path.read_bytes()[:-40], b"no tar at all"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"^c\.tar\.gz cannot be read as a tar .*truncated or damaged$"):
            read_cifar10(path, ["a.bin"])


def test_cifar10_does_not_follow_links_in_a_tar(tmp_path):
    path = tmp_path / "c.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"no a\.bin"):
        read_cifar10(path, ["a.bin"])
