"""A labelled set of small colour images, training and test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ._errors import DataError


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images and labels as they are stored: nothing is scaled, normalized or augmented.

    Attributes:
        name: "cifar10" or "digits".
        train_images: (N, 3, 32, 32) uint8, channels red, green, blue.
        train_labels: (N,) int64, indices into `classes`.
        test_images: (M, 3, 32, 32) uint8.
        test_labels: (M,) int64.
        classes: The name of every class.
        source: Where the images came from, in words a report can print; holds no path of a machine.
        held_out_images: (K, 3, 32, 32) uint8, taken from the training images to select settings on; None
            where nothing was held out.
        held_out_labels: (K,) int64; None with them.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    source: str
    held_out_images: Tensor | None = None
    held_out_labels: Tensor | None = None

    def outline(self) -> ImageDataset:
        """The set as far as its names and shapes go: tensors without content, on PyTorch's meta device."""
        return replace(
            self, **{name: value.to("meta") for name, value in vars(self).items() if isinstance(value, Tensor)}
        )

    def hold_out(self, count: int, seed: int = 0) -> ImageDataset:
        """The set with `count` of its training images held out, drawn as `subset` draws.

        Raises:
            DataError: `count` is below 1, or leaves no training image.
        """
        if not 1 <= count < len(self.train_labels):
            raise DataError(f"{count} images were to be held out; give a number from 1 to {len(self.train_labels) - 1}")
        held_out = _balanced(self.train_labels, count, seed, "held_out")
        kept = torch.ones_like(self.train_labels, dtype=torch.bool)
        kept[held_out] = False
        return replace(
            self,
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            held_out_images=self.train_images[held_out],
            held_out_labels=self.train_labels[held_out],
            source=f"{self.source}; {count:,} of the training images held out, drawn with seed {seed}",
        )

    def subset(self, train: int | None = None, test: int | None = None, *, seed: int = 0) -> ImageDataset:
        """A smaller set, its classes as even as can be, drawn at random without replacement.

        No class gets more than one image more than another, unless the other has none left. A smaller
        subset of the same seed lies within a larger one, but for the order, which is that of this set.

        Args:
            train: How many training images; None keeps all.
            test: How many test images; None keeps all.
            seed: Of the draw.

        Raises:
            DataError: A number is below 1 or above what there is.
        """
        kept_train = _balanced(self.train_labels, train, seed, "train")
        kept_test = _balanced(self.test_labels, test, seed, "test")
        return replace(
            self,
            train_images=self.train_images[kept_train],
            train_labels=self.train_labels[kept_train],
            test_images=self.test_images[kept_test],
            test_labels=self.test_labels[kept_test],
            source=f"{self.source}; {len(kept_train):,} of its {len(self.train_labels):,} training and "
            f"{len(kept_test):,} of its {len(self.test_labels):,} test images, drawn with seed {seed}",
        )


def _balanced(labels: Tensor, count: int | None, seed: int, argument: str) -> Tensor:
    """(count,) int64: increasing indices of a class-balanced draw from `labels`; all of them for None."""
    if count is None:
        return torch.arange(len(labels))
    if not 1 <= count <= len(labels):
        raise DataError(f"{argument}={count} images were asked for; give a number from 1 to {len(labels)}")
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    of_class = F.one_hot(labels[shuffled])
    rank_in_class = (of_class.cumsum(0) * of_class).sum(1)
    return shuffled[rank_in_class.argsort(stable=True)[:count]].sort().values
