"""Where the collapsed part of a forward pass begins.

A model may run as it is up to a *seam* and be collapsed from there on. The parts meet wherever the upper one touches
a tensor that the lower one made, an activation or not: at the *boundary*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from .._call import Call
from .._catalogue.activations import FORMS
from .._torch import Function


@dataclass(frozen=True)
class Seam:
    """Where the upper part begins.

    Attributes:
        activations: How many activations run below; 0 where the whole model is collapsed.
        module: What the upper part begins with: the first call of it after those; None to begin at once.
    """

    activations: int = 0
    module: nn.Module | None = None


class Boundary:
    """Tells the two parts of one forward pass apart, and replaces what crosses from one to the other.

    Args:
        seam: Where the upper part begins.
        grad_below: Whether the lower part builds a graph.
        grad_above: Whether the upper part does.
        given: What stands in for the tensors that cross, in the order of their first use; None for themselves,
            detached.

    Attributes:
        is_below: Whether the lower part is running.
        crossed: The tensors of the lower part that the upper one used, in the order of their first use.
        replacements: What the upper one got in their place.
    """

    def __init__(self, seam: Seam, grad_below: bool, grad_above: bool, given: list[Tensor] | None = None) -> None:
        self.seam = seam
        self.is_below = seam.activations > 0
        self._remaining = seam.activations
        self.grad_below, self.grad_above = grad_below, grad_above
        self.given = given
        self.crossed: list[Tensor] = []
        self.replacements: list[Tensor] = []
        self._handle: RemovableHandle | None = None
        self._made: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._replaced: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._grad_before = False

    def __enter__(self) -> None:
        self._grad_before = torch.is_grad_enabled()
        torch.set_grad_enabled(self.grad_below if self.is_below else self.grad_above)
        if self.is_below and self.seam.module is not None:
            self._handle = self.seam.module.register_forward_pre_hook(lambda module, args: self._begin_if_due())

    def __exit__(self, *exception: object) -> None:
        torch.set_grad_enabled(self._grad_before)
        if self._handle is not None:
            self._handle.remove()

    def run(self, call: Call) -> Any:
        """One call of the lower part, as it is."""
        result = call()
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not isinstance(leaf, torch.nn.Parameter):
                self._made[leaf] = True
        if is_activation(result, call.function):
            self._remaining -= 1
            if self.seam.module is None:
                self._begin_if_due()
        return result

    def _begin_if_due(self) -> None:
        if self.is_below and not self._remaining:
            self.is_below = False
            torch.set_grad_enabled(self.grad_above)

    def cross(self, call: Call) -> Call:
        """A call of the upper part, what is from below replaced among its arguments."""
        if not self.seam.activations:
            return call
        return Call(call.function, *tree_map_only(Tensor, self._replacement, (call.args, call.kwargs)))

    def _replacement(self, tensor: Tensor) -> Tensor:
        if tensor not in self._made:
            return tensor
        if tensor not in self._replaced:
            self._replaced[tensor] = self._stand_in_for(tensor)
            self.crossed.append(tensor)
            self.replacements.append(self._replaced[tensor])
        return self._replaced[tensor]

    def _stand_in_for(self, tensor: Tensor) -> Tensor:
        if self.given is not None:
            return self.given[len(self.crossed)]
        return tensor.detach().requires_grad_(self.grad_above and tensor.requires_grad)


def is_activation(value: object, function: Function) -> TypeGuard[Tensor]:
    """Whether a call is an activation's, on a value that has a gradient."""
    return function in FORMS and isinstance(value, Tensor) and value.is_floating_point()
