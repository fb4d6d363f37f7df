"""Scikit-learn's handwritten digits in the form of CIFAR-10: what is there without network or folder."""

from __future__ import annotations

import numpy as np
import torch

from ._images import ImageDataset

_TEST_IMAGES = 297
_SIDE = 8
_ENLARGEMENT = 4
_BRIGHTEST = 16


def load_digits(why: str) -> ImageDataset:
    """1,500 training and 297 test images of the ten digits, class by class the same share of both.

    The 8 x 8 images are enlarged to 32 x 32 by repeating pixels, their 17 grey levels spread over 0 to 255,
    and the one channel is repeated three times. The split is fixed.

    Args:
        why: Why CIFAR-10 is not used; `source` says it.

    Source:
        Optical Recognition of Handwritten Digits (UCI), as embedded in scikit-learn.
    """
    # Imported here because it takes a second, and few runs come here.
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, digits = load(return_X_y=True)
    small = np.rint(pixels.reshape(-1, _SIDE, _SIDE) * (255 / _BRIGHTEST)).astype(np.uint8)
    grey = small.repeat(_ENLARGEMENT, axis=1).repeat(_ENLARGEMENT, axis=2)
    images = torch.from_numpy(grey).unsqueeze(1).repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=_TEST_IMAGES, stratify=labels, random_state=0)
    return ImageDataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple("0123456789"),
        source=f"scikit-learn's digits (8 x 8, enlarged to 32 x 32) in place of CIFAR-10: {why}",
    )
