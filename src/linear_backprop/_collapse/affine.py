"""What a collapsed model may consist of between its activations, and how samples are combined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._catalogue.not_elementwise import is_affine_in_this_mode, row_of
from .._conversion.where import Predicate
from .._errors import CollapseError
from .._rules.rule import LayerRule


def refuse_what_is_not_affine(model: nn.Module, selects: Predicate | None, layers: Sequence[LayerRule]) -> None:
    """Refuse every module of PyTorch's own whose backward pass depends on the sample.

    Args:
        model: The model.
        selects: Which modules are to be collapsed; None for all.
        layers: Rules for layers; what they govern is not refused.

    Raises:
        CollapseError: Names the module's path, why, and what to do.
    """
    governed = tuple(module for layer in layers for module in layer.modules)
    for path, module in model.named_modules():
        if isinstance(module, governed) or (selects is not None and not selects(path, module)):
            continue
        row = row_of(module)
        if row is not None and not is_affine_in_this_mode(module):
            what = f"{type(module).__name__} at {path or 'the model'!r}"
            reason, remedy = row.in_collapse.reason, row.in_collapse.remedy
            raise CollapseError(f"{what} cannot be collapsed: {reason}. {remedy[0].upper()}{remedy[1:]}")


def mix(weights: Tensor, z: Tensor, leading: int) -> Tensor:
    """Combine samples: weights @ z over z's `leading` sample dimensions.

    Args:
        weights: Shape (rows, samples).
        z: Shape (*samples, *features), any layout in memory; channels_last is kept.
        leading: How many dimensions count samples.

    Returns:
        Shape (rows, 1, ..., 1, *features), with `leading` dimensions before the features; z's dtype.
    """
    last = z.dim() == 4 and leading == 1 and z.is_contiguous(memory_format=torch.channels_last)
    z = z.permute(0, 2, 3, 1) if last else z
    flat = z.reshape(z.shape[:leading].numel(), -1)
    mixed = (weights.to(z.dtype) @ flat).view(len(weights), *(1,) * (leading - 1), *z.shape[leading:])
    return mixed.permute(0, 3, 1, 2) if last else mixed
