"""Streaming from files: the same examples as in memory, each once an epoch, in an order that follows from the seed."""

import inspect
import re
import weakref

import numpy as np
import pytest
import torch

from dgm_lib import datasets, runtime
from dgm_lib.datasets import core, stream, streaming

N = 1000
ROW_MB = 3 * 4 / 2**20  # a row of (3, 2, 2) bytes


@pytest.fixture
def files(tmp_path):
    """1,000 rows whose first two pixels count, with labels that count as well."""
    x = np.zeros((N, 3, 2, 2), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = np.arange(N) // 256, np.arange(N) % 256
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(N))
    return tmp_path / "x.npy", tmp_path / "y.npy"


def number(x):
    """Which row each image of a batch is, read from its pixels."""
    return ((x[:, 0, 0, 0] * 256 + x[:, 0, 0, 1]) * 255).round().long()


def epoch(batches):
    xs, ys = zip(*batches)
    return torch.cat([number(x) for x in xs]), torch.cat(ys)


# 7 rows a block: many blocks, the last one short; a batch of 64 is larger than a buffer of four such blocks
@pytest.mark.parametrize("block_mb", [7 * ROW_MB, 16])
@pytest.mark.parametrize("batch_size", [1, 10, 64, 5000])
def test_every_example_comes_exactly_once_with_its_label(files, block_mb, batch_size):
    batches = stream(*files, block_mb=block_mb).batches(batch_size)
    for _ in range(2):
        rows, labels = epoch(batches)
        torch.testing.assert_close(rows, labels)
        torch.testing.assert_close(labels.sort().values, torch.arange(N))


def test_unshuffled_it_equals_the_split_in_memory(files):
    streamed = stream(*files, block_mb=7 * ROW_MB)
    in_memory = core.Split(streamed.x[:], streamed.y[:], 256)
    for shape in ({"batch_size": 30}, {"batch_size": 30, "drop_last": True}):
        pairs = list(
            zip(streamed.batches(**shape, shuffle=False), in_memory.batches(**shape, shuffle=False), strict=True)
        )
        assert len(pairs) == len(streamed.batches(**shape)) == len(in_memory.batches(**shape))
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_interface_is_that_of_a_split():
    parameters = inspect.signature(core.Split.batches).parameters
    assert inspect.signature(streaming.StreamedSplit.batches).parameters == parameters
    public = {name for name in dir(core.Batches) if not name.startswith("_")}
    assert public <= set(dir(streaming.StreamedBatches))


def test_batches_have_the_size_that_was_asked_for(files):
    sizes = [len(y) for _, y in stream(*files, block_mb=7 * ROW_MB).batches(64)]
    assert sizes == [64] * 15 + [40]
    sizes = [len(y) for _, y in stream(*files, block_mb=7 * ROW_MB).batches(64, drop_last=True)]
    assert sizes == [64] * 15


def test_the_order_follows_from_seed_and_epoch(files):
    def order(seed, number, loops=1):
        batches = stream(*files, block_mb=7 * ROW_MB).batches(9, seed=seed)
        batches.set_epoch(number)
        return [epoch(batches)[0].tolist() for _ in range(loops)]

    assert order(3, 0, loops=3) == [*order(3, 0), *order(3, 1), *order(3, 2)]
    several = [*order(0, 0, loops=3), *order(1, 0, loops=3), sorted(order(0, 0)[0])]
    assert len(set(map(tuple, several))) == len(several)


