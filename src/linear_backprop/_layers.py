"""Linear rules for layers that are not elementwise, and the final ones.

Legend: `a` is what the layer gets, `h` what it makes of it, `g` the cotangent of h.

A rule names an affine map of a, the same for every sample, and the layer's backward pass becomes that map's: the
paper's "all the non-linear components are cancelled and only linear gradients persist", for what is not
elementwise. The forward pass never depends on it. Rules are values, like those of `_rules.py`.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._activations import Function
from ._averages import average_pool
from ._errors import LinearBackpropError

Keywords = Mapping[str, Any]
Parameters = tuple[str, ...]


class LayerRule(abc.ABC):
    """An affine map whose backward pass a layer has in place of its own.

    To write one's own, subclass as a frozen dataclass, say which functions and modules it governs, and give the map.

    Attributes:
        formula: The map, or its backward pass, for tables.
        source: Where it is from.
        modules: The modules of `torch.nn` that it governs.
        parameters: The functions that it governs, each with its parameters' names in order. The first is the
            layer's input; `inplace` is known by its name.
        reproduces_forward: Whether the map's values are the layer's own, up to rounding.
    """

    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    parameters: ClassVar[dict[Function, Parameters]] = {}
    reproduces_forward: ClassVar[bool] = False

    @property
    def functions(self) -> frozenset[Function]:
        """Every callable that the rule governs; modules are reached through the function that they call."""
        return frozenset(self.parameters)

    def governs(self, function: Function) -> bool:
        """Whether the rule governs a function."""
        return function in self.parameters

    def bound(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> dict[str, Any]:
        """The arguments of a call by the names in `parameters`; defaults are left out."""
        return {**dict(zip(self.parameters[function], args, strict=False)), **kwargs}

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


def _pooling(name: str, dims: Iterable[int], owners: tuple[Any, ...], parameters: Parameters) -> dict[Function, Any]:
    found = (getattr(owner, name.format(d), None) for owner in owners for d in dims)
    return {function: parameters for function in found if function is not None}


_WINDOWS = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_SIZES = ("input", "output_size", "return_indices")
_OWNERS = (F, torch)


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
    parameters: ClassVar[dict[Function, Parameters]] = {
        **_pooling("max_pool{}d", (1, 2, 3), _OWNERS, _WINDOWS),
        **_pooling("max_pool{}d_with_indices", (1, 2, 3), _OWNERS, _WINDOWS),
        **_pooling("adaptive_max_pool{}d", (1, 2, 3), _OWNERS, _SIZES),
        **_pooling("adaptive_max_pool{}d_with_indices", (1, 2, 3), _OWNERS, _SIZES),
    }

    def linear_map(
        self, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """The average over each window."""
        call = self.bound(function, args, kwargs)
        dims = next(d for d in (1, 2, 3) if f"pool{d}d" in function.__name__)
        if "output_size" in call:
            adaptive = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[dims - 1]
            return adaptive(call["input"], call["output_size"])
        return average_pool(
            call["input"],
            dims,
            call["kernel_size"],
            call.get("stride"),
            call.get("padding", 0),
            call.get("dilation", 1),
            call.get("ceil_mode", False),
        )


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
    parameters: ClassVar[dict[Function, Parameters]] = {
        F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
        torch.batch_norm: (
            *("input", "weight", "bias", "running_mean", "running_var"),
            *("training", "momentum", "eps", "cudnn_enabled"),
        ),
    }
    reproduces_forward: ClassVar[bool] = True

    def applies(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> bool:
        """Whether the statistics are the batch's."""
        return bool(self.bound(function, args, kwargs).get("training", False))

    def constants(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> tuple[Tensor, ...]:
        """Mean and biased variance of each channel, shape (channels,), in float32 at least."""
        a: Tensor = self.bound(function, args, kwargs)["input"].detach()
        others = [dim for dim in range(a.dim()) if dim != 1]
        variance, mean = torch.var_mean(a.to(torch.promote_types(a.dtype, torch.float32)), others, correction=0)
        return mean, variance

    def linear_map(
        self, constants: tuple[Tensor, ...], function: Function, args: tuple[Any, ...], kwargs: Keywords
    ) -> Tensor:
        """Batch normalization with the constants for running statistics."""
        mean, variance = constants
        call = self.bound(function, args, kwargs)
        weight, bias = (None if (p := call.get(name)) is None else p.to(mean.dtype) for name in ("weight", "bias"))
        return F.batch_norm(call["input"], mean, variance, weight, bias, training=False, eps=call.get("eps", 1e-5))


_DROPOUT = ("input", "p", "training", "inplace")
_DRAWN = ("input", "p", "train")


@dataclass(frozen=True)
class StraightThroughDropout(LayerRule):
    """Dropout passed straight through: a receives g, unscaled, the dropped units, too.

    Alpha dropout and dropout of whole channels likewise. Inactive dropout is the identity and is left as it is.
    Source: as for `Linear`.
    """

    formula = "g"
    source = "Linear Backprop, for dropout"
    modules = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    parameters: ClassVar[dict[Function, Parameters]] = {
        **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _DROPOUT),
        **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), _DROPOUT),
        **dict.fromkeys((torch.dropout, torch.feature_dropout), _DRAWN),
        **dict.fromkeys((torch.alpha_dropout, torch.feature_alpha_dropout), _DRAWN),
        **dict.fromkeys((torch.dropout_, torch.feature_dropout_), _DRAWN),
        **dict.fromkeys((torch.alpha_dropout_, torch.feature_alpha_dropout_), _DRAWN),
    }

    def applies(self, function: Function, args: tuple[Any, ...], kwargs: Keywords) -> bool:
        """Whether the call drops anything."""
        call = self.bound(function, args, kwargs)
        # Of PyTorch's functions with a default, only the alpha forms are inactive unless told otherwise.
        active = call.get("train", call.get("training", "alpha" not in function.__name__))
        return bool(active) and call.get("p", 0.5) > 0

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
