"""Figures 2, 3 and 4: VGG19 on CIFAR-10 over the paper's sweep; the figures share runs where settings coincide.

And the same sweep under other choices of what the paper leaves open, and at the paper's learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset, load_images
from linear_backprop_lab.studies._job import Job
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies.images.run import image_job
from linear_backprop_lab.studies.images.sweep import PAPER_SIZE, Config, Size, Staged, grid

RECORDS = "vgg19"
OPEN_SETTINGS = "open-settings"
PAPER_RATE = "paper-rate"

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

# At the paper's largest learning rate: as many as minutes allow; at the paper's scale they are runs of figure 4.
_EPOCHS_AT_PAPER_RATE = {Scale.SMOKE: 2, Scale.CPU: 40, Scale.PAPER: PAPER_SIZE.epochs}

# What the paper does not say of figure 2 and others would have chosen otherwise, one at a time.
_OTHER_CHOICES: tuple[dict[str, Any], ...] = (
    {"initialization": "xavier"},
    {"initialization": "default"},
    {"augment": False},
)


class _Sweeps:
    """The configurations at one scale, by activation and rule; with and without batch normalization each."""

    def __init__(self, scale: Scale, data: ImageDataset) -> None:
        self.scale, self.size, self.data = scale, _SIZES[scale], data

    def swept(
        self,
        activation: str,
        *rules: lb.BackwardRule,
        experiment: str = RECORDS,
        size: Size | None = None,
        initialization: str = "he",
        augment: bool = True,
    ) -> list[Config]:
        """The sweep of one activation."""
        models = [
            {
                "name": "vgg19",
                "width": _WIDTHS[self.scale],
                "activation": activation,
                "pooling": "max",
                "initialization": initialization,
                "batch_norm": normalized,
            }
            for normalized in (True, False)
        ]
        return grid(experiment, size or self.size, self.data, models, rules, augment=augment)

    def figure2(self) -> Staged:
        """The runs of figure 4; then each rule at its best with further seeds."""
        return self._further_seeds(self._figure4(), self.size.epochs)

    def figure3_left(self) -> Staged:
        """ReLU under Backprop and tanh under Linear; then, for much longer, each at its best with several seeds."""
        swept = self.swept("ReLU", _BACKPROP) + self.swept("Tanh", _LINEAR)
        return Staged(swept=swept, seeds=range(self.size.seeds), epochs=self.size.long_epochs)

    def figure3_right(self) -> Staged:
        """ReLU under both rules; then each at its best with further seeds."""
        return self._further_seeds(self.swept("ReLU", _BACKPROP, _LINEAR), self.size.epochs)

    def figure4(self) -> Staged:
        """Tanh under both rules."""
        return Staged(swept=self._figure4())

    def open_settings(self) -> Staged:
        """The runs of figure 4, and the same under each of the other choices."""
        others = [self.swept("Tanh", _BACKPROP, _LINEAR, experiment=OPEN_SETTINGS, **other) for other in _OTHER_CHOICES]
        return Staged(swept=sum(others, self._figure4()))

    def paper_rate(self) -> Staged:
        """Tanh under both rules at the paper's largest learning rate alone, for longer; then with further seeds."""
        rates, epochs = PAPER_SIZE.learning_rates[:1], _EPOCHS_AT_PAPER_RATE[self.scale]
        experiment = RECORDS if self.scale is Scale.PAPER else PAPER_RATE
        size = replace(self.size, learning_rates=rates, epochs=epochs)
        return self._further_seeds(self.swept("Tanh", _BACKPROP, _LINEAR, experiment=experiment, size=size), epochs)

    def _figure4(self) -> list[Config]:
        return self.swept("Tanh", _BACKPROP, _LINEAR)

    def _further_seeds(self, swept: list[Config], epochs: int) -> Staged:
        """Seed 0 is the sweep's."""
        return Staged(swept=swept, seeds=range(1, self.size.seeds), epochs=epochs)


def _jobs(figure: Callable[[_Sweeps], Staged]) -> Callable[[Path, Scale, Path | None, bool], list[Job]]:
    def jobs(root: Path, scale: Scale, data: Path | None, download: bool) -> list[Job]:
        configs = figure(_Sweeps(scale, load_images(data, download=download))).configs(root)
        return [image_job(root, config, data, download) for config in configs]

    return jobs


def _awaited(figure: Callable[[_Sweeps], Staged]) -> Callable[[Path, Scale, Path | None, bool], int]:
    def awaited(root: Path, scale: Scale, data: Path | None, download: bool) -> int:
        return figure(_Sweeps(scale, load_images(data, download=download))).awaited(root)

    return awaited


figure2_jobs, figure2_awaited = _jobs(_Sweeps.figure2), _awaited(_Sweeps.figure2)
figure3_left_jobs, figure3_left_awaited = _jobs(_Sweeps.figure3_left), _awaited(_Sweeps.figure3_left)
figure3_right_jobs, figure3_right_awaited = _jobs(_Sweeps.figure3_right), _awaited(_Sweeps.figure3_right)
figure4_jobs = _jobs(_Sweeps.figure4)
open_settings_jobs = _jobs(_Sweeps.open_settings)
paper_rate_jobs, paper_rate_awaited = _jobs(_Sweeps.paper_rate), _awaited(_Sweeps.paper_rate)
