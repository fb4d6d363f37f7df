"""Figures 2, 3 and 4: VGG19 on CIFAR-10 over the paper's sweep; the figures share runs where settings coincide.

And a first look at a part of it, the same sweep under other choices of what the paper leaves open, and at the paper's
learning rate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Config, Plan
from linear_backprop_lab.studies.images.sweep import PAPER_SIZE, SIZES, Size, Staged, grid

RECORDS = "vgg19"
FIRST_LOOK = "images"
OPEN_SETTINGS = "open-settings"
PAPER_RATE = "paper-rate"

_BACKPROP, _LINEAR = lb.Exact(), lb.Linear()

# Of figure 3's left part.
_LONG_EPOCHS = {Scale.SMOKE: 2, Scale.CPU: 12, Scale.PAPER: 1000}
_WIDTHS = {Scale.SMOKE: 1 / 32, Scale.CPU: 1 / 8, Scale.PAPER: 1.0}

# Minutes of the default command: nothing held out, a single penalty. The paper's scale has no other.
_GLANCE = Size(
    train_images=3840,
    held_out_images=0,
    test_images=1000,
    epochs=4,
    learning_rates=(0.002, 0.02),
    penalties=(0.0,),
)
_GLANCES = {
    Scale.SMOKE: replace(_GLANCE, train_images=64, test_images=32, epochs=1),
    Scale.CPU: _GLANCE,
    Scale.PAPER: _GLANCE,
}
_GLANCE_WIDTHS = {**_WIDTHS, Scale.PAPER: _WIDTHS[Scale.CPU]}

# At the paper's largest learning rate: as many as minutes allow; at the paper's scale they are runs of figure 4.
_EPOCHS_AT_PAPER_RATE = {Scale.SMOKE: 2, Scale.CPU: 40, Scale.PAPER: PAPER_SIZE.epochs}

# What the paper does not say of figure 2 and others would have chosen otherwise, one at a time.
_OTHER_CHOICES: tuple[dict[str, Any], ...] = (
    {"initialization": "xavier"},
    {"initialization": "default"},
    {"augment": False},
)


class Sweeps:
    """The runs of every figure at one scale; those with and without batch normalization."""

    def __init__(self, scale: Scale, data: ImageDataset) -> None:
        self.scale, self.size, self.data = scale, SIZES[scale], data
        self.further_seeds = range(1, self.size.seeds)

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
        models = _models(width=_WIDTHS[self.scale], activation=activation, initialization=initialization)
        return grid(experiment, size or self.size, self.data, models, rules, augment=augment)

    def first_look(self) -> Staged:
        """Tanh under both rules at two learning rates, for a few epochs."""
        size, models = _GLANCES[self.scale], _models(width=_GLANCE_WIDTHS[self.scale], activation="Tanh")
        rules = (_BACKPROP, _LINEAR)
        return Staged(swept=grid(FIRST_LOOK, size, self.data, models, rules, augment=False, diagnostics=False))

    def figure2(self) -> Staged:
        """The runs of figure 4; then each rule at its best with further seeds."""
        return replace(self.figure4(), seeds=self.further_seeds)

    def figure3_left(self) -> Staged:
        """ReLU under Backprop and tanh under Linear; then, for much longer, each at its best with several seeds."""
        swept = self.swept("ReLU", _BACKPROP) + self.swept("Tanh", _LINEAR)
        return Staged(swept=swept, seeds=range(self.size.seeds), epochs=_LONG_EPOCHS[self.scale])

    def figure3_right(self) -> Staged:
        """ReLU under both rules; then each at its best with further seeds."""
        return Staged(swept=self.swept("ReLU", _BACKPROP, _LINEAR), seeds=self.further_seeds)

    def figure4(self) -> Staged:
        """Tanh under both rules."""
        return Staged(swept=self.swept("Tanh", _BACKPROP, _LINEAR))

    def open_settings(self) -> Staged:
        """The runs of figure 4, and the same under each of the other choices."""
        others = [self.swept("Tanh", _BACKPROP, _LINEAR, experiment=OPEN_SETTINGS, **other) for other in _OTHER_CHOICES]
        return Staged(swept=[*self.figure4().swept, *itertools.chain(*others)])

    def paper_rate(self) -> Staged:
        """Tanh under both rules at the paper's largest learning rate alone, for longer; then with further seeds."""
        rates, epochs = PAPER_SIZE.learning_rates[:1], _EPOCHS_AT_PAPER_RATE[self.scale]
        experiment = RECORDS if self.scale is Scale.PAPER else PAPER_RATE
        size = replace(self.size, learning_rates=rates, epochs=epochs)
        swept = self.swept("Tanh", _BACKPROP, _LINEAR, experiment=experiment, size=size)
        return Staged(swept=swept, seeds=self.further_seeds)


def _models(**settings: Any) -> list[Config]:
    return [{"name": "vgg19", "pooling": "max", "batch_norm": normalized, **settings} for normalized in (True, False)]


def plan_of(figure: Callable[[Sweeps], Staged]) -> Callable[[Place, Scale], Plan]:
    """The plan of a figure's experiment."""
    return lambda place, scale: figure(Sweeps(scale, place.images())).plan(place.root)
