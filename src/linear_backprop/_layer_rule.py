"""A rule for layers that are not elementwise.

Legend: `a` is what the layer gets, `h` what it makes of it, `g` the cotangent of h.

A rule names an affine map of a, the same for every sample, and the layer's backward pass becomes that map's: the
paper's "all the non-linear components are cancelled and only linear gradients persist", for what is not
elementwise. The forward pass never depends on it. Rules are values, like those of `_rules.py`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._activations import Function
from ._autograd import transforms_active
from ._values import with_values

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


def in_plain_code() -> bool:
    """Whether the code runs as it is written: neither compiled nor transformed."""
    return not (torch.compiler.is_compiling() or transforms_active())
