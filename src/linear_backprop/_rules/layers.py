"""The linear rules of layers that are not elementwise.

Legend: `a` is what the layer gets, `h` what it makes of it, `g` the cotangent of h.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._call import Call
from .._catalogue.activations import functions_named, with_kernels
from .._errors import LinearBackpropError
from .._torch.functions import Function, batch_norm_and_statistics
from .._torch.recording import in_plain_code
from . import sample_statistics
from .pooling import AdaptiveWindows, Windows
from .rule import Arguments, LayerRule

WINDOW_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_WINDOWS: Arguments = {
    "input": None,
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "return_indices": False,
}
_SIZES: Arguments = {"input": None, "output_size": None, "return_indices": False}


def _pooling(name: str, arguments: Arguments) -> dict[Function, Arguments]:
    """The functions of that name for 1 to 3 dimensions of positions."""
    return {
        function: {**arguments, "dims": dims}
        for dims in (1, 2, 3)
        for ending in ("", "_with_indices")
        for function in functions_named(name.format(dims) + ending)
    }


@dataclass(frozen=True)
class AveragedMaximum(LayerRule):
    """Max pooling whose backward pass is average pooling's: every position of a window receives its share of g.

    The shares are 1/n, n being how many positions of the window lie inside the input: max pooling's padding is
    -inf, which never is the maximum, so it has no share either. Dilation and `ceil_mode` make the same windows. A
    window with no position inside, which dilation can make, sends nothing. Adaptive max pooling has the backward
    pass of adaptive average pooling. Where indices are returned they are the maximum's, as before; only
    the values follow the rule. The same at ties, infinities and NaN. Source: as for `Linear`.

    Examples:
        >>> x = torch.tensor([[1.0, 3.0, 2.0, 5.0]], requires_grad=True)
        >>> with lb.backward_rule(layers=[lb.AveragedMaximum()]):
        ...     F.max_pool1d(x, 2).sum().backward()
        >>> x.grad
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """

    formula = "g / n to each of the n positions of a window, as in average pooling"
    source = "Linear Backprop, for max pooling"
    modules = (
        nn.MaxPool1d,
        nn.MaxPool2d,
        nn.MaxPool3d,
        nn.AdaptiveMaxPool1d,
        nn.AdaptiveMaxPool2d,
        nn.AdaptiveMaxPool3d,
    )
    arguments: ClassVar[dict[Function, Arguments]] = {
        **_pooling("max_pool{}d", _WINDOWS),
        **_pooling("adaptive_max_pool{}d", _SIZES),
    }

    def linear_map(self, call: Call, constants: tuple[Tensor, ...]) -> Tensor:
        """The average over each window."""
        return windows_of(self.bound(call)).average(call.input)

    def transpose(self, call: Call) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Average pooling's backward kernel, where there is one for such windows."""
        windows = windows_of(self.bound(call))
        return windows.spread if windows.have_a_kernel(call.input) else None


def windows_of(given: Arguments) -> Windows | AdaptiveWindows:
    """The windows of a max pooling that is called with such arguments."""
    if "output_size" in given:
        return AdaptiveWindows(given["dims"], given["output_size"])
    return Windows(given["dims"], **{name: given[name] for name in WINDOW_ARGUMENTS})


_BATCH_BUILTIN: Arguments = dict.fromkeys(
    ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
)


@dataclass(frozen=True)
class ConstantStatistics(LayerRule):
    """Normalization whose mean and variance are constants in the backward pass.

    h = (a - mean) / sqrt(var + eps) * weight + bias, with the batch's own mean and (biased) variance, through
    which nothing is differentiated: a receives g * weight / sqrt(var + eps), and weight and bias their exact
    gradients. Running statistics are updated as before. In eval mode batch normalization is affine as it is and is
    left as it is. Across processes `nn.SyncBatchNorm` runs a backward pass of its own, and keeps it.

    Layer, group, instance and RMS normalization (whose mean is 0, and var the mean square) likewise, with the
    statistics of each sample. These differ by sample: `collapse` refuses them. Source: as for `Linear`; for layer
    normalization, Ali et al. (2022), LRP of transformers.

    Examples:
        >>> x = torch.tensor([[-2.0], [2.0]], requires_grad=True)
        >>> with lb.backward_rule(layers=[lb.ConstantStatistics()]):
        ...     F.batch_norm(x, None, None, training=True).sum().backward()
        >>> x.grad.tolist()  # 1 / sqrt(4 + 1e-5); Backprop's are 0
        [[0.49999937415122986], [0.49999937415122986]]
    """

    formula = "g * weight / sqrt(var + eps)"
    source = "Linear Backprop, for normalization"
    modules = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    modules_by_sample = sample_statistics.MODULES
    arguments: ClassVar[dict[Function, Arguments]] = {
        F.batch_norm: {
            "input": None,
            "running_mean": None,
            "running_var": None,
            "weight": None,
            "bias": None,
            "training": False,
            "momentum": 0.1,
            "eps": 1e-5,
        },
        **with_kernels({torch.batch_norm: _BATCH_BUILTIN}),
        **sample_statistics.ARGUMENTS,
    }
    reproduces_forward: ClassVar[bool] = True

    def applies(self, call: Call) -> bool:
        """True if the statistics are the batch's, or the sample's, and not those that were kept.

        An empty batch has none.
        """
        given = self.bound(call)
        return bool(given.get("training", given.get("use_input_stats", True))) and call.input.numel() > 0

    def constants(self, call: Call) -> tuple[Tensor, ...]:
        """Mean and biased variance of each channel, shape (channels,), in float32 at least.

        For normalization by the sample, mean and 1 / sqrt(var + eps) of each, of shapes that broadcast against a.
        """
        if call.function in sample_statistics.ARGUMENTS:
            return sample_statistics.statistics(call.input, self.bound(call))
        a: Tensor = call.input.detach()
        others = [dim for dim in range(a.dim()) if dim != 1]
        variance, mean = torch.var_mean(a.to(torch.promote_types(a.dtype, torch.float32)), others, correction=0)
        return mean, variance

    def run(self, call: Call) -> tuple[Any, tuple[Tensor, ...]]:
        """The call's own result, and the constants that its kernel found on the way: another pass costs more."""
        given, a = self.bound(call), call.input
        if call.function in sample_statistics.ARGUMENTS or not in_plain_code():
            return super().run(call)
        # What lacks a second value in a channel, the function itself refuses.
        if a.device.type not in ("cpu", "cuda") or a.numel() <= a.shape[1]:
            return super().run(call)
        names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
        cudnn = given.get("cudnn_enabled", torch.backends.cudnn.enabled)
        with torch.no_grad():
            h, mean, deviation, *_ = batch_norm_and_statistics(*(given[name] for name in names), cudnn)
        if mean.dtype in (torch.bfloat16, torch.float16):
            return h, self.constants(call)
        return h, (mean, deviation**-2 - given["eps"])  # deviation: 1 / sqrt(var + eps)

    def linear_map(self, call: Call, constants: tuple[Tensor, ...]) -> Tensor:
        """The same normalization with the constants for its statistics."""
        mean, variance = constants
        given = self.bound(call)
        if call.function in sample_statistics.ARGUMENTS:
            return sample_statistics.normalized(call.input, given, mean, scale=variance)
        weight, bias = (None if (p := given[name]) is None else p.to(mean.dtype) for name in ("weight", "bias"))
        return F.batch_norm(call.input, mean, variance, weight, bias, training=False, eps=given["eps"])


