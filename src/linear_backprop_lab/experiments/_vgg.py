"""Figures 2, 3 and 4: VGG19 on CIFAR-10 over the paper's sweep; the figures share runs where settings coincide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset, load_images

from ._image_run import image_job
from ._job import Job
from ._scale import Scale
from ._sweep import PAPER_SIZE, Config, Size, at_the_best, grid

RECORDS = "vgg19"

_BACKPROP, _LINEAR = lb.Exact(), lb.Linear()

# The paper's learning rates move nothing within a hundred steps, and its smaller penalties are as good as none: at the
# small scales the rates are a hundred times higher, and two penalties stand for six.
_SIZES = {
    Scale.SMOKE: Size(
        train_images=64,
        held_out_images=32,
        test_images=32,
        epochs=1,
        learning_rates=(1e-2,),
        penalties=(1e-3,),
        seeds=2,
        long_epochs=2,
    ),
    Scale.CPU: Size(
        train_images=2560,
        held_out_images=500,
        test_images=1000,
        epochs=5,
        learning_rates=(1e-1, 1e-2, 1e-3),
        penalties=(1e-1, 1e-3),
        seeds=3,
        long_epochs=10,
    ),
    Scale.PAPER: replace(PAPER_SIZE, seeds=3, long_epochs=1000),
}
_WIDTHS = {Scale.SMOKE: 1 / 32, Scale.CPU: 1 / 8, Scale.PAPER: 1.0}


class _Sweeps:
    """The configurations at one scale, by activation and rule; with and without batch normalization each."""

    def __init__(self, root: Path, scale: Scale, data: ImageDataset) -> None:
        self.root, self.size, self.data = root, _SIZES[scale], data
        self._width = _WIDTHS[scale]

    def swept(self, activation: str, *rules: lb.BackwardRule) -> list[Config]:
        """The sweep of one activation."""
        models = [
            {
                "name": "vgg19",
                "width": self._width,
                "activation": activation,
                "pooling": "max",
                "batch_norm": normalized,
            }
            for normalized in (True, False)
        ]
        return grid(RECORDS, self.size, self.data, models, rules)

    def figure2_and_4(self) -> list[Config]:
        """Tanh under both rules: figure 4 shows all of them, figure 2 the best of each rule."""
        return self.swept("Tanh", _BACKPROP, _LINEAR)

    def figure3_left(self) -> list[Config]:
        """ReLU under Backprop and tanh under Linear; then, for much longer, each at its best with several seeds."""
        swept = self.swept("ReLU", _BACKPROP) + self.swept("Tanh", _LINEAR)
        return swept + at_the_best(self.root, swept, range(self.size.seeds), self.size.long_epochs)

    def figure3_right(self) -> list[Config]:
        """ReLU under both rules; then each at its best with further seeds."""
        swept = self.swept("ReLU", _BACKPROP, _LINEAR)
        return swept + at_the_best(self.root, swept, range(1, self.size.seeds), self.size.epochs)


def _jobs(configs: Callable[[_Sweeps], list[Config]]) -> Callable[[Path, Scale, Path | None, bool], list[Job]]:
    def jobs(root: Path, scale: Scale, data: Path | None, download: bool) -> list[Job]:
        sweeps = _Sweeps(root, scale, load_images(data, download=download))
        return [image_job(root, config, data, download) for config in configs(sweeps)]

    return jobs


def _figure3_size(scale: Scale, further_seeds: int) -> int:
    """How many runs either part of figure 3 is: two networks swept, each with and without batch normalization."""
    size = _SIZES[scale]
    return 4 * (len(size.learning_rates) * len(size.penalties) + further_seeds)


def figure3_left_size(scale: Scale) -> int:
    """Of the left part: every seed of it is trained for longer."""
    return _figure3_size(scale, _SIZES[scale].seeds)


def figure3_right_size(scale: Scale) -> int:
    """Of the right part: seed 0 is the sweep's."""
    return _figure3_size(scale, _SIZES[scale].seeds - 1)


figure2_jobs = figure4_jobs = _jobs(_Sweeps.figure2_and_4)
figure3_left_jobs = _jobs(_Sweeps.figure3_left)
figure3_right_jobs = _jobs(_Sweeps.figure3_right)
