"""The aggregates of many micro-batches, and the one backward pass that ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import LinearBackpropError
from ..._torch.tensors import version_of
from .aggregates import Aggregates
from .gradients import Wanted
from .step import Step


@dataclass
class _Group:
    """Micro-batches that share all that the backward pass depends on but the samples."""

    step: Step
    wanted: Wanted
    states: list[tuple[int, int]]
    total: Aggregates

    def takes(self, step: Step, wanted: Wanted) -> bool:
        """Whether another micro-batch belongs to it."""
        return (
            step.plan is self.step.plan
            and wanted == self.wanted
            and step.autocast == self.step.autocast
            and all(a is b for a, b in zip(step.connected, self.step.connected, strict=True))
            and list(map(_state, step.leaves)) == self.states
        )

    def find(self, add: Callable[[Tensor, Tensor], None]) -> None:
        """Make its gradients; `add` takes each, after its leaf, as soon as it is made.

        Raises:
            RuntimeError: A leaf was modified since its micro-batches ran, or by a hook on another one.
        """
        first, waiting = len(self.step.plan.samples), set(range(len(self.step.connected)))
        self._require_unchanged(waiting)

        def receive(place: int, gradient: Tensor) -> None:
            index = place - first
            self._require_unchanged([index])
            waiting.discard(index)
            add(self.step.connected[index], gradient)

        self.step.find(self.wanted, self.step.over_workers(self.total), receive)
        self._require_unchanged(waiting)

    def _require_unchanged(self, places: Iterable[int]) -> None:
        if any(_state(self.step.leaves[i]) != self.states[i] for i in places):
            raise RuntimeError(
                "a parameter was modified by an inplace operation inside accumulate(), or by a hook on another one, "
                "before its own gradient came; step the optimizer after the block, or each parameter in its own hook"
            )


class Accumulation:
    """Takes the aggregates of micro-batches while an `accumulate()` block is open.

    Micro-batches are added up that have their graph, their leaves and what takes gradients in common: one group, as a
    rule. Where weights are made anew in each forward pass (a parametrization), each micro-batch is one of its own.

    Attributes:
        is_open: Whether the block is.
    """

    def __init__(self) -> None:
        self.is_open = True
        self._groups: list[_Group] = []

    @property
    def has_taken(self) -> bool:
        """Whether a backward pass ran."""
        return bool(self._groups)

    def take(self, step: Step, wanted: Wanted, total: Aggregates) -> None:
        """Add one micro-batch's aggregates.

        Raises:
            LinearBackpropError: The block is closed, every micro-batch has a linear map of its own, or the inputs take
                gradients.
        """
        if not self.is_open:
            raise LinearBackpropError(
                "backward() of a forward pass inside accumulate(), after the block: call it inside, or run the "
                "model again"
            )
        if any(each.constants for each in step.noted):
            raise LinearBackpropError(
                "every micro-batch has its own statistics under ConstantStatistics(): call backward() for each "
                "without accumulate(), or put batch normalization in eval mode"
            )
        if any(wanted.samples):
            raise LinearBackpropError(
                "an input requires grad, and inside accumulate() inputs get no gradient: detach() it, or call "
                "backward() without accumulate()"
            )
        for group in self._groups:
            if group.takes(step, wanted):
                group.total = group.total + total
                return
        self._groups.append(_Group(step, wanted, list(map(_state, step.leaves)), total))

    def finish(self) -> None:
        """Add the gradients to what they belong to: each as soon as it is made, where nothing can be added to it.

        Raises:
            LinearBackpropError: There are none.
            CollapseError: Other workers have others.
            RuntimeError: A parameter was modified since its micro-batches ran, or by a hook on another one.
        """
        if not self._groups:
            raise LinearBackpropError(
                "no backward pass ran inside accumulate(), or with inputs=, which adds nothing; call loss.backward() "
                "in it"
            )
        first = self._groups[0]
        for group in self._groups:
            group.step.require_same_on_all([each.wanted for each in self._groups], group.total)
        sums: dict[Tensor, Tensor] = {}
        alone = len(self._groups) == 1 and _are_apart(first.step.connected)

        def add(leaf: Tensor, gradient: Tensor) -> None:
            if alone and leaf.requires_grad:
                torch.autograd.backward(leaf, gradient)
            else:
                sums[leaf] = sums[leaf] + gradient if leaf in sums else gradient

        for group in self._groups:
            group.find(add)
        frozen = [leaf for leaf in sums if not leaf.requires_grad]  # since its micro-batch
        for leaf in frozen:
            leaf.grad = sums[leaf] if leaf.grad is None else leaf.grad + sums[leaf]
            del sums[leaf]
        torch.autograd.backward(list(sums), list(sums.values()))


def _are_apart(leaves: list[Tensor]) -> bool:
    """Whether none is made of another, so that a hook on one may change it before the gradients of the others."""
    storages = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    return len(storages) == len(leaves) and all(leaf.grad_fn is None for leaf in leaves)


def _state(leaf: Tensor) -> tuple[int, int]:
    """What tells whether it was modified."""
    return version_of(leaf), leaf.data_ptr()