_DROPOUT: Arguments = {"input": None, "p": 0.5, "training": True, "inplace": False}
_ALPHA: Arguments = {**_DROPOUT, "training": False}
_DRAWN: Arguments = {"input": None, "p": None, "train": None, "inplace": False}
_DRAWN_IN_PLACE: Arguments = {**_DRAWN, "inplace": True}
_DROPOUTS = (torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout)
_DROPOUTS_IN_PLACE = (torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_)


@dataclass(frozen=True)
class StraightThroughDropout(LayerRule):
    """Dropout passed straight through: a receives g, unscaled, the dropped units, too.

    Alpha dropout and dropout of whole channels likewise. Inactive dropout is the identity and is left as it is.
    Source: as for `Linear`.

    Examples:
        >>> x = torch.zeros(3, requires_grad=True)
        >>> with lb.backward_rule(layers=[lb.StraightThroughDropout()]):
        ...     F.dropout(x, 0.5).sum().backward()
        >>> x.grad
        tensor([1., 1., 1.])
    """

    formula = "g"
    source = "Linear Backprop, for dropout"
    modules = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    arguments: ClassVar[dict[Function, Arguments]] = {
        **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _DROPOUT),
        **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), _ALPHA),
        **with_kernels(dict.fromkeys(_DROPOUTS, _DRAWN)),
        **with_kernels(dict.fromkeys(_DROPOUTS_IN_PLACE, _DRAWN_IN_PLACE)),
    }

    def applies(self, call: Call) -> bool:
        """True if the call drops anything."""
        given = self.bound(call)
        active = given["train"] if "train" in given else given["training"]
        return bool(active) and given["p"] > 0

    def linear_map(self, call: Call, constants: tuple[Tensor, ...]) -> Tensor:
        """The identity."""
        return call.input


LINEAR_LAYERS: tuple[LayerRule, ...] = (AveragedMaximum(), ConstantStatistics(), StraightThroughDropout())
"""Linear Backprop's own rules for layers, one a kind of layer; the other rules for max pooling replace its first."""

LAYER_FUNCTIONS: frozenset[Function] = frozenset().union(*(layer.functions for layer in LINEAR_LAYERS))
"""Every function that one of them governs."""


def rule_for(function: Function, layers: Iterable[LayerRule]) -> LayerRule | None:
    """The rule among `layers` that governs a function; None if none does."""
    for layer in layers:  # written out: this runs at every call of any function inside a block
        if layer.governs(function):
            return layer
    return None


def require_layers(layers: Iterable[LayerRule]) -> tuple[LayerRule, ...]:
    """`layers` as a tuple.

    Raises:
        LinearBackpropError: Something in it is not a layer's rule, or two of them govern the same function.
    """
    if not isinstance(layers, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(f"layers must be a list of layer rules, got {layers!r}; write layers=[{layers!r}]")
    chosen = tuple(layers)
    for position, layer in enumerate(chosen):
        if inspect.isclass(layer) and issubclass(layer, LayerRule):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LinearBackpropError(f"{layer.__name__} is a class; a layer's rule is an instance: {layer.__name__}()")
        if not isinstance(layer, LayerRule):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LinearBackpropError(f"layers holds {layer!r}, which is no layer's rule such as AveragedMaximum()")
        rival = next((earlier for earlier in chosen[:position] if earlier.functions & layer.functions), None)
        if rival is not None:
            raise LinearBackpropError(f"{rival!r} and {layer!r} govern the same functions; give one of them")
    return chosen
