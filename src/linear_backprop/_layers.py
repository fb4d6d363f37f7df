"""Linear rules for layers that are not elementwise, and the final ones.

Legend: `a` is what the layer gets, `h` what it makes of it, `g` the cotangent of h.

A rule names an affine map of a, the same for every sample, and the layer's backward pass becomes that map's: the
paper's "all the non-linear components are cancelled and only linear gradients persist", for what is not
elementwise. The forward pass never depends on it. Rules are values, like those of `_rules.py`.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._activations import Function
from ._autograd import transforms_active
from ._averages import AdaptiveWindows, Windows
from ._errors import LinearBackpropError
from ._values import with_spread, with_values

Keywords = Mapping[str, Any]
Arguments = dict[str, Any]


class LayerRule(abc.ABC):
    """An affine map whose backward pass a layer has in place of its own.

    To write one's own, subclass as a frozen dataclass, say which functions and modules it governs, and give the map.

    Attributes:
        formula: The map, or its backward pass, for tables.
        source: Where it is from.
        modules: The modules of `torch.nn` that it governs.
        arguments: The functions that it governs, each with its arguments' names in order and their defaults (None for
            one that must be given). The first is the layer's input; `inplace` says whether it is overwritten, and
            is there for a function that always does it, too. More that the rule wants to know may follow.
        reproduces_forward: Whether the map's values are the layer's own, up to rounding.
    """

    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    arguments: ClassVar[dict[Function, Arguments]] = {}
    reproduces_forward: ClassVar[bool] = False

    @property
    def functions(self) -> frozenset[Function]:
        """Every callable that the rule governs; modules are reached through the function that they call."""
        return frozenset(self.arguments)

    def governs(self, function: Function) -> bool:
        """Whether the rule governs a function."""
        return function in self.arguments

    def bound(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> dict[str, Any]:
        """Every argument of a call by its name in `arguments`."""
        defaults = self.arguments[function]
        return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}

    def applies(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> bool:
        """Whether this very call is to be changed; a call that is affine as it is has no need."""
        return True

    def constants(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> tuple[Tensor, ...]:
        """What the map takes from the batch, detached; nothing where it is the same for every batch."""
        return ()

    @abc.abstractmethod
    def linear_map(
        self, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """The map, of the call's input, in differentiable PyTorch operations.

        Args:
            constants: What `constants` gave.
            function: One of `functions`.
            args: As the function is called.
            kwargs: As the function is called.

        Returns:
            A tensor of the shape of h (of the values, where indices are returned beside them).
        """

    def run(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> tuple[Any, tuple[Tensor, ...]]:
        """The call's own result, without a graph, and its constants; to override where one kernel gives both."""
        constants = self.constants(function, args, kwargs)
        with torch.no_grad():
            return function(*args, **kwargs), constants

    def connect(
        self, values: Tensor, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """The call's values with the map's backward pass; to override where that needs no values of the map."""
        return with_values(values, self.linear_map(constants, function, args, kwargs))


def _in_plain_code() -> bool:
    """Whether the code runs as it is written: neither compiled nor transformed."""
    return not (torch.compiler.is_compiling() or transforms_active())


_OWNERS = (F, torch)
_WINDOW_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_WINDOWS: Arguments = {
    "input": None,
    **dict(zip(_WINDOW_ARGUMENTS, (None, None, 0, 1, False), strict=True)),
    "return_indices": False,
}
_SIZES: Arguments = {"input": None, "output_size": None, "return_indices": False}


def _pooling(name: str, arguments: Arguments) -> dict[Function, Arguments]:
    """The functions of that name for 1 to 3 dimensions of positions."""
    forms = (name + ending for ending in ("", "_with_indices"))
    found = [(d, getattr(owner, form.format(d), None)) for form in forms for owner in _OWNERS for d in (1, 2, 3)]
    return {function: {**arguments, "dims": dims} for dims, function in found if function is not None}


@dataclass(frozen=True)
class AveragedMaximum(LayerRule):
    """Max pooling whose backward pass is average pooling's: every position of a window receives its share of g.

    The shares are 1/n, n being how many positions of the window lie inside the input: max pooling's padding is
    -inf, which never is the maximum, so it has no share either. Dilation and `ceil_mode` make the same windows. A
    window with no position inside, which dilation can make, sends nothing. Adaptive max pooling has the backward
    pass of adaptive average pooling. Where indices are returned they are the maximum's, as before; only
    the values follow the rule. The same at ties, infinities and NaN. Source: as for `Linear`.
    """

    formula = "g / n to each of the n positions of a window, as in average pooling"
    source = "Linear Backprop, for max pooling"
    modules = (
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    )
    arguments: ClassVar[dict[Function, Arguments]] = {
        **_pooling("max_pool{}d", _WINDOWS),
        **_pooling("adaptive_max_pool{}d", _SIZES),
    }

    def linear_map(
        self, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """The average over each window."""
        return self._windows(function, args, kwargs).average(self.bound(function, args, kwargs)["input"])

    def connect(
        self, values: Tensor, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """The maxima, without taking the averages where average pooling's backward pass can be had alone."""
        a: Tensor = self.bound(function, args, kwargs)["input"]
        windows = self._windows(function, args, kwargs)
        if _in_plain_code() and windows.have_a_kernel(a):
            return with_spread(values, a, windows)
        return super().connect(values, constants, function, args, kwargs)

    def _windows(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> Windows | AdaptiveWindows:
        call = self.bound(function, args, kwargs)
        if "output_size" in call:
            return AdaptiveWindows(call["dims"], call["output_size"])
        return Windows(*(call[name] for name in ("dims", *_WINDOW_ARGUMENTS)))


# What `torch.batch_norm` calls, whose first result it returns.
_batch_norm_and_statistics: Callable[..., tuple[Tensor, ...]] = torch._batch_norm_impl_index  # pyright: ignore


@dataclass(frozen=True)
class ConstantStatistics(LayerRule):
    """Batch normalization whose mean and variance are constants in the backward pass.

    h = (a - mean) / sqrt(var + eps) * weight + bias, with the batch's own mean and (biased) variance, through
    which nothing is differentiated: a receives g * weight / sqrt(var + eps), and weight and bias their exact
    gradients. Running statistics are updated as before. In eval mode batch normalization is affine as it is and is
    left as it is. Source: as for `Linear`.
    """

    formula = "g * weight / sqrt(var + eps)"
    source = "Linear Backprop, for batch normalization"
    modules = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    arguments: ClassVar[dict[Function, Arguments]] = {
        F.batch_norm: {
            **dict.fromkeys(("input", "running_mean", "running_var", "weight", "bias")),
            **{"training": False, "momentum": 0.1, "eps": 1e-5},
        },
        torch.batch_norm: dict.fromkeys(
            ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
        ),
    }
    reproduces_forward: ClassVar[bool] = True

    def applies(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> bool:
        """Whether the statistics are the batch's."""
        return bool(self.bound(function, args, kwargs)["training"])

    def constants(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> tuple[Tensor, ...]:
        """Mean and biased variance of each channel, shape (channels,), in float32 at least."""
        a: Tensor = self.bound(function, args, kwargs)["input"].detach()
        others = [dim for dim in range(a.dim()) if dim != 1]
        variance, mean = torch.var_mean(a.to(torch.promote_types(a.dtype, torch.float32)), others, correction=0)
        return mean, variance

    def run(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> tuple[Any, tuple[Tensor, ...]]:
        """The call's own result, and the constants that its kernel found on the way: another pass costs more."""
        call = self.bound(function, args, kwargs)
        a: Tensor = call["input"]
        # What lacks a second value in a channel, the function itself refuses.
        if not _in_plain_code() or a.device.type not in ("cpu", "cuda") or a.numel() <= a.shape[1]:
            return super().run(function, args, kwargs)
        names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
        cudnn = call.get("cudnn_enabled", torch.backends.cudnn.enabled)
        with torch.no_grad():
            h, mean, deviation, *_ = _batch_norm_and_statistics(*(call[name] for name in names), cudnn)
        if mean.dtype in (torch.bfloat16, torch.float16):
            return h, self.constants(function, args, kwargs)
        return h, (mean, deviation**-2 - call["eps"])  # deviation: 1 / sqrt(var + eps)

    def linear_map(
        self, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """Batch normalization with the constants for running statistics."""
        mean, variance = constants
        call = self.bound(function, args, kwargs)
        weight, bias = (None if (p := call[name]) is None else p.to(mean.dtype) for name in ("weight", "bias"))
        return F.batch_norm(call["input"], mean, variance, weight, bias, training=False, eps=call["eps"])


_DROPOUT: Arguments = {"input": None, "p": 0.5, "training": True, "inplace": False}
_ALPHA: Arguments = {**_DROPOUT, "training": False}
_DRAWN: Arguments = {"input": None, "p": None, "train": None, "inplace": False}
_DRAWN_IN_PLACE: Arguments = {**_DRAWN, "inplace": True}


@dataclass(frozen=True)
class StraightThroughDropout(LayerRule):
    """Dropout passed straight through: a receives g, unscaled, the dropped units, too.

    Alpha dropout and dropout of whole channels likewise. Inactive dropout is the identity and is left as it is.
    Source: as for `Linear`.
    """

    formula = "g"
    source = "Linear Backprop, for dropout"
    modules = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    arguments: ClassVar[dict[Function, Arguments]] = {
        **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _DROPOUT),
        **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), _ALPHA),
        **dict.fromkeys((torch.dropout, torch.feature_dropout), _DRAWN),
        **dict.fromkeys((torch.alpha_dropout, torch.feature_alpha_dropout), _DRAWN),
        **dict.fromkeys((torch.dropout_, torch.feature_dropout_), _DRAWN_IN_PLACE),
        **dict.fromkeys((torch.alpha_dropout_, torch.feature_alpha_dropout_), _DRAWN_IN_PLACE),
    }

    def applies(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> bool:
        """Whether the call drops anything."""
        call = self.bound(function, args, kwargs)
        active = call["train"] if "train" in call else call["training"]
        return bool(active) and call["p"] > 0

    def linear_map(
        self, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """The identity."""
        return self.bound(function, args, kwargs)["input"]


LINEAR_LAYERS: tuple[LayerRule, ...] = (AveragedMaximum(), ConstantStatistics(), StraightThroughDropout())
"""All of the library's rules for layers."""

LAYER_FUNCTIONS: frozenset[Function] = frozenset().union(*(layer.functions for layer in LINEAR_LAYERS))

_DRAWN_WINDOWS = "its windows are drawn at random: no average pooling has them"
_POWER_MEAN = "a power mean of each window, not its maximum"
_UNPOOLS = "puts values where the indices say, which depend on the sample"
_OF_THE_SAMPLE = "its statistics are of the sample, not of the batch: no constant is the same for every sample"
_SYNCHRONIZED = (
    "across processes it runs a backward pass of its own, which no rule can reach; use BatchNorm, or eval mode"
)
_KERNEL = "a kernel's own interface; call the function of torch.nn.functional"


def _functions(*names: str) -> list[Function]:
    return [getattr(owner, name) for owner in _OWNERS for name in names if hasattr(owner, name)]


LAYERS_LEFT_ALONE: dict[Function, str] = {
    **dict.fromkeys(
        _functions(*(f"fractional_max_pool{d}d{end}" for d in (2, 3) for end in ("", "_with_indices"))), _DRAWN_WINDOWS
    ),
    **dict.fromkeys(_functions("lp_pool1d", "lp_pool2d", "lp_pool3d"), _POWER_MEAN),
    **dict.fromkeys(_functions("max_unpool1d", "max_unpool2d", "max_unpool3d"), _UNPOOLS),
    **dict.fromkeys(
        _functions("layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm", "normalize"),
        _OF_THE_SAMPLE,
    ),
    **dict.fromkeys((torch.native_batch_norm, torch.native_dropout), _KERNEL),
}
LAYER_MODULES_LEFT_ALONE: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.FractionalMaxPool2d, nn.FractionalMaxPool3d), _DRAWN_WINDOWS),
    **dict.fromkeys((nn.LPPool1d, nn.LPPool2d, nn.LPPool3d), _POWER_MEAN),
    **dict.fromkeys((nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d), _UNPOOLS),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm), _OF_THE_SAMPLE),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _OF_THE_SAMPLE),
    nn.SyncBatchNorm: _SYNCHRONIZED,
}


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
