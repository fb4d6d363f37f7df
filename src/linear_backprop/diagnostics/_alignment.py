"""The agreement of a rule's gradient with the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._conversion.convert import convert
from .._conversion.where import Where
from .._errors import require_module
from .._rules.rule import BackwardRule
from ._copy import copy_without_graphs
from ._gradients import LossFn, gradients_of


@dataclass(frozen=True)
class Alignment:
    """The cosine between two gradients of the same loss, and the ratio of their lengths.

    Attributes:
        cosine: <u, v> / (|u| |v|), over all parameters together; u is the rule's gradient and v Backprop's.
        by_parameter: The same per parameter, by the parameter's name. NaN where either is zero.
        norm_ratio: |u| / |v|.
        norms: (|u|, |v|) per parameter, by the parameter's name.
    """

    cosine: float
    by_parameter: dict[str, float]
    norm_ratio: float
    norms: dict[str, tuple[float, float]]


@torch.inference_mode(False)
def gradient_alignment(
    model: nn.Module,
    rule: BackwardRule,
    inputs: Tensor | tuple[Any, ...],
    loss_fn: LossFn | None = None,
    where: Where = None,
) -> Alignment:
    """Compare a rule's gradient with Backprop's on one batch.

    The model is left as it was: both gradients are taken on copies, with the same random numbers.

    Args:
        model: The model; a conversion that it is under does not count, nor a block around.
        rule: The rule to compare.
        inputs: The model's argument, or a tuple of its arguments.
        loss_fn: From the model's output to a scalar; by default the mean of its squares, halved.
        where: As in `convert`.

    Raises:
        LinearBackpropError: `model` is no module or has no parameter that requires grad, the batch is empty, `loss_fn`
            is no function of the output alone, or the loss is not a real scalar that depends on a parameter.
        ConversionError: As in `convert`.
    """
    require_module(model, "gradient_alignment", "a module that calls it")
    ruled = copy_without_graphs(model)
    convert(ruled, rule, where)
    true = gradients_of(copy_without_graphs(model), inputs, loss_fn)
    own = gradients_of(ruled, inputs, loss_fn)
    u, v = _flat(own), _flat(true)
    return Alignment(
        cosine=_cosine(u, v),
        by_parameter={name: _cosine(own[name].double().flatten(), true[name].double().flatten()) for name in own},
        norm_ratio=(u.norm() / v.norm()).item(),
        norms={name: (own[name].double().norm().item(), true[name].double().norm().item()) for name in own},
    )


def _flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.double().flatten() for gradient in gradients.values()])


def _cosine(u: Tensor, v: Tensor) -> float:
    return (u @ v / (u.norm() * v.norm())).item()
