"""Batches of images made on the device: uint8 in memory, normalised and augmented a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Normalizer:
    """Maps uint8 images to float32 with mean 0 and standard deviation 1 a channel over `images`.

    Args:
        images: The training images the statistics are taken of, uint8 (N, channels, height, width).
    """

    def __init__(self, images: Tensor) -> None:
        per_channel = images.transpose(0, 1).flatten(1).double()
        mean, deviation = per_channel.mean(dim=1), per_channel.std(dim=1).clamp_min(1.0)
        self._mean = mean.float().view(1, -1, 1, 1)
        self._deviation = deviation.float().view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """(images - mean) / deviation: uint8 (N, C, H, W) -> float32 of the same shape."""
        return (images - self._mean) / self._deviation


def random_crop_and_flip(images: Tensor, padding: int = 4) -> Tensor:
    """Pad every image with black, crop it back at a random offset, and mirror every other one by chance.

    The offsets come from PyTorch's CPU generator, so that every device sees the same batches.

    Args:
        images: (N, C, H, W), any dtype.
        padding: Pixels of black on every side.

    Returns:
        A tensor of the shape, dtype and device of `images`.
    """
    number, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, number, 1))
    mirrored = torch.rand(number, 1) < 0.5
    columns = torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width)) + left
    rows = torch.arange(height) + top
    return padded[
        torch.arange(number, device=images.device).view(-1, 1, 1, 1),
        torch.arange(channels, device=images.device).view(1, -1, 1, 1),
        rows.to(images.device).view(number, 1, height, 1),
        columns.to(images.device).view(number, 1, 1, width),
    ]
