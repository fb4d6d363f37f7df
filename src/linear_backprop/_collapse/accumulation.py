"""The aggregates of many micro-batches, and the one backward pass that ends them."""

from __future__ import annotations

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
    leaves: list[Tensor]
    versions: list[int]
    total: Aggregates

    def has(self, step: Step, wanted: Wanted, leaves: list[Tensor], versions: list[int]) -> bool:
        """True if another micro-batch belongs to it."""
        same = step.plan is self.step.plan and wanted == self.wanted and step.autocast == self.step.autocast
        return same and versions == self.versions and all(a is b for a, b in zip(leaves, self.leaves, strict=True))


class Accumulation:
    """Takes the aggregates of micro-batches while an `accumulate()` block is open.

    Micro-batches are added up that have their graph, their leaves and what takes gradients in common: one group, as a
    rule. Where weights are made anew in each forward pass (a parametrization), each micro-batch is one of its own.
    """

    def __init__(self) -> None:
        self.groups: list[_Group] = []

    def take(self, step: Step, wanted: Wanted, total: Aggregates, leaves: list[Tensor]) -> None:
        """Add one micro-batch's aggregates.

        Raises:
            LinearBackpropError: Every micro-batch has a linear map of its own, or the inputs take gradients.
        """
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
        versions = [version_of(leaf) for leaf in leaves]
        for group in self.groups:
            same = all(a is b for a, b in zip(group.leaves, leaves, strict=False)) and group.versions == versions
            if (
                same
                and group.step.plan is step.plan
                and group.wanted == wanted
                and group.step.autocast == step.autocast
            ):
                group.total = group.total + total
                return
        self.groups.append(_Group(step, wanted, leaves, versions, total))

    def finish(self) -> None:
        """Add the gradients to what they belong to.

        Raises:
            LinearBackpropError: There are none.
        """
        if not self.groups:
            raise LinearBackpropError("no backward pass ran inside accumulate(); call loss.backward() in it")
        sums: dict[Tensor, Tensor] = {}
        for group in self.groups:
            if [version_of(leaf) for leaf in group.leaves] != group.versions:
                raise RuntimeError(
                    "a parameter was modified by an inplace operation inside accumulate(), after a micro-batch's "
                    "forward pass; step the optimizer after the block"
                )
            found = iter(group.step.found(group.wanted, group.step.over_workers(group.total)))
            for leaf, takes in zip(group.leaves, group.wanted.leaves, strict=True):
                gradient = next(found) if takes else None
                if gradient is not None:
                    sums[leaf] = sums[leaf] + gradient if leaf in sums else gradient
        frozen = [leaf for leaf in sums if not leaf.requires_grad]  # since its micro-batch
        for leaf in frozen:
            leaf.grad = sums[leaf] if leaf.grad is None else leaf.grad + sums[leaf]
            del sums[leaf]
        torch.autograd.backward(list(sums), list(sums.values()))
