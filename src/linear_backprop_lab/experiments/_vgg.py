"""Figures 2, 3 and 4: VGG19 on CIFAR-10 over the paper's sweep; the figures share runs where settings coincide.

And the same sweep under other choices of what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset, load_images

from ._image_run import image_job
from ._job import Job
from ._scale import Scale
from ._sweep import PAPER_SIZE, Config, Size, at_the_best, grid

RECORDS = "vgg19"
OPEN_SETTINGS = "open-settings"

_BACKPROP, _LINEAR = lb.Exact(), lb.Linear()

# The paper's learning rates move nothing within two hundred steps, and its smaller penalties are as good as none: at
# the small scales the rates are a hundred times higher, and two penalties stand for six.
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
        train_images=3840,
        held_out_images=1000,
        test_images=2000,
        epochs=6,
        learning_rates=(1e-1, 1e-2, 1e-3),
        penalties=(1e-1, 1e-3),
        seeds=3,
        long_epochs=12,
    ),
    Scale.PAPER: replace(PAPER_SIZE, long_epochs=1000),
}
_WIDTHS = {Scale.SMOKE: 1 / 32, Scale.CPU: 1 / 8, Scale.PAPER: 1.0}

# What the paper does not say of figure 2 and others would have chosen otherwise, one at a time.
_OTHER_CHOICES: tuple[dict[str, Any], ...] = (
    {"initialization": "xavier"},
    {"initialization": "default"},
    {"augment": False},
)


class _Sweeps:
    """The configurations at one scale, by activation and rule; with and without batch normalization each."""

    def __init__(self, root: Path, scale: Scale, data: ImageDataset) -> None:
        self.root, self.size, self.data = root, _SIZES[scale], data
        self._width = _WIDTHS[scale]

    def swept(
        self,
        activation: str,
        *rules: lb.BackwardRule,
        experiment: str = RECORDS,
        initialization: str = "he",
        augment: bool = True,
    ) -> list[Config]:
        """The sweep of one activation."""
        models = [
            {
                "name": "vgg19",
                "width": self._width,
                "activation": activation,
                "pooling": "max",
                "initialization": initialization,
                "batch_norm": normalized,
            }
            for normalized in (True, False)
        ]
        return grid(experiment, self.size, self.data, models, rules, augment=augment)

    def figure4(self) -> list[Config]:
        """Tanh under both rules."""
        return self.swept("Tanh", _BACKPROP, _LINEAR)

    def figure2(self) -> list[Config]:
        """The runs of figure 4; then each rule at its best with further seeds."""
        return self._further_seeds(self.figure4())

    def figure3_left(self) -> list[Config]:
        """ReLU under Backprop and tanh under Linear; then, for much longer, each at its best with several seeds."""
        swept = self.swept("ReLU", _BACKPROP) + self.swept("Tanh", _LINEAR)
        return swept + at_the_best(self.root, swept, range(self.size.seeds), self.size.long_epochs)

    def figure3_right(self) -> list[Config]:
        """ReLU under both rules; then each at its best with further seeds."""
        return self._further_seeds(self.swept("ReLU", _BACKPROP, _LINEAR))

    def open_settings(self) -> list[Config]:
        """The runs of figure 4, and the same under each of the other choices."""
        others = [self.swept("Tanh", _BACKPROP, _LINEAR, experiment=OPEN_SETTINGS, **other) for other in _OTHER_CHOICES]
        return sum(others, self.figure4())

    def _further_seeds(self, swept: list[Config]) -> list[Config]:
        return swept + at_the_best(self.root, swept, range(1, self.size.seeds), self.size.epochs)


def _jobs(configs: Callable[[_Sweeps], list[Config]]) -> Callable[[Path, Scale, Path | None, bool], list[Job]]:
    def jobs(root: Path, scale: Scale, data: Path | None, download: bool) -> list[Job]:
        sweeps = _Sweeps(root, scale, load_images(data, download=download))
        return [image_job(root, config, data, download) for config in configs(sweeps)]

    return jobs


def _size(scale: Scale, seeds: int) -> int:
    """How many runs a figure is: two networks and rules swept, each with and without batch normalization."""
    size = _SIZES[scale]
    return 4 * (len(size.learning_rates) * len(size.penalties) + seeds)


def figure2_size(scale: Scale) -> int:
    """Of figure 2, and of figure 3's right part: seed 0 is the sweep's."""
    return _size(scale, _SIZES[scale].seeds - 1)


def figure3_left_size(scale: Scale) -> int:
    """Of figure 3's left part: every seed of it is trained for longer."""
    return _size(scale, _SIZES[scale].seeds)


figure2_jobs = _jobs(_Sweeps.figure2)
figure3_left_jobs = _jobs(_Sweeps.figure3_left)
figure3_right_jobs = _jobs(_Sweeps.figure3_right)
figure3_right_size = figure2_size
figure4_jobs = _jobs(_Sweeps.figure4)
open_settings_jobs = _jobs(_Sweeps.open_settings)
