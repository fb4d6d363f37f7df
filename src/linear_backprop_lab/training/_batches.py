"""Batches of images made on the device: uint8 in memory, normalised and augmented a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Normalizer:
    """Maps uint8 images to float32 with mean 0 and standard deviation 1 a channel over `images`.

    Args:
        images: The training images the statistics are taken of, uint8 (N, channels, height, width).

    Attributes:
        mean: Of each channel, float32 (1, channels, 1, 1).
        deviation: The standard deviation of each channel, at least 1, of the same shape.
    """

    def __init__(self, images: Tensor) -> None:
        per_channel = images.transpose(0, 1).flatten(1).double()
        mean, deviation = per_channel.mean(dim=1), per_channel.std(dim=1).clamp_min(1.0)
        self.mean = mean.float().view(1, -1, 1, 1)
        self.deviation = deviation.float().view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """(images - mean) / deviation: uint8 (N, C, H, W) -> float32 of the same shape."""
        return (images - self.mean) / self.deviation


def draw_crops(number: int, padding: int = 4) -> Tensor:
    """Draw how each of `number` images is cropped and mirrored, for `crop_and_flip`.

    From PyTorch's CPU generator, so that every device sees the same batches; an epoch's at once, so that nothing
    travels to the device in between.

    Returns:
        (number, 3) int64: rows and columns cut off at the top and left, in 0 to 2 * padding, and 1 to mirror or 0.
    """
    offsets = torch.randint(2 * padding + 1, (number, 2))
    return torch.cat([offsets, torch.randint(2, (number, 1))], dim=1)


def crop_and_flip(images: Tensor, crops: Tensor, padding: int = 4) -> Tensor:
    """Pad every image with black, crop it back to its size, and mirror it, as `crops` says.

    Args:
        images: (N, C, H, W), any dtype.
        crops: (N, 3), of `draw_crops` with this padding, on the images' device.
        padding: Pixels of black on every side.

    Returns:
        A tensor of the shape, dtype and device of `images`.
    """
    number, channels, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4)
    top, left, mirrored = crops.split(1, dim=1)
    across = torch.arange(width, device=device)
    columns = torch.where(mirrored == 1, across.flip(0), across) + left
    rows = torch.arange(height, device=device) + top
    return padded[
        torch.arange(number, device=device).view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        rows.view(number, 1, height, 1),
        columns.view(number, 1, 1, width),
    ]
