"""What the lab's training loop saves, against a plain PyTorch loop written the usual way.

    python benchmarks/bench_training.py [--width 0.125] [--images 2560] [--rounds 3] [--workers 0] [--fast]

Both train the same VGG19 with batch normalization and tanh for one epoch on the same images, with crops, flips and
vanilla SGD, batches of 128. The usual way is a `DataLoader` over a data set that augments and normalizes one image at a
time on the CPU, then an eager step in float32. The lab's loop keeps the images as bytes on the device and augments them
there in batches, channels last; with `--fast` also under autocast to bfloat16 and compiled. Its time includes its
metrics, its checkpoint and its record, as they come with it; an untimed epoch comes first on both sides. The ratio is
of the medians of the rounds, in which the two sides take turns.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path

import torch
from harness import markdown, medians, seconds, where_and_when
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.models import vgg19
from linear_backprop_lab.records import Run
from linear_backprop_lab.training import Recipe, train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, LEARNING_RATE, TEST_IMAGES = 128, 1e-3, 10
TARGET = 5.0 if DEVICE == "cuda" else 1.0


class Augmented(Dataset[tuple[Tensor, int]]):
    """What a user would write: one image at a time, cropped, mirrored and normalized."""

    def __init__(self, data: ImageDataset) -> None:
        self.images, self.labels = data.train_images, data.train_labels.tolist()
        pixels = self.images.float()
        self.mean, self.deviation = pixels.mean((0, 2, 3)).view(3, 1, 1), pixels.std((0, 2, 3)).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(3, 32, 32) float32, and the label."""
        top, left = torch.randint(9, (2,)).tolist()
        image = F.pad(self.images[index], (4,) * 4)[:, top : top + 32, left : left + 32]
        image = image.flip(2) if torch.rand(()) < 0.5 else image
        return (image - self.mean) / self.deviation, self.labels[index]


def usual(data: ImageDataset, width: float, workers: int) -> float:
    """Seconds an epoch of the loop that a user would write takes."""
    model = vgg19(width).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    loader = DataLoader(Augmented(data), BATCH, shuffle=True, num_workers=workers, pin_memory=DEVICE == "cuda")
    return seconds(lambda: usual_epoch(model, optimizer, loader))


def usual_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[tuple[Tensor, int]]) -> None:
    """One pass over the images."""
    for images, labels in loader:
        loss = F.cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def labs(data: ImageDataset, width: float, fast: bool) -> float:
    """Seconds an epoch of `train` takes: the last of two, so that compiling is not timed."""
    recipe = Recipe(
        epochs=2,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        precision="bf16" if fast else "float32",
        compile=fast,
    )
    with tempfile.TemporaryDirectory() as root:
        run = Run(Path(root), {"experiment": "bench"})
        train(vgg19(width), data, recipe, run, device=DEVICE)
        return run.metrics[-1]["seconds"]


def made_up(images: int) -> ImageDataset:
    """Images of noise: what they show makes no difference to the time."""
    pixels = torch.randint(0, 256, (images + TEST_IMAGES, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (images + TEST_IMAGES,))
    return ImageDataset(
        "noise", pixels[:images], labels[:images], pixels[images:], labels[images:], tuple("0123456789"), "noise"
    )


def main() -> None:
    """Print images a second of both loops, and whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    parser.add_argument("--fast", action="store_true", help="the lab's loop under autocast to bfloat16, compiled")
    arguments = parser.parse_args()

    data = made_up(arguments.images)
    sides = {
        "the usual loop": functools.partial(usual, data, arguments.width, arguments.workers),
        "the lab's": functools.partial(labs, data, arguments.width, arguments.fast),
    }
    taken = medians(sides, arguments.rounds)
    print(f"{where_and_when()}\n")
    mode = "autocast to bfloat16, compiled" if arguments.fast else "float32, eager"
    print(
        f"VGG19 with batch normalization, width {arguments.width:g}, {arguments.images} images an epoch, "
        f"{arguments.workers} workers, the lab's in {mode}, median of {arguments.rounds} rounds\n"
    )
    rates = [arguments.images / each for each in taken.values()]
    print(
        markdown(("loop", "images a second"), [(name, f"{rate:.0f}") for name, rate in zip(taken, rates, strict=True)])
    )
    ratio = rates[1] / rates[0]
    state = "met" if ratio >= TARGET else "MISSED"
    print(f"\nTarget on {DEVICE}: at least {TARGET:g} times the usual loop's; {ratio:.2f}: {state}")


if __name__ == "__main__":
    main()
