from collections import Counter

import pytest
import torch

from linear_backprop_lab.data import DataError, ImageDataset

TRAIN_COUNTS = {0: 50, 1: 30, 2: 5}


@pytest.fixture
def images() -> ImageDataset:
    """Uneven classes; the first two pixels of an image hold its index, so that it can be told apart."""
    labels = torch.cat([torch.full((count,), label) for label, count in TRAIN_COUNTS.items()])
    numbered = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    numbered[:, 0, 0, 0] = torch.arange(len(labels))
    return ImageDataset("digits", numbered, labels, numbered[:20], labels[40:60], ("a", "b", "c"), "made")


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [0, 0, 1]),
        (6, [2, 2, 2]),
        (14, [4, 5, 5]),
        (25, [5, 10, 10]),
        (66, [5, 30, 31]),
        (85, [5, 30, 50]),
    ],
)
def test_classes_are_as_even_as_can_be(images: ImageDataset, count: int, expected: list[int]) -> None:
    drawn = Counter(images.subset(train=count).train_labels.tolist())
    assert sorted(drawn.get(label, 0) for label in TRAIN_COUNTS) == expected


def test_images_keep_their_labels_and_none_is_drawn_twice(images: ImageDataset) -> None:
    subset = images.subset(train=30, test=7, seed=4)
    indices = subset.train_images[:, 0, 0, 0].long()
    assert indices.unique().numel() == 30
    assert torch.equal(images.train_labels[indices], subset.train_labels)
    assert subset.train_images.dtype == torch.uint8
    assert subset.test_images.shape == (7, 3, 32, 32)
    assert subset.test_labels.shape == (7,)


def test_the_seed_decides_the_draw(images: ImageDataset) -> None:
    drawn = [images.subset(train=30, seed=seed).train_images for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_smaller_subset_lies_within_a_larger(images: ImageDataset) -> None:
    small, large = (set(images.subset(train=count, seed=2).train_images[:, 0, 0, 0].tolist()) for count in (10, 40))
    assert small < large


def test_none_keeps_everything_in_order(images: ImageDataset) -> None:
    subset = images.subset(test=3)
    assert torch.equal(subset.train_images, images.train_images)
    assert torch.equal(subset.train_labels, images.train_labels)


def test_the_source_says_what_was_drawn(images: ImageDataset) -> None:
    subset = images.subset(train=30, test=7, seed=4)
    assert subset.source == "made; 30 of its 85 training and 7 of its 20 test images, drawn with seed 4"
    assert images.source == "made"


@pytest.mark.parametrize(("argument", "count", "most"), [("train", 86, 85), ("train", 0, 85), ("test", -1, 20)])
def test_more_than_there_is_or_nothing_is_an_error(images: ImageDataset, argument: str, count: int, most: int) -> None:
    with pytest.raises(DataError, match=f"{argument}={count} images .* from 1 to {most}"):
        images.subset(**{argument: count})


def test_held_out_images_are_the_others(images: ImageDataset) -> None:
    split = images.hold_out(14, seed=2)
    assert split.held_out_images is not None and split.held_out_labels is not None
    held_out, kept = split.held_out_images[:, 0, 0, 0].long(), split.train_images[:, 0, 0, 0].long()
    assert sorted([*held_out.tolist(), *kept.tolist()]) == list(range(85))
    assert torch.equal(images.train_labels[held_out], split.held_out_labels)
    assert torch.equal(images.train_labels[kept], split.train_labels)
    assert sorted(Counter(split.held_out_labels.tolist()).values()) == [4, 5, 5]
    assert torch.equal(split.test_images, images.test_images)
    assert split.source == "made; 14 of the training images held out, drawn with seed 2"
    assert images.held_out_images is None


@pytest.mark.parametrize("count", [0, 85])
def test_holding_out_nothing_or_everything_is_refused(images: ImageDataset, count: int) -> None:
    with pytest.raises(DataError, match=f"{count} images were to be held out; give a number from 1 to 84"):
        images.hold_out(count)
