"""Normalization by the sample: layer, group, instance and RMS normalization with their statistics as constants.

Legend: h = (a - mean) * scale * weight + bias, where mean and scale = 1 / sqrt(var + eps) are of a sample's own values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._catalogue.activations import with_kernels
from .._errors import CollapseError
from .._torch.functions import Function
from .rule import Arguments

MODULES: tuple[type[nn.Module], ...] = (
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)

_LAYER: Arguments = {"input": None, "normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5}
_RMS: Arguments = {"input": None, "normalized_shape": None, "weight": None, "eps": None}
_GROUP: Arguments = {"input": None, "num_groups": None, "weight": None, "bias": None, "eps": 1e-5}
_INSTANCE: Arguments = {
    **dict.fromkeys(("input", "running_mean", "running_var", "weight", "bias")),
    **{"use_input_stats": True, "momentum": 0.1, "eps": 1e-5},
}
_INSTANCE_BUILTIN: Arguments = dict.fromkeys(
    ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats", "momentum", "eps", "cudnn_enabled")
)
ARGUMENTS: dict[Function, Arguments] = {
    F.layer_norm: _LAYER,
    F.rms_norm: _RMS,
    F.group_norm: _GROUP,
    F.instance_norm: _INSTANCE,
    **with_kernels(
        {
            torch.layer_norm: _LAYER,
            torch.rms_norm: _RMS,
            torch.group_norm: _GROUP,
            torch.instance_norm: _INSTANCE_BUILTIN,
        }
    ),
}


def statistics(a: Tensor, given: Arguments) -> tuple[Tensor, Tensor]:
    """Mean and scale of each sample's values, of a shape that broadcasts against a; in float32 at least."""
    a = a.detach().to(torch.promote_types(a.dtype, torch.float32))
    if "normalized_shape" not in given:
        channels = a.shape[1]
        grouped = a.reshape(len(a), given.get("num_groups") or channels, -1)
        mean, scale = _mean_and_scale(grouped, [-1], given["eps"])
        shape = (len(a), channels, *(1,) * (a.dim() - 2))
        return tuple(s.repeat_interleave(channels // s.shape[1], 1).view(shape) for s in (mean, scale))  # pyright: ignore
    dims = list(range(-_dims(given), 0))
    if "bias" in given:
        return _mean_and_scale(a, dims, given["eps"])
    eps = torch.finfo(a.dtype).eps if given["eps"] is None else given["eps"]  # of the dtype that PyTorch computes in
    scale = (a.square().mean(dims, keepdim=True) + eps).rsqrt()
    return torch.zeros_like(scale), scale


def normalized(a: Tensor, given: Arguments, mean: Tensor, scale: Tensor) -> Tensor:
    """h, with the statistics as they are given.

    Raises:
        CollapseError: The statistics are of other samples than a's, as they are where a is a combination of samples.
    """
    if len(mean) != len(a):
        raise CollapseError(
            "normalization by the sample cannot be collapsed: its statistics are of the sample. Use batch "
            "normalization in eval mode, or collapse only what lies above it (`where=`)"
        )
    h = (a - mean) * scale
    per_channel = "normalized_shape" not in given
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        parameter = given.get(name)
        if parameter is not None:
            h = combine(h, parameter.view(-1, *(1,) * (a.dim() - 2)) if per_channel else parameter)
    return h


def _mean_and_scale(a: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(a, dims, correction=0, keepdim=True)
    return mean, (variance + eps).rsqrt()


def _dims(given: Arguments) -> int:
    shape = given["normalized_shape"]
    return 1 if isinstance(shape, int) else len(shape)
