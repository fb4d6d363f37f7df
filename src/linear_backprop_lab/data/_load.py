"""The images of the experiments, from the first place that has them."""

from __future__ import annotations

import os
from pathlib import Path

from ._archive import Archive, cache_folder, fetch_cifar10
from ._binary import FOLDER, read_cifar10
from ._digits import load_digits
from ._download import Unreachable
from ._errors import DataError
from ._images import ImageDataset

VARIABLE = "LINEAR_BACKPROP_DATA"


def load_images(folder: Path | None = None, *, download: bool = True) -> ImageDataset:
    """CIFAR-10 if it can be had, scikit-learn's digits if not; `source` says which, and why.

    In this order: `folder`; the folder in the environment variable `LINEAR_BACKPROP_DATA`; what an earlier
    download left in the cache; the published archive (170 MB); digits. A folder that is named must be right:
    nothing else is taken in its place.

    Args:
        folder: `cifar-10-batches-bin`, or the folder it lies in.
        download: Whether the archive may be downloaded.

    Raises:
        DataError: A named folder is missing or damaged, or a download was cut off or has the wrong hash.
    """
    if folder is not None:
        return read_cifar10(folder.expanduser(), "CIFAR-10, read from the given folder")
    if named := os.environ.get(VARIABLE):
        return _read_named_by_variable(Path(named).expanduser())
    cached = cache_folder() / FOLDER
    if cached.is_dir():
        return _read_cached(cached)
    if not download:
        return load_digits("no folder was given and none was downloaded")
    return _download_or_digits()


def _read_named_by_variable(folder: Path) -> ImageDataset:
    try:
        return read_cifar10(folder, f"CIFAR-10, read from the folder in {VARIABLE}")
    except DataError as error:
        raise DataError(f"{error} (the folder is from the environment variable {VARIABLE})") from error


def _read_cached(folder: Path) -> ImageDataset:
    try:
        return read_cifar10(folder, f"CIFAR-10, downloaded from {Archive().url}")
    except DataError as error:
        raise DataError(f"{error}, or remove {folder} and run again to have it made anew") from error


def _download_or_digits() -> ImageDataset:
    archive = Archive()
    try:
        return _read_cached(fetch_cifar10(archive, cache_folder()))
    except Unreachable as error:
        return load_digits(f"no folder was given, and {archive.url} could not be downloaded ({error})")
