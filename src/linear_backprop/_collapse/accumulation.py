"""The aggregates of many micro-batches, and the one backward pass that ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import LinearBackpropError
from .._torch import version_of
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

    def require_unchanged(self, places: Sequence[int]) -> None:
        """Refuse leaves that were modified since its micro-batches ran.

        Raises:
            RuntimeError: One of them was, by the user or by a hook.
        """
        leaves, states = self.step.leaves, self.states
        if _states([leaves[i] for i in places]) != [states[i] for i in places]:
            raise RuntimeError(
                "a parameter was modified by an inplace operation inside accumulate(), or by a hook on another one, "
                "before its own gradient came; step the optimizer after the block, or each parameter in its own hook"
            )

    def takes(self, step: Step, wanted: Wanted) -> bool:
        """Whether another micro-batch belongs to it."""
        return (
            step.plan is self.step.plan
            and wanted == self.wanted
            and step.autocast == self.step.autocast
            and all(a is b for a, b in zip(step.connected, self.step.connected, strict=True))
            and _states(step.leaves) == self.states
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
        if any(constants for _, constants in step.noted):
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
        self._groups.append(_Group(step, wanted, _states(step.leaves), total))

    def finish(self) -> None:
        """Add the gradients to what they belong to: each as soon as it is made, where nothing can be added to it.

        Raises:
            LinearBackpropError: There are none.
        """
        if not self._groups:
            raise LinearBackpropError("no backward pass ran inside accumulate(); call loss.backward() in it")
        sums: dict[Tensor, Tensor] = {}
        alone = len(self._groups) == 1 and _are_apart(self._groups[0].step.connected)
        for group in self._groups:
            connected, samples = group.step.connected, len(group.step.plan.samples)
            waiting = set(range(len(connected)))
            group.require_unchanged(sorted(waiting))

            def receive(
                place: int,
                gradient: Tensor,
                group: _Group = group,
                first: int = samples,
                waiting: set[int] = waiting,
            ) -> None:
                leaf = group.step.connected[place - first]
                group.require_unchanged([place - first])
                waiting.discard(place - first)
                if alone and leaf.requires_grad:
                    torch.autograd.backward(leaf, gradient)
                else:
                    sums[leaf] = sums[leaf] + gradient if leaf in sums else gradient

            group.step.find(group.wanted, group.step.over_workers(group.total), receive)
            group.require_unchanged(sorted(waiting))
        frozen = [leaf for leaf in sums if not leaf.requires_grad]  # since its micro-batch
        for leaf in frozen:
            leaf.grad = sums[leaf] if leaf.grad is None else leaf.grad + sums[leaf]
            del sums[leaf]
        torch.autograd.backward(list(sums), list(sums.values()))


def _are_apart(leaves: list[Tensor]) -> bool:
    """Whether none is made of another, so that a hook on one may change it before the gradients of the others."""
    storages = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    return len(storages) == len(leaves) and all(leaf.grad_fn is None for leaf in leaves)


def _states(leaves: list[Tensor]) -> list[tuple[int, int]]:
    """What tells whether one of them was modified."""
    return [(version_of(leaf), leaf.data_ptr()) for leaf in leaves]
