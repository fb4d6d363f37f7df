"""The published archive of CIFAR-10's binary version: downloaded once, checked, extracted, kept."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pooch

from ._binary import FOLDER, TEST_FILES, TRAIN_FILES
from ._download import ResumingDownloader
from ._errors import DataError


@dataclass(frozen=True)
class Archive:
    """Where an archive is published, and the MD5 sum published beside it.

    Source:
        https://www.cs.toronto.edu/~kriz/cifar.html
    """

    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    md5: str = "c32a1d4ab5d03f1284b67883e8d87530"


def cache_folder() -> Path:
    """The operating system's cache for this project; `XDG_CACHE_HOME` moves it on Linux."""
    return Path(pooch.os_cache("linear-backprop"))


def fetch_cifar10(archive: Archive, cache: Path) -> Path:
    """Download and extract `archive` below `cache`; returns the extracted folder.

    A partial download is kept and continued by the next call; an archive that is there already and has the
    right hash is not downloaded again.

    Raises:
        Unreachable: The server cannot be reached or does not have the file.
        DataError: The download was cut off, has the wrong hash, lacks a file, or cannot be stored.
    """
    name = archive.url.rpartition("/")[2]
    pooch.get_logger().setLevel("WARNING")  # It says on stderr what it downloads; the bar does, too.
    try:
        path = pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}",
            fname=name,
            path=cache,
            # pooch's protocol gives a downloader the parameter names of a processor.
            downloader=ResumingDownloader(cache / f"{name}.part"),  # pyright: ignore[reportArgumentType]
        )
        return _extract(Path(path), cache)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(
            f"{archive.url} is not the published file: its MD5 sum is not {archive.md5}; "
            "it was removed, run again to download it anew"
        ) from error
    except OSError as error:
        raise DataError(
            f"{archive.url} cannot be stored below {cache} ({error}); make room, or give a folder"
        ) from error


def _extract(path: Path, cache: Path) -> Path:
    """Extract the data files of the archive to `cache`, all of them or none.

    Only the known files are read, and their bytes written under names of ours: no path, link or mode of the
    archive is followed. (`tarfile`'s own filters are not in every Python 3.11.)
    """
    folder = cache / FOLDER
    with tempfile.TemporaryDirectory(dir=cache, prefix=".extract-") as temporary:
        extracted = Path(temporary) / FOLDER
        extracted.mkdir()
        with tarfile.open(path) as archive:
            for name in TRAIN_FILES + TEST_FILES:
                _extract_member(archive, f"{FOLDER}/{name}", extracted / name)
        extracted.replace(folder)
    return folder


def _extract_member(archive: tarfile.TarFile, name: str, destination: Path) -> None:
    member = next((found for found in archive if found.name == name and found.isfile()), None)
    content = archive.extractfile(member) if member else None
    if content is None:
        raise DataError(f"{archive.name} lacks {name}; remove the archive and run again to download it anew")
    with content, destination.open("wb") as file:
        shutil.copyfileobj(content, file)
