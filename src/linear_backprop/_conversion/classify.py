"""The classification of modules, and of the functions that they call, for a conversion."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import nn

from .._catalogue.activations import FORMS, MODULES, UNCATALOGUED
from .._catalogue.not_elementwise import FUNCTIONS, left_alone, row_of
from .._rules.layers import rule_for
from .._rules.rule import LayerRule
from .._torch.functions import Function, is_custom_operator
from .._torch.modules import is_bare
from .methods import overrides_call, own_methods

_SCRIPTED = "TorchScript: its code cannot be reached; convert the model it was made from, unscripted"

_SCRIPTED_FUNCTION = "TorchScript: its code cannot be reached; call the function it was made from"
_OVERRIDDEN_CALL = "what it calls beside `forward` cannot be reached; put a `backward_rule` block around the model"
_CUSTOM = "an operator with a backward pass of its own; where it is an activation, put `with_rule` on it"
_UNCATALOGUED = "elementwise, but not in the catalogue; where it is an activation, put `with_rule` on it"


class Kind(enum.Enum):
    """The kinds of module, by what a module's own `forward` may call, and of function."""

    ACTIVATION = "an elementwise activation of PyTorch's"
    WRITTEN_OUT = "an elementwise activation written out in arithmetic"
    LAYER = "a layer of PyTorch's that a layer's rule governs"
    LEFT_ALONE = "a non-linearity that cannot follow a rule"
    CONTAINER = "an nn.Sequential, which calls its modules and nothing else"
    PLAIN = "PyTorch's own code that calls nothing that follows a rule"
    OPAQUE = "code that may call anything"


@dataclass(frozen=True)
class Classified:
    """A module, or a function, as a conversion sees it.

    Attributes:
        kind: Its kind.
        rule: The layer's rule that governs it; None if none does.
        reason: The reason why it is left alone, and what to do; empty for every other kind.
    """

    kind: Kind
    rule: LayerRule | None = None
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """A module of a model that is converted.

    Attributes:
        path: Its path in the model.
        module: The module.
        classified: Its classification.
        selected: True if it is to follow the rules.
        runs: The numbers of its runs that are to follow; None for all.
    """

    path: str
    module: nn.Module
    classified: Classified
    selected: bool
    runs: frozenset[int] | None = None

    @property
    def kind(self) -> Kind:
        """The module's kind."""
        return self.classified.kind


def classify(module: nn.Module, layers: tuple[LayerRule, ...], replaced: bool = False) -> Classified:
    """A module, classified.

    Args:
        module: The module.
        layers: The layers' rules in force.
        replaced: True if a `forward` of the user's own is set on the instance.
    """
    if is_scripted(module):
        return Classified(Kind.LEFT_ALONE, reason=_SCRIPTED)
    rule = next((layer for layer in layers if layer.governs_module(module)), None)
    kind = Kind.OPAQUE if replaced or overrides_call(type(module)) else _kind_of_code(module, rule)
    if kind is Kind.PLAIN and (advice := left_alone(row_of(module), bool(layers))) is not None:
        return Classified(Kind.LEFT_ALONE, reason=str(advice))
    return Classified(kind, rule)


def classify_function(function: Function, layers: tuple[LayerRule, ...]) -> Classified:
    """A function that a module's own `forward` calls, classified."""
    rule = rule_for(function, layers)
    if rule is not None:
        return Classified(Kind.LAYER, rule)
    if function in FORMS:
        return Classified(Kind.ACTIVATION)
    if function in UNCATALOGUED:
        return Classified(Kind.LEFT_ALONE, reason=_UNCATALOGUED)
    if is_custom_operator(function):
        return Classified(Kind.LEFT_ALONE, reason=_CUSTOM)
    advice = left_alone(FUNCTIONS.get(function), bool(layers))
    return Classified(Kind.PLAIN) if advice is None else Classified(Kind.LEFT_ALONE, reason=str(advice))


def classify_unreachable(module: nn.Module) -> Iterator[tuple[str, Classified]]:
    """What a module's code runs without anybody being told: functions in TorchScript that it names, and `__call__`."""
    if overrides_call(type(module)):
        yield "__call__", Classified(Kind.LEFT_ALONE, reason=_OVERRIDDEN_CALL)
    for name, classified in classify_scripted_functions(module):
        yield f"{name} (called)", classified


def classify_scripted_functions(module: nn.Module) -> Iterator[tuple[str, Classified]]:
    """The functions in TorchScript that a module's code names."""
    for name, value in {**_named_in_the_code_of(module), **vars(module)}.items():
        if isinstance(value, torch.jit.ScriptFunction):
            yield name, Classified(Kind.LEFT_ALONE, reason=_SCRIPTED_FUNCTION)


def _named_in_the_code_of(module: nn.Module) -> dict[str, object]:
    """The globals, and the variables of functions around, that the code of a module's class names."""
    cls, named = type(module), dict[str, object]()
    for name in ("forward", *own_methods(cls)):
        method = inspect.unwrap(getattr(cls, name))
        if isinstance(method, FunctionType):
            variables = inspect.getclosurevars(method)
            named |= {**variables.globals, **variables.nonlocals}
    return named


def may_be_an_activation(module: nn.Module) -> bool:
    """True where a module may be an activation written out, of others below it and a number per channel at most."""
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return all(type(below) in MODULES for below in module.children()) and all(
        not nn.parameter.is_lazy(tensor) and sum(size > 1 for size in tensor.shape) <= 1 for tensor in tensors
    )


def is_scripted(module: nn.Module) -> bool:
    """True if the module's code is out of Python's reach."""
    return isinstance(module, torch.jit.ScriptModule)


def _kind_of_code(module: nn.Module, rule: LayerRule | None) -> Kind:
    author = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    if author.__module__ == "transformers.activations" and is_bare(module):  # all of them are elementwise
        return Kind.PLAIN if author.__name__ == "LinearActivation" else Kind.WRITTEN_OUT
    if own_methods(type(module)):  # by which it may be entered
        return Kind.OPAQUE
    if author in MODULES:
        return Kind.ACTIVATION
    if author is nn.Sequential:
        return Kind.CONTAINER
    # Only the transformer layers among PyTorch's own take an activation function as an argument.
    if not author.__module__.startswith("torch.nn.modules.") or author.__module__.endswith(".transformer"):
        return Kind.OPAQUE
    return Kind.PLAIN if rule is None else Kind.LAYER
