"""Every activation of the catalogue in every form, with arguments: what the generated tests run over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import references
import torch
from torch import Tensor, nn

import linear_backprop as lb
from linear_backprop._catalogue.activations import FORMS

_BY_NAME: dict[str, tuple[Any, ...]] = {
    "prelu": (torch.tensor([0.25], dtype=torch.float64),),
    "threshold": (0.1, 20.0),
    "clamp": (-0.6, 0.8),
    "clip": (-0.6, 0.8),
    "clamp_min": (-0.6,),
    "clamp_max": (0.8,),
}

_NAMES = {
    "prelu": ("weight",),
    "threshold": ("threshold", "value"),
    "clamp": ("min", "max"),
    "clip": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
}


@dataclass(frozen=True)
class Case:
    """One callable form of one activation: `run(function, x)` calls it with its arguments."""

    name: str
    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()

    @property
    def in_place(self) -> bool:
        return self.label.split(".")[1].endswith("_") or dict(self.keywords).get("inplace", False)

    def run(self, function: Callable[..., Any], x: Tensor) -> Tensor:
        arguments = (a.to(x.dtype) if isinstance(a, Tensor) else a for a in self.arguments)
        return function(x, *arguments, **dict(self.keywords))

    def spelled(self, keyword: str) -> Callable[[Tensor], Tensor] | None:
        """The call with every argument by its name, the input's being `keyword`; None where the form takes none."""
        names = _NAMES.get(self.label.split(".")[1].split("(")[0].removesuffix("_"), ())
        keywords = {**dict(zip(names, self.arguments, strict=True)), **dict(self.keywords)}
        try:
            self.function(**{keyword: torch.ones(1, dtype=torch.float64)}, **keywords)
        except (TypeError, RuntimeError):
            return None
        return lambda x: self.function(**{keyword: x}, **keywords)


def _owner(function: Callable[..., Any]) -> str:
    for owner, label in (
        (nn.functional, "F"),
        (torch, "torch"),
        (torch.special, "special"),
        (torch.Tensor, "Tensor"),
        (torch._C._nn, "kernel"),
        (torch.ops.aten, "aten"),
    ):
        if getattr(owner, function.__name__, None) is function:
            return label
    return "aten" if isinstance(function, torch._ops.OpOverload) else "F"


def _cases() -> list[Case]:
    cases = []
    for function, form in FORMS.items():
        called = function.__name__.removeprefix("_")
        name, _, overload = called.partition(".")
        arguments = _BY_NAME.get(name.removesuffix("_"), ())
        if overload == "Tensor":
            arguments = tuple(torch.tensor(value, dtype=torch.float64) for value in arguments)
        keywords = (("decimals", 0),) if overload == "decimals" else ()
        label = f"{_owner(function)}.{called}"
        cases.append(Case(form.activation.name, label, function, arguments, keywords))
        if form.inplace_position is not None:
            cases.append(Case(form.activation.name, f"{label}(inplace)", function, arguments, (("inplace", True),)))
    cases.append(Case("gelu", "F.gelu(tanh)", nn.functional.gelu, (), (("approximate", "tanh"),)))
    for label in ("F.rrelu", "torch.rrelu"):
        function = nn.functional.rrelu if label[0] == "F" else torch.rrelu
        cases.append(Case("rrelu", f"{label}(training)", function, (), (("training", True),)))
    cases.append(
        Case("rrelu", "F.rrelu(training, inplace)", nn.functional.rrelu, (0.1, 0.2, True), (("inplace", True),))
    )
    return cases


CASES = _cases()
OUT_OF_PLACE = [case for case in CASES if not case.in_place]
DETERMINISTIC = [case for case in CASES if "training" not in case.label]
# The forms whose values the reference knows: GELU by tanh and the one-sided clamps differ from the plain ones.
REFERENCED = [c for c in DETERMINISTIC if not any(word in c.label for word in ("tanh)", "clamp_min", "clamp_max"))]

WEIGHT = 0.25
RULES = [
    lb.Exact(),
    lb.Linear(),
    lb.PreActivation(),
    lb.Clipped(low=-0.7, high=1.3),
    lb.Surrogate("silu"),
    lb.Blend(lb.Linear(), lb.Exact(), WEIGHT),
    lb.Ratio(),
    lb.Guided(),
    lb.Deconvolution(),
    lb.Rescale(),
    lb.Renormalized(lb.Linear()),
]
# Those whose cotangent is g times a function of that very a: not of g's sign, nor of another value of a.
OTHERS = lb.Guided | lb.Deconvolution | lb.Rescale | lb.Renormalized
FACTORS = [rule for rule in RULES if not isinstance(rule, OTHERS)]


def factor(rule: lb.BackwardRule, name: str) -> references.Function:
    """What the rule multiplies a positive g with, by NumPy."""
    f, derivative = references.ACTIVATIONS[name]
    match rule:
        case lb.Exact():
            return derivative
        case lb.Linear():
            return np.ones_like
        case lb.PreActivation():
            return lambda a: a
        case lb.Clipped(low, high):
            return lambda a: 1.0 * ((a >= low) & (a <= high))
        case lb.Surrogate():
            return references.silu_derivative
        case lb.Blend():
            return lambda a: (1 - WEIGHT) + WEIGHT * derivative(a)
        case lb.Renormalized():  # of Linear; each value of a vector is a sample
            return lambda a: np.abs(derivative(a))
    return _factor_of_attribution(rule, f)


def _factor_of_attribution(rule: lb.BackwardRule, f: references.Function) -> references.Function:
    match rule:
        case lb.Ratio():
            return lambda a: f(a) / a
        case lb.Guided():
            return lambda a: 1.0 * (a > 0)
        case lb.Deconvolution():
            return np.ones_like
        case lb.Rescale():
            return references.secant(f)
    raise AssertionError(rule)


def module(activation: lb.Activation, inplace: bool = False) -> nn.Module:
    """The activation's module with its default arguments."""
    assert activation.module is not None
    arguments = (0.1, 20.0) if activation.name == "threshold" else ()
    return activation.module(*arguments, **({"inplace": True} if inplace else {}))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal to the bit, NaN included."""
    left, right = left.contiguous(), right.contiguous()
    return left.dtype == right.dtype and torch.equal(left.view(torch.uint8), right.view(torch.uint8))
