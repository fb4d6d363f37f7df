"""What a collapsed model may consist of between its activations, and how samples are combined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._errors import CollapseError
from ._layers import LayerRule
from ._where import Predicate

_MAXIMUM = (
    "which input it takes depends on the sample",
    "give it a linear rule (`layers=LINEAR_LAYERS`), use average pooling, or collapse only what lies above it",
)
_STATISTICS = (
    "its statistics are of the sample",
    "use batch normalization in eval mode, or collapse only what lies above it",
)
_ATTENTION = ("it multiplies activations with each other", "collapse only what lies above it (`where=`)")

_REFUSED: dict[type[nn.Module], tuple[str, str]] = {
    **dict.fromkeys(
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), _MAXIMUM
    ),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), _MAXIMUM),
    **dict.fromkeys((nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d, nn.LPPool1d, nn.LPPool2d), _MAXIMUM),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d), _STATISTICS),
    **dict.fromkeys((nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin), _STATISTICS),
    **dict.fromkeys((nn.MultiheadAttention, nn.Bilinear, nn.GLU), _ATTENTION),
    **dict.fromkeys((nn.RNNBase, nn.RNNCellBase), _ATTENTION),
    nn.Embedding: (
        "its input is an index, and indices cannot be combined",
        "collapse only what lies above it (`where=`)",
    ),
}


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
        found = next((why for cls, why in _REFUSED.items() if isinstance(module, cls)), None)
        found = found or _in_this_mode(module)
        if found is not None:
            reason, remedy = found
            what = f"{type(module).__name__} at {path or 'the model'!r}"
            raise CollapseError(f"{what} cannot be collapsed: {reason}. {remedy[0].upper()}{remedy[1:]}")


def _in_this_mode(module: nn.Module) -> tuple[str, str] | None:
    normalizes = isinstance(module, nn.modules.batchnorm._NormBase)  # pyright: ignore[reportPrivateUsage]
    if normalizes and (module.training or module.running_mean is None):
        return (
            "its statistics are of the batch",
            "give it a linear rule (`layers=LINEAR_LAYERS`), or put it in eval mode (`module.eval()`), with running "
            "statistics",
        )
    drops = isinstance(module, nn.modules.dropout._DropoutNd)  # pyright: ignore[reportPrivateUsage]
    if drops and module.training and module.p > 0:
        return (
            "it drops other units for every sample",
            "give it a linear rule (`layers=LINEAR_LAYERS`), put it in eval mode, or set p=0",
        )
    return None


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
