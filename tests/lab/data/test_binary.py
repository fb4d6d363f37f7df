"""Reading the published binary layout, through `load_images(folder)`, the way users reach it."""

import pickle
import re
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from lab.data.layout import FILE_BYTES, FILES, FOLDER, RECORD_BYTES, TRAIN_FILES

from linear_backprop_lab.data import DataError, ImageDataset, load_images


@pytest.fixture(scope="module")
def read(synthetic: Path) -> ImageDataset:
    return load_images(synthetic)


@pytest.fixture(scope="module")
def read_real(real: Path) -> ImageDataset:
    return load_images(real)


def test_shapes_and_dtypes(read: ImageDataset) -> None:
    assert read.name == "cifar10"
    assert read.train_images.shape == (50_000, 3, 32, 32)
    assert read.test_images.shape == (10_000, 3, 32, 32)
    assert read.train_images.dtype == read.test_images.dtype == torch.uint8
    assert read.train_labels.shape == (50_000,)
    assert read.test_labels.shape == (10_000,)
    assert read.train_labels.dtype == read.test_labels.dtype == torch.int64
    assert read.train_images.is_contiguous()


@pytest.mark.parametrize("index", [0, 9_999, 10_000, 31_415, 49_999])
def test_every_byte_of_a_record_is_where_the_format_says(read: ImageDataset, synthetic: Path, index: int) -> None:
    path = synthetic / FOLDER / TRAIN_FILES[index // 10_000]
    with path.open("rb") as file:
        file.seek(index % 10_000 * RECORD_BYTES)
        record = file.read(RECORD_BYTES)
    assert read.train_labels[index] == record[0]
    expected = [
        [[record[1 + 1024 * channel + 32 * row + column] for column in range(32)] for row in range(32)]
        for channel in range(3)
    ]
    assert read.train_images[index].tolist() == expected


def test_the_test_batch_is_the_test_set(read: ImageDataset, synthetic: Path) -> None:
    content = (synthetic / FOLDER / "test_batch.bin").read_bytes()
    assert bytes(read.test_labels.to(torch.uint8).tolist()) == content[::RECORD_BYTES]
    assert bytes(read.test_images[-1].flatten().tolist()) == content[-3072:]


def test_the_folder_itself_or_its_parent(read: ImageDataset, copied: Path) -> None:
    for folder in (copied, copied.parent):
        assert torch.equal(load_images(folder).test_images, read.test_images)


def test_the_source_names_no_path(read: ImageDataset, synthetic: Path) -> None:
    assert read.source == "CIFAR-10, read from the given folder"
    assert str(synthetic) not in read.source


def test_no_pickle_is_read(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **keywords: object) -> NoReturn:
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    load_images(synthetic)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; give the folder cifar-10-batches-bin"):
        load_images(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder(copied: Path) -> None:
    with pytest.raises(DataError, match=r"test_batch\.bin is not a folder; give"):
        load_images(copied / "test_batch.bin")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1\.bin is missing; put there .*cifar-10-binary"):
        load_images(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(DataError, match=re.escape(f"{copied / name} is missing; put there the {name} of")):
        load_images(copied)


@pytest.mark.parametrize("size", [0, 1, 3073, FILE_BYTES - 1])
def test_a_truncated_file(copied: Path, size: int) -> None:
    _replace(copied / "data_batch_3.bin", size)
    expected = rf"data_batch_3\.bin is truncated: {size:,} bytes in place of 30,730,000; replace it"
    with pytest.raises(DataError, match=expected):
        load_images(copied)


def test_a_file_that_is_too_long(copied: Path) -> None:
    _replace(copied / "data_batch_2.bin", FILE_BYTES + 1)
    with pytest.raises(DataError, match=r"data_batch_2\.bin is not a CIFAR-10 file: 30,730,001 bytes"):
        load_images(copied)


@pytest.mark.parametrize(("record", "label"), [(0, 10), (1234, 99), (9_999, 255)])
def test_a_label_above_nine(copied: Path, record: int, label: int) -> None:
    content = bytearray(FILE_BYTES)
    content[record * RECORD_BYTES] = label
    (copied / "data_batch_1.bin").unlink()
    (copied / "data_batch_1.bin").write_bytes(content)
    expected = rf"data_batch_1\.bin holds the label {label} in record {record}, not 0 to 9; replace it"
    with pytest.raises(DataError, match=expected):
        load_images(copied)


def test_the_real_classes_are_even(read_real: ImageDataset) -> None:
    assert read_real.train_labels.bincount().tolist() == [5000] * 10
    assert read_real.test_labels.bincount().tolist() == [1000] * 10
    assert read_real.classes[0] == "airplane"
    assert read_real.classes[9] == "truck"


def test_the_real_channels_have_the_published_statistics(read_real: ImageDataset) -> None:
    # The constants every CIFAR-10 recipe normalizes by: red, green, blue; four digits.
    channels = read_real.train_images.transpose(0, 1).flatten(1)
    levels = torch.arange(256, dtype=torch.float64) / 255
    for channel, mean, deviation in zip(channels, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), strict=True):
        share = channel.int().bincount(minlength=256) / channel.numel()
        measured_mean = (share * levels).sum().item()
        measured_variance = (share * levels**2).sum().item() - measured_mean**2
        assert measured_mean == pytest.approx(mean, abs=6e-5)
        assert measured_variance**0.5 == pytest.approx(deviation, abs=6e-5)


def _replace(path: Path, size: int) -> None:
    """Put `size` zero bytes in the place of a link."""
    path.unlink()
    with path.open("wb") as file:
        file.truncate(size)
