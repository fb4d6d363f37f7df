"""What torchrun starts in `test_torchrun.py`: a run made together, one made alone, one that fails."""

import sys
from functools import partial
from pathlib import Path

import torch
import torch._dynamo
from lab.sweeps.tiny import STEPS, data, tiny_job
from rich.console import Console
from torch import nn

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import Job
from linear_backprop_lab.sweeps import EngineName, Sweep, choose_engine, follow, follows, leading
from linear_backprop_lab.training import Recipe, train

# 64 images: the last batch has 10, and a share of a batch 9, 8 or 5.
RECIPE = Recipe(epochs=3, batch_size=18, learning_rate=0.1, momentum=0.9, augment=True)


def shared_job(root: Path) -> Job:
    run = Run(root, {"experiment": "together"})
    return Job(run, "together", STEPS, partial(make_together, run), shared=True)


def make_together(run: Run, on_step) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    train(model, data(), RECIPE, run, on_step=on_step)


def main(root: Path) -> None:
    if follows():
        return follow()
    jobs = [shared_job(root), tiny_job(root, 0)]
    with leading():
        assert Sweep.of(jobs).perform(choose_engine(EngineName.LOCAL), Console(quiet=True)) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