def test_shuffling_mixes_within_and_among_blocks(files):
    rows, _ = epoch(stream(*files, block_mb=100 * ROW_MB).batches(50))
    first = rows[: streaming.BLOCKS_TOGETHER * 100]
    blocks = first // 100
    assert len(blocks.unique()) == streaming.BLOCKS_TOGETHER  # whole blocks are read …
    assert (
        len(blocks[:50].unique()) == streaming.BLOCKS_TOGETHER
    )  # … and one batch has rows of each (1 in 10^6 has not)
    assert not torch.equal(blocks.unique(), torch.arange(streaming.BLOCKS_TOGETHER))


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_an_epoch_without_overlap(files, monkeypatch, shuffle):
    shares = []
    monkeypatch.setattr(runtime, "n_processes", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        batches = stream(*files, block_mb=7 * ROW_MB).batches(10, seed=1, shuffle=shuffle)
        rows, labels = epoch(batches)
        torch.testing.assert_close(rows, labels)
        shares.append(rows)
        assert len(list(batches)) == len(batches) == 34
    assert [len(share) for share in shares] == [333] * 3
    assert len(torch.cat(shares).unique()) == 999


def test_indexing_gives_tensors_in_memory_and_leaves_the_file_alone(files):
    split = stream(*files)
    before = files[0].read_bytes()
    assert (len(split), split.x.shape, split.x.dtype, split.levels) == (N, (N, 3, 2, 2), torch.uint8, 256)
    chosen = torch.tensor([999, 0, 5])
    assert split.y[chosen].tolist() == [999, 0, 5]
    assert split.x[7].shape == (3, 2, 2)
    assert split.y[-1] == 999
    mask = torch.arange(N) % 2 == 0
    taken = split.take(mask)
    assert isinstance(taken, core.Split)
    torch.testing.assert_close(taken.y, torch.arange(0, N, 2))
    taken.x.zero_()
    assert files[0].read_bytes() == before


def test_transforms_and_data_that_are_not_pixels(files, tmp_path):
    x, _ = next(iter(stream(*files).batches(4, shuffle=False, transform=datasets.dequantize(256))))
    assert (x[:, 0, 0, 1] * 256).floor().tolist() == [0, 1, 2, 3]
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    split = stream(tmp_path / "points.npy", levels=None)
    x, y = next(iter(split.batches(50, shuffle=False)))
    np.testing.assert_array_equal(x.numpy(), points)
    assert y.tolist() == [-1] * 50
    assert split.take(slice(3)).y.tolist() == [-1] * 3


def test_no_map_is_held(files, monkeypatch):
    maps, open_memmap = [], np.lib.format.open_memmap

    def remembered(*args, **options):
        array = open_memmap(*args, **options)
        maps.append(weakref.ref(array))
        return array

    monkeypatch.setattr(np.lib.format, "open_memmap", remembered)
    for x, _ in stream(files[0], block_mb=7 * ROW_MB).batches(10, transform=lambda x: x):
        assert len(x) == 10
        assert not any(array() is not None for array in maps)
    assert len(maps) > N / 7


def save(array, path):
    np.save(path, array, allow_pickle=True)


def save_zip(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize(
    ("write", "levels", "says"),
    [
        (lambda path: path.write_bytes(b"x,y\n1,2\n"), 256, r"x\.npy is not a whole \.npy file .*numpy\.save"),
        (lambda path: path.write_bytes(b""), 256, r"is not a whole \.npy file"),
        (lambda path: save_zip(path), 256, r"is not a whole \.npy file"),
        (lambda path: save(np.array([{}, None]), path), 256, r"is not a whole \.npy file .*objects"),
        (
            lambda path: save(np.zeros((3, 2)), path),
            256,
            r"float64 of shape \(3, 2\): pixels are saved as numpy\.uint8",
        ),
        (
            lambda path: save(np.zeros((3, 2)), path),
            None,
            r"float64 of shape \(3, 2\): points are saved as numpy\.float32",
        ),
        (lambda path: save(np.zeros(3, ">f4"), path), None, r">f4 of shape \(3,\)"),
        (lambda path: save(np.uint8(3), path), 256, r"uint8 of shape \(\)"),
    ],
    ids=["text", "empty", "npz", "pickled objects", "floats as pixels", "float64", "foreign byte order", "scalar"],
)
def test_files_that_cannot_be_streamed_are_refused(tmp_path, write, levels, says):
    write(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=says):
        stream(tmp_path / "x.npy", levels=levels)


def test_truncated_files_and_labels_that_disagree_are_refused(files, tmp_path):
    x, y = files
    np.save(y, np.arange(N - 1))
    with pytest.raises(ValueError, match=rf"x\.npy has 1000 rows, but {re.escape(str(y))} has shape \(999,\)$"):
        stream(x, y)
    np.save(y, np.arange(N).astype(np.int32))
    with pytest.raises(ValueError, match=r"int32 of shape \(1000,\): labels are saved as numpy\.int64"):
        stream(x, y)
    x.write_bytes(x.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is not a whole \.npy file"):
        stream(x)
    with pytest.raises(FileNotFoundError):
        stream(tmp_path / "nowhere.npy")


def test_impossible_batches_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="batch_size is 0: it must be a whole number ≥ 1"):
        stream(*files).batches(0)
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="0 examples cannot be shared by 1 processes"):
        stream(tmp_path / "none.npy").batches(1)
