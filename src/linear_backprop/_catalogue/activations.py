"""The catalogue of elementwise activations: every form in which PyTorch offers them.

An activation is found by the function that is called, which is what module, functional, tensor-method
and in-place forms have in common: `nn.ReLU` runs `F.relu`, `x.relu_()` runs `torch.Tensor.relu_`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from .._call import Call
from .._errors import LinearBackpropError
from .._torch.functions import KERNELS, Function, KernelPacket, overloads_of

T = TypeVar("T")


@dataclass(frozen=True)
class Activation:
    """One elementwise activation.

    Attributes:
        name: PyTorch's name of its function, such as "leaky_relu".
        module: Its module class in `torch.nn`; None for the rounding family.
        kinks: (a, f'(a)) at each kink, with default arguments: the subgradient that `Exact` uses.
        has_defaults: False if it cannot be called with the pre-activation alone.
        takes_complex: True if PyTorch differentiates it at complex numbers.
    """

    name: str
    module: type[nn.Module] | None
    kinks: tuple[tuple[float, float], ...] = ()
    has_defaults: bool = True
    takes_complex: bool = False

    @property
    def function(self) -> Function:
        """Its first out-of-place form: `torch.nn.functional`'s where there is one, else `torch`'s."""
        return next(form for form in functions_named(self.name))


CATALOGUE: tuple[Activation, ...] = (
    Activation("relu", nn.ReLU, ((0.0, 0.0),)),
    Activation("relu6", nn.ReLU6, ((0.0, 0.0), (6.0, 0.0))),
    Activation("leaky_relu", nn.LeakyReLU, ((0.0, 0.01),)),
    Activation("prelu", nn.PReLU, ((0.0, 0.25),), has_defaults=False),
    Activation("rrelu", nn.RReLU, ((0.0, (1 / 8 + 1 / 3) / 2),)),
    Activation("elu", nn.ELU),
    Activation("selu", nn.SELU, ((0.0, 1.0507009873554805 * 1.6732632423543772),)),
    Activation("celu", nn.CELU),
    Activation("gelu", nn.GELU),
    Activation("silu", nn.SiLU),
    Activation("mish", nn.Mish),
    Activation("softplus", nn.Softplus),
    Activation("softsign", nn.Softsign, takes_complex=True),
    Activation("tanh", nn.Tanh, takes_complex=True),
    Activation("tanhshrink", nn.Tanhshrink, takes_complex=True),
    Activation("hardtanh", nn.Hardtanh, ((-1.0, 0.0), (1.0, 0.0))),
    Activation("hardsigmoid", nn.Hardsigmoid, ((-3.0, 0.0), (3.0, 0.0))),
    Activation("hardswish", nn.Hardswish, ((-3.0, 0.0), (3.0, 1.0))),
    Activation("hardshrink", nn.Hardshrink, ((-0.5, 0.0), (0.5, 0.0))),
    Activation("softshrink", nn.Softshrink, ((-0.5, 0.0), (0.5, 0.0))),
    Activation("sigmoid", nn.Sigmoid, takes_complex=True),
    Activation("logsigmoid", nn.LogSigmoid),
    Activation("threshold", nn.Threshold, has_defaults=False),
    Activation("sign", None, ((0.0, 0.0),)),
    Activation("round", None, ((0.5, 0.0),)),
    Activation("floor", None, ((1.0, 0.0),)),
    Activation("ceil", None, ((1.0, 0.0),)),
    Activation("trunc", None, ((1.0, 0.0),)),
    Activation("clamp", None, has_defaults=False),
)

# Other names of the same functions.
_ALIASES = {
    "trunc": ("fix",),
    "sign": ("sgn",),
    "logsigmoid": ("log_sigmoid",),
    "sigmoid": ("expit",),
    "clamp": ("clamp_min", "clamp_max", "clip"),
}


@dataclass(frozen=True)
class Form:
    """One callable by which an activation is reached.

    Attributes:
        activation: The activation it computes; None for a function that is not in the catalogue.
        out_of_place: The form that leaves its input alone; the callable itself unless it is in-place.
        always_in_place: True if it overwrites its input, as `torch.relu_` does.
        inplace_position: The place of its `inplace` argument, as in `F.relu(input, inplace)`; None without.
        training_position: The place of its `training` argument, for the random activation; None without.
        broadcasts: True if its further tensor arguments and its input are broadcast against each other.
    """

    activation: Activation | None
    out_of_place: Function
    always_in_place: bool = False
    inplace_position: int | None = None
    training_position: int | None = None
    broadcasts: bool = False

    @property
    def takes_tensors(self) -> bool:
        """True if it can be differentiated by further arguments: a user's own function can, few of PyTorch's."""
        return self.activation is None or self.activation.name in ("clamp", "prelu")

    def overwrites_input(self, call: Call) -> bool:
        """True if a call of this form overwrites its first argument."""
        return self.always_in_place or bool(call.argument("inplace", self.inplace_position))


def functions_named(name: str) -> Iterator[Function]:
    """Every function of PyTorch's of that name, `torch.nn.functional`'s first, kernels last."""
    for owner in (F, torch, torch.special, torch.Tensor):
        function = getattr(owner, name, None)
        if callable(function):
            yield function
    yield from kernels_named(name)


def kernels_named(name: str) -> Iterator[Function]:
    """Every kernel of PyTorch's of that name, with its overloads."""
    for owner in KERNELS:
        function = getattr(owner, name, None)
        if callable(function):
            yield function
            if isinstance(function, KernelPacket):
                yield from overloads_of(function)


def with_kernels(given: Mapping[Function, T]) -> dict[Function, T]:
    """What is given for functions, for the kernels of their names, too."""
    return {each: value for function, value in given.items() for each in (function, *kernels_named(function.__name__))}


def _position(function: Function, argument: str) -> int | None:
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin or a kernel, which has no `inplace`
        return None
    return parameters.index(argument) if argument in parameters else None


def _forms() -> Iterator[tuple[Function, Form]]:
    for activation in CATALOGUE:
        training = 3 if activation.name == "rrelu" else None
        broadcasts = activation.name == "clamp"
        for name in (activation.name, *_ALIASES.get(activation.name, ())):
            for function in functions_named(name):
                form = Form(
                    activation,
                    out_of_place=function,
                    inplace_position=_position(function, "inplace"),
                    training_position=training,
                    broadcasts=broadcasts,
                )
                yield function, form
            for function in functions_named(f"{name}_"):
                out_of_place = next(functions_named(name))
                in_place = Form(
                    activation, out_of_place, always_in_place=True, training_position=training, broadcasts=broadcasts
                )
                yield function, in_place


FORMS: dict[Function, Form] = dict(_forms())
"""Every callable by which a catalogued activation is reached."""

MODULES: dict[type[nn.Module], Activation] = {a.module: a for a in CATALOGUE if a.module is not None}
"""Every module class of a catalogued activation."""

UNCATALOGUED: frozenset[Function] = frozenset(
    function
    for name in (
        *("sin", "cos", "tan", "sinc", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh"),
        *("arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh"),
        *("erf", "erfc", "erfinv", "ndtr", "log_ndtr", "exp", "exp2", "expm1", "log1p", "logit", "logaddexp"),
        *("abs", "absolute", "square", "frac", "rrelu_with_noise", "rrelu_with_noise_functional"),
        *("heaviside", "i0", "i0e", "i1", "i1e", "erfcx", "_prelu_kernel"),
        *("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"),
    )
    for form in (name, f"{name}_")
    for function in functions_named(form)
)
"""Further elementwise functions, which some use as activations; they follow no rule."""

ARITHMETIC: frozenset[Function] = frozenset(
    function
    for name in (
        "add",
        "sub",
        "rsub",
        "mul",
        "multiply",
        "div",
        "divide",
        "true_divide",
        "pow",
        "addcmul",
        "__rsub__",
        "__rdiv__",
        "__rtruediv__",
        "__pow__",
        "__rpow__",
        "__iadd__",
        "__isub__",
        "__imul__",
        "__itruediv__",
        "__ipow__",
    )
    for form in (name, f"{name}_")
    for function in functions_named(form)
)
"""The functions of which activations are written out."""


def activation_named(name: str) -> Activation:
    """The activation of that name.

    Raises:
        LinearBackpropError: There is none; the names are listed.
    """
    for activation in CATALOGUE:
        if activation.name == name:
            return activation
    names = ", ".join(activation.name for activation in CATALOGUE)
    raise LinearBackpropError(f"no activation is named {name!r}; the catalogue has {names}")


def name_of(function: Function) -> str | None:
    """The catalogue name of a function given in any form; None if it is not catalogued."""
    form = FORMS.get(function)
    return None if form is None or form.activation is None else form.activation.name
