"""Published transfer attacks that change the backward pass."""

from __future__ import annotations

import torch
from torch import nn

from .._conversion.where import Where
from .._conversion.where import after as after_path
from .._rules.elementwise import Exact, Linear, Surrogate
from .._rules.rule import BackwardRule, LayerRule
from .._rules.softened_maximum import SoftenedMaximum
from ._iterative import IterativeFGSM, Ruled


class LinBP(IterativeFGSM):
    """LinBP: I-FGSM whose backward pass takes every activation after one layer for linear.

    The activations after `after`, in the order in which the model defines them, follow `Linear`; the others keep their
    derivatives, or the rule of a conversion that the model is under already. Where a block runs one ReLU several times,
    Guo et al. make single runs linear: give `IterativeFGSM` `rule=Linear()` and `where=calls(...)`. Source: Guo et al.
    (2020).

    Args:
        model: As in `IterativeFGSM`, like all that follow `after`.
        eps: The largest change of a pixel.
        alpha: A step's.
        steps: How many steps.
        after: The path of a module, such as "features.23"; "" is none, so that every activation is linear.
        momentum: The decay of the sum of earlier gradients.
        random_start: True to start anywhere within eps.
        targeted: True where labels are the classes to reach.
        generator: Of the random start.

    Raises:
        LinearBackpropError: The model has no module at that path, or as in `IterativeFGSM`.
        ConversionError: There is no activation after it.

    Examples:
        >>> model = nn.Sequential(
        ...     nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
        ... ).eval()
        >>> adversarial = lb.attacks.LinBP(model, after="2")(torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        *,
        after: str,
        momentum: float = 0.0,
        random_start: bool = False,
        targeted: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            model,
            eps,
            alpha,
            steps,
            momentum=momentum,
            random_start=random_start,
            targeted=targeted,
            rule=Linear(),
            where=after_path(after),
            generator=generator,
        )


class BPA(LinBP):
    """BPA: I-FGSM with SiLU's derivative for the activations' after one layer, and a softmax's for max pooling's.

    The activations after `after` follow `Surrogate("silu")`, all max pooling of the model `SoftenedMaximum(10.0)`; the
    other activations keep their derivatives, also under a conversion that the model is under already. Source: Wang et
    al. (2023), arXiv 2306.12685.

    Args:
        model: As in `IterativeFGSM`, like all that follow `after`.
        eps: The largest change of a pixel.
        alpha: A step's.
        steps: How many steps.
        after: The path of a module, such as "layer3.0"; "" is none, so that every activation has SiLU's derivative.
        momentum: The decay of the sum of earlier gradients.
        random_start: True to start anywhere within eps.
        targeted: True where labels are the classes to reach.
        generator: Of the random start.

    Raises:
        LinearBackpropError: The model has no module at that path, or as in `IterativeFGSM`.
        ConversionError: There is no activation after it.

    Examples:
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        ... ).eval()
        >>> adversarial = lb.attacks.BPA(model, after="1")(torch.rand(2, 3, 6, 6), torch.tensor([0, 1]))
    """

    def _rules(self, rule: BackwardRule | None, where: Where, layers: tuple[LayerRule, ...]) -> list[Ruled]:
        return [Ruled(Exact(), layers=(SoftenedMaximum(10.0),)), Ruled(Surrogate("silu"), where)]
