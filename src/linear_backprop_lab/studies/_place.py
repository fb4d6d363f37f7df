"""Where runs are made: the folder of their records, and where their images come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from linear_backprop_lab.data import ImageDataset, load_images


@dataclass(frozen=True)
class Place:
    """Where runs are made; it holds no images, so that it travels to other processes.

    Attributes:
        root: The folder all records lie in.
        data: The folder of CIFAR-10; None to look for it, and to take digits in its place.
        download: Whether CIFAR-10 may be downloaded.
    """

    root: Path
    data: Path | None = None
    download: bool = False

    def images(self) -> ImageDataset:
        """CIFAR-10, or digits in its place."""
        return load_images(self.data, download=self.download)
