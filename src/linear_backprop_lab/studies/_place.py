"""Where runs are made: the folder of their records, and where their images come from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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

    @cached_property
    def outlined(self) -> Place:
        """The same place to plan for: its images are read once, and known in outline alone."""
        return _Outlined(self.root, self.data, self.download)


class _Outlined(Place):
    """A place whose images have no content."""

    def images(self) -> ImageDataset:
        return self._outline

    @cached_property
    def _outline(self) -> ImageDataset:
        return super().images().outline()
