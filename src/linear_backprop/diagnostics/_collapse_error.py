"""The difference between collapsed gradients and the ordinary ones of the same rule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._collapse.collapse import collapse
from .._collapse.engine import CollapsibleRule
from .._conversion.convert import convert
from .._conversion.where import Where
from .._rules.elementwise import Linear
from .._rules.rule import LayerRule
from ._copy import copy_without_graphs
from ._gradients import LossFn, gradients_of


@torch.inference_mode(False)
def collapse_error(
    model: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    loss_fn: LossFn | None = None,
    rule: CollapsibleRule = Linear(),  # noqa: B008
    where: Where = None,
    layers: Iterable[LayerRule] = (),
) -> float:
    """The largest relative difference between the gradients of `collapse` and of `convert`, on one batch.

    For each parameter it is max |u - v| / max |v|, u being collapse's gradient and v convert's. A v that is zero but
    for rounding, a bias's below batch normalization for example, would make it large: max |v| counts as no less than
    sqrt(eps) times the largest of all parameters, eps being the dtype's. Rounding alone is about 1e-14 in float64 and
    1e-5 in float32; with such a v, 1e-8 and 1e-4. The model is left as it was: both gradients are taken on copies, with
    the same random numbers, and the collapsed pass is taken however small the batch is.

    Args:
        model: The model; a conversion that it is under does not count, nor a block around.
        inputs: The model's argument, or a tuple of its arguments.
        loss_fn: From the model's output to a scalar; by default the mean of its squares, halved.
        rule: As in `collapse`.
        where: As in `collapse`.
        layers: As in `collapse`.

    Raises:
        CollapseError: As at the first call of what `collapse` returns.
        LinearBackpropError: As in `collapse`; the model has no parameter that requires grad, or the loss is not a
            scalar.
        ConversionError: As in `convert`.
    """
    layers = tuple(layers)
    got = gradients_of(collapse(copy_without_graphs(model), rule, where, layers, always=True), inputs, loss_fn)
    ordinary = copy_without_graphs(model)
    convert(ordinary, rule, where, layers)
    expected = gradients_of(ordinary, inputs, loss_fn)
    largest = max(map(_largest, expected.values()))
    return max(_relative(got[name], v, largest) for name, v in expected.items())


def _relative(u: Tensor, v: Tensor, largest: float) -> float:
    difference = _largest(u - v)
    if difference == 0:
        return 0.0
    scale = max(_largest(v), torch.finfo(v.dtype).eps ** 0.5 * largest)
    return difference / scale if scale else math.inf


def _largest(gradient: Tensor) -> float:
    return gradient.abs().max().item() if gradient.numel() else 0.0
