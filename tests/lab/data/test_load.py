"""Where `load_images` looks, in which order, and what it says about it."""

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lab.data.file_server import FileServer
from lab.data.layout import FILES, FOLDER, RECORD_BYTES

from linear_backprop_lab.data import DataError, ImageDataset, load_images
from linear_backprop_lab.data import _load as load_module
from linear_backprop_lab.data._archive import Archive, cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no variable, and no network: the proxy's port has no listener."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LINEAR_BACKPROP_DATA", raising=False)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    folder = cache_folder()
    assert folder.is_relative_to(tmp_path)
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("LINEAR_BACKPROP_DATA", raising=False)
        return load_images(download=False)


def test_the_variable_names_the_folder(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAR_BACKPROP_DATA", str(copied))
    data = load_images()
    assert data.source == "CIFAR-10, read from the folder in LINEAR_BACKPROP_DATA"
    assert len(data.train_labels) == 50_000


def test_the_given_folder_goes_before_the_variable(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAR_BACKPROP_DATA", "/nowhere")
    assert load_images(copied).source == "CIFAR-10, read from the given folder"


def test_a_home_directory_is_expanded(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(copied.parent))
    monkeypatch.setenv("USERPROFILE", str(copied.parent))
    assert load_images(Path("~") / FOLDER).name == "cifar10"


def test_a_wrong_folder_never_becomes_digits(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied / "data_batch_5.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_5\.bin is missing"):
        load_images(copied, download=False)
    monkeypatch.setenv("LINEAR_BACKPROP_DATA", str(copied))
    with pytest.raises(DataError, match=r"data_batch_5\.bin is missing.*variable LINEAR_BACKPROP_DATA"):
        load_images(download=False)


def test_the_cache_is_read_without_a_download(synthetic: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / FOLDER).symlink_to(synthetic / FOLDER)
    data = load_images(download=False)
    assert data.name == "cifar10"
    assert data.source == f"CIFAR-10, downloaded from {Archive().url}"


def test_a_damaged_cache_says_what_to_remove(copied: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (copied / "test_batch.bin").unlink()
    shutil.move(copied, cache / FOLDER)
    with pytest.raises(DataError, match=rf"test_batch\.bin is missing.*remove .*{FOLDER} and run again"):
        load_images()


def test_download_extract_and_read(server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTPS_PROXY")
    records = np.zeros((10_000, RECORD_BYTES), dtype=np.uint8)
    records[:, 0] = np.arange(10_000) % 10
    server.content = _archive_of(records.tobytes())
    archive = Archive(server.url, hashlib.md5(server.content).hexdigest())
    monkeypatch.setattr(load_module, "Archive", lambda: archive)
    data = load_images()
    assert data.source == f"CIFAR-10, downloaded from {server.url}"
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert torch.equal(load_images().train_labels, data.train_labels)
    assert len(server.ranges) == 1


def test_without_network_or_folder_it_is_digits_and_says_why(tmp_path: Path) -> None:
    data = load_images()
    assert data.name == "digits"
    assert data.source == (
        "scikit-learn's digits (8 x 8, enlarged to 32 x 32) in place of CIFAR-10: no folder was given, and "
        f"{Archive().url} could not be downloaded (no connection (ProxyError))"
    )


def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAR_BACKPROP_DATA", "")
    assert load_images(download=False).name == "digits"


def test_no_download_if_none_is_wanted(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "Archive", lambda: Archive(server.url))
    assert load_images(download=False).source.endswith("no folder was given and none was downloaded")
    assert server.ranges == []


def test_digits_have_the_form_of_cifar(digits: ImageDataset) -> None:
    assert digits.train_images.shape == (1500, 3, 32, 32)
    assert digits.test_images.shape == (297, 3, 32, 32)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_labels.dtype == torch.int64
    assert digits.classes == tuple("0123456789")


def test_digits_are_scikit_learns_and_each_is_in_one_part(digits: ImageDataset) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    expected = sorted(
        (int(label), *(int(level) for level in image.flatten()))
        for label, image in zip(bunch.target, bunch.images, strict=True)
    )
    # One pixel of every 4 x 4 block, and 255/16 levels a grey level.
    images = torch.cat([digits.train_images, digits.test_images])
    labels = torch.cat([digits.train_labels, digits.test_labels])
    levels = (images[:, 0, 1::4, 2::4].double() * 16 / 255).round().long()
    found = sorted((int(label), *image.flatten().tolist()) for label, image in zip(labels, levels, strict=True))
    assert found == expected
    blocks = images.view(-1, 3, 8, 4, 8, 4)
    assert torch.equal(blocks.amin((1, 3, 5)), blocks.amax((1, 3, 5)))


def test_both_parts_of_digits_hold_every_class_alike(digits: ImageDataset) -> None:
    train, test = digits.train_labels.bincount(), digits.test_labels.bincount()
    # One image of 30 a class is what rounding can move.
    assert ((train / 1500 - test / 297).abs() < 1 / 297).all()


def test_the_split_of_digits_is_fixed(digits: ImageDataset) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    again = load_images(download=False)
    assert torch.equal(again.train_images, digits.train_images)
    assert torch.equal(again.test_labels, digits.test_labels)


def _archive_of(batch: bytes) -> bytes:
    """The archive whose six files all hold `batch`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name in FILES:
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(batch)
            archive.addfile(member, io.BytesIO(batch))
    return buffer.getvalue()
