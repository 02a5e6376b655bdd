"""Shifts and masks: every one of them is what it says, and all are as likely."""

from __future__ import annotations

import pytest
import torch

from dgm_lib.datasets.augmentation import masked, shifted


def moved(image, down, right):
    """One image (C, H, W) moved by hand, pixel by pixel."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                out[:, row, column] = image[:, row - down, column - right]
    return out


def test_each_image_is_moved_as_a_whole_and_all_moves_are_as_likely():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 4) + 1
    moves = [moved(image, down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    made = shifted(image.expand(9000, 2, 3, 4))
    counts = torch.stack([(made == move).flatten(1).all(1).sum() for move in moves])
    assert counts.sum() == 9000
    assert counts.min() > 850  # 1000 ± 30 of each
    assert counts.max() < 1150


def test_the_images_of_a_batch_stay_in_their_place():
    torch.manual_seed(0)
    x = torch.arange(1.0, 6).view(5, 1, 1, 1).expand(5, 1, 6, 6)
    assert shifted(x, 2)[:, 0, 3, 3].tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(shifted(x, 0), x)


def test_masks_take_a_share_of_the_pixels_and_their_channels():
    torch.manual_seed(0)
    x = torch.rand(500, 3, 8, 8) + 1
    y, known = masked(x, 0.3)
    assert known.shape == (500, 1, 8, 8)
    assert known.dtype == torch.bool
    assert known.float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(y, x * known)
    assert masked(x, 0.0)[1].all()
    assert not masked(x, 1.0)[1].any()


def test_bad_shifts_and_shares_are_refused():
    x = torch.rand(2, 1, 4, 6)
    for pixels in (-1, 4):
        with pytest.raises(ValueError, match=f"pixels is {pixels} for images of 4×6"):
            shifted(x, pixels)
    with pytest.raises(ValueError, match=r"expected images \(B, C, H, W\), got the shape \(2, 4\)"):
        shifted(x[:, 0, 0, :4])
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"it must lie in 0 … 1"):
            masked(x, share)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_type_are_taken(dtype):
    x = torch.ones(5, 2, 4, 6).to(dtype)
    assert shifted(x).dtype == masked(x)[0].dtype == dtype
    assert shifted(x[:0]).shape == masked(x[:0])[0].shape == (0, 2, 4, 6)


@pytest.mark.parametrize("shape", [(6, 8), (6,), (1, 4, 6)])
def test_points_are_no_images_whose_rows_could_be_kept_or_lost(shape):
    for use in (shifted, masked):
        with pytest.raises(ValueError, match=r"expected images \(B, C, H, W\)"):
            use(torch.rand(shape))
    with pytest.raises(ValueError, match=r"pixels is 0\.5"):
        shifted(torch.rand(2, 1, 4, 4), 0.5)
