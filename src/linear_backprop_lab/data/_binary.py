"""CIFAR-10 in its published binary layout: five training files and one test file of 10,000 records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._errors import DataError
from ._images import ImageDataset

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_ARCHIVE = "CIFAR-10's binary version, cifar-10-binary.tar.gz"
_RECORDS = 10_000
_IMAGE_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32


def read_cifar10(folder: Path, source: str) -> ImageDataset:
    """Read CIFAR-10 from its binary files.

    A record is one label byte and 3,072 pixel bytes: red, then green, then blue, each row by row.

    Args:
        folder: `cifar-10-batches-bin`, or the folder it lies in.
        source: What the data set says of where it came from.

    Raises:
        DataError: The folder or a file of it is missing, has the wrong size, or holds a label above 9.

    Source:
        "Binary version", https://www.cs.toronto.edu/~kriz/cifar.html
    """
    folder = cifar10_folder(folder)
    train_images, train_labels = _read_files(folder, TRAIN_FILES)
    test_images, test_labels = _read_files(folder, TEST_FILES)
    return ImageDataset("cifar10", train_images, train_labels, test_images, test_labels, CLASSES, source)


def cifar10_folder(folder: Path) -> Path:
    """The folder of CIFAR-10's binary files: `folder`, or `cifar-10-batches-bin` in it.

    Raises:
        DataError: The folder or a file of it is missing, or has the wrong size.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {problem}; give the folder {FOLDER} or the one it lies in")
    found = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    for name in TRAIN_FILES + TEST_FILES:
        _check_size(found / name)
    return found


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing; put there the {path.name} of {_ARCHIVE}")
    size, expected = path.stat().st_size, _RECORDS * _RECORD_BYTES
    if size != expected:
        problem = "truncated" if size < expected else "not a CIFAR-10 file"
        raise DataError(
            f"{path} is {problem}: {size:,} bytes in place of {expected:,}; replace it by the {path.name} of {_ARCHIVE}"
        )


def _read_files(folder: Path, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of the files one after another."""
    records = np.concatenate([_read_file(folder / name) for name in names])
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, *_IMAGE_SHAPE)
    return torch.from_numpy(images), torch.from_numpy(records[:, 0].astype(np.int64))


def _read_file(path: Path) -> np.ndarray:
    """(10000, 3073) uint8: a label and an image a row."""
    records = np.fromfile(path, np.uint8).reshape(_RECORDS, _RECORD_BYTES)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if wrong.size:
        raise DataError(
            f"{path} holds the label {records[wrong[0], 0]} in record {wrong[0]}, not 0 to 9; "
            f"replace it by the {path.name} of {_ARCHIVE}"
        )
    return records
