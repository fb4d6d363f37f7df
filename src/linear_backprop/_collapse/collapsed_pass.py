"""One pass of a collapsed model: what is kept of it, the run on C + 1 combined samples, and the gradients.

The mathematics, and the letters, are those of `collapse.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._torch import graph_is_kept
from .aggregates import Aggregates, mean_slopes
from .boundary import Seam
from .replay import Emitter, Recorded, Recorder, autocast_as_now, undisturbed

if TYPE_CHECKING:
    from .collapse import Collapsed


@dataclass(frozen=True)
class CollapsedPass:
    """One forward pass, but for its values: what it takes to run it again on combined samples."""

    collapsed: Collapsed
    seen: list[Recorded]
    inputs: int
    crossed: int
    seam: Seam
    parameters: list[nn.Parameter]
    versions: list[int]
    autocast: Callable[[], AbstractContextManager[Any]]

    @staticmethod
    def of(collapsed: Collapsed, recorder: Recorder, inputs: tuple[Tensor, ...]) -> CollapsedPass:
        parameters = [p for p in collapsed.model.parameters() if p.requires_grad]
        versions = [p._version for p in parameters]
        boundary = recorder.boundary
        autocast = autocast_as_now(inputs[0].device.type)
        return CollapsedPass(
            *(collapsed, recorder.seen, len(inputs), len(boundary.crossed), boundary.seam),
            *(parameters, versions, autocast),
        )

    @property
    def leaves(self) -> int:
        """How many quantities gradients are taken of, besides the parameters."""
        return self.inputs + self.crossed

    def aggregates(self, g: Tensor, values: list[Tensor]) -> Aggregates:
        """Of inputs, of what crossed the boundary, and of what the non-linearities made."""
        if [p._version for p in self.parameters] != self.versions:
            raise RuntimeError(
                "a parameter was modified by an inplace operation between the forward and the backward pass, "
                "and the collapsed backward pass needs the parameters of the forward pass; step the optimizer later"
            )
        return Aggregates.of(g, values)

    def over_workers(self, total: Aggregates) -> Aggregates:
        """The sums over all workers, where there are several."""
        group = self.collapsed.process_group
        return total if group is None else total.over(group)

    def replay(self, total: Aggregates, wanted: Sequence[bool] = ()) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the model on the C + 1 combinations: outputs, the cotangents for them, and the leaves.

        Args:
            total: The aggregates.
            wanted: Which leaves need a gradient; none if not given.
        """
        collapsed, combinations = self.collapsed, total.combinations()
        leaves = [z.requires_grad_(need) for z, need in zip(combinations, wanted, strict=False)]
        leaves += combinations[len(leaves) : self.leaves]
        inputs, crossed, emitted = leaves[: self.inputs], leaves[self.inputs :], combinations[self.leaves :]
        with (
            undisturbed(collapsed.model, inputs if self.seam.activations else []),
            self.autocast(),
            Emitter(collapsed.layers, self.seen_by_all, emitted, self.seam, crossed),
        ):
            outputs = collapsed.model(*inputs)
        return outputs, total.cotangents().view_as(outputs).to(outputs.dtype), leaves

    @property
    def seen_by_all(self) -> list[Recorded]:
        """What the non-linearities did, slopes being the mean over the workers."""
        group = self.collapsed.process_group
        return self.seen if group is None else mean_slopes(self.seen, group)


class Collapse(torch.autograd.Function):
    """Outputs forward; backward, the gradients of leaves and parameters from the aggregates."""

    @staticmethod
    def forward(ctx: Any, step: CollapsedPass, values: list[Tensor], y: Tensor, *leaves: Tensor) -> Tensor:
        ctx.step, ctx.values = step, values
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        step: CollapsedPass = ctx.step
        values: list[Tensor] = ctx.values
        if not values:
            raise RuntimeError(
                "trying to go backward through a collapsed pass a second time, whose values are freed already; "
                "give retain_graph=True the first time"
            )
        wanted = ctx.needs_input_grad[3 : 3 + step.leaves]
        total = step.aggregates(g, values)
        if not graph_is_kept():
            ctx.values = []
            del values[step.leaves :]  # before the gradients ask for memory
        if step.collapsed.pending is not None:
            step.collapsed.accumulate_pass(step, total)
            return (None,) * len(ctx.needs_input_grad)
        total = step.over_workers(total)
        outputs, cotangents, leaves = step.replay(total, wanted)
        sources = [z for z in leaves if z.requires_grad]
        found = torch.autograd.grad(
            outputs, [*sources, *step.parameters], cotangents, allow_unused=True, materialize_grads=True
        )
        rows = iter(found[: len(sources)])
        of_leaves = [total.spread(next(rows), g, z) if need else None for z, need in zip(values, wanted, strict=False)]
        return None, None, None, *of_leaves, *found[len(sources) :]
