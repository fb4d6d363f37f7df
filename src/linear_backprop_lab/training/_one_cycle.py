"""A recipe whose learning rate rises once and falls to nothing: a short training's schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class OneCycle(Recipe):
    """A recipe whose learning rate rises linearly to `learning_rate` and then falls linearly, its last step next to 0.

    Attributes:
        images: How many training images there are.
        rise: The part of all steps in which it rises.
    """

    images: int
    rise: float = 0.2

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer, which counts its steps in its state and so goes on where a killed attempt stopped."""
        optimizer = super().optimizer_for(model)
        for group in optimizer.param_groups:
            group["steps_done"] = 0
        optimizer.register_step_pre_hook(self._set_learning_rate)
        return optimizer

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            group["steps_done"] += 1
            group["lr"] = self.learning_rate_at(group["steps_done"])

    def learning_rate_at(self, step: int) -> float:
        """Of a step, counted from 1."""
        steps = self.steps(self.images)
        peak = max(1, round(self.rise * steps))
        return self.learning_rate * min(step / peak, (steps + 1 - step) / (steps + 1 - peak))
