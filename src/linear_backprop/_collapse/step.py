"""One step of a collapsed model: forward on the batch, and the gradients from combinations of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, fx

from .._errors import CollapseError
from .aggregates import Aggregates
from .gradients import Autocast, Gradients, Noted, Wanted
from .layout import Form
from .plan import Plan
from .workers import averaged

if TYPE_CHECKING:
    from .accumulation import Accumulation


@dataclass(eq=False)
class Step:
    """What is kept of a forward pass for its backward pass.

    Attributes:
        plan: The plan.
        gradients: Its gradients.
        values: What is to be aggregated: the collapsed part's inputs, and what its non-linearities put out.
        forms: The forms of `values`, then of the outputs.
        noted: Slope and constants of every non-linearity.
        leaves: The leaves.
        autocast: What it ran under.
        group: The workers whose mean the gradients become; None for this one alone.
    """

    plan: Plan
    gradients: Gradients
    values: list[Tensor]
    forms: list[Form]
    noted: list[tuple[Tensor | None, tuple[Tensor, ...]]]
    leaves: list[Tensor]
    autocast: Autocast
    group: dist.ProcessGroup | None

    @staticmethod
    def of(
        plan: Plan,
        gradients: Gradients,
        values: dict[fx.Node, Any],
        group: dist.ProcessGroup | None = None,
    ) -> Step:
        """Run the collapsed part forward: `values` has what it reads, and gets what it returns."""
        with torch.no_grad():
            made = plan.forward.run(values)
        copies = dict(zip(plan.copied_samples, made, strict=False))
        noted: Sequence[Noted] = made[len(copies) :]
        kept = [copies[n] if n in copies else values[n].detach() for n in plan.samples]
        for h, _, own, _ in noted:
            kept += [z for z in (h, *own) if z is not None]
        for n in plan.aliased:
            values[n] = values[n].clone()
        return Step(
            plan=plan,
            gradients=gradients,
            values=kept,
            forms=[Form.of(z) for z in (*kept, *(values[n] for n in plan.outputs))],
            noted=[(slope, constants) for _, slope, _, constants in noted],
            leaves=[values[n].detach() for n in plan.leaves],
            autocast=Autocast.now(kept[0].device.type),
            group=group,
        )

    def cotangents(self, g: Sequence[Tensor | None]) -> Tensor:
        """The cotangents of the outputs that received one, side by side: shape (N, C)."""
        layouts = self.plan.output_layouts
        rows = [layout.rows(each) for each, layout in zip(g, layouts, strict=True) if each is not None]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def aggregates(self, g: Tensor, keep: bool) -> Aggregates:
        """Of all values, which are freed if they are not to be kept, before the gradients ask for memory."""
        total = Aggregates.of(
            g, [layout.rows(z) for layout, z in zip(self.plan.value_layouts, self.values, strict=True)]
        )
        if not keep:
            self.values.clear()
        return total

    def found(self, wanted: Wanted, total: Aggregates) -> list[Tensor | None]:
        """The gradients that are wanted: of the combinations of the inputs, then of the leaves."""
        plan = self.plan
        rows = zip(plan.value_layouts, total.combinations(), self.forms, strict=False)
        combinations = iter([layout.place(z, form) for layout, z, form in rows])
        samples = [next(combinations) for _ in plan.samples]
        noted: list[Noted] = []
        for noting, slope, (_, constants) in zip(plan.noting, self._slopes(), self.noted, strict=True):
            h = next(combinations) if noting.emits else None
            noted.append((h, slope, tuple(next(combinations) for _ in range(noting.own)), constants))
        columns, cotangents = total.cotangents(), list[Tensor]()
        forms = self.forms[len(plan.value_layouts) :]
        for received, layout, form in zip(wanted.outputs, plan.output_layouts, forms, strict=True):
            if received:
                width = layout.width(form.shape)
                cotangents.append(layout.place(columns[:, :width], form, pad=0.0))
                columns = columns[:, width:]
        batch = -(-(len(total.ones) + 1) // plan.output_layouts[0].positions)
        return self.gradients(wanted, samples, self.leaves, noted, cotangents, batch=batch, autocast=self.autocast)

    def _slopes(self) -> list[Tensor | None]:
        """The slopes; over several workers, their means, in one message."""
        slopes = [slope for slope, _ in self.noted]
        present = [slope for slope in slopes if slope is not None]
        if self.group is None or not present:
            return slopes
        means = iter(averaged(present, self.group))
        return [None if slope is None else next(means) for slope in slopes]


def connect(step: Step, values: dict[fx.Node, Any], accumulation: Accumulation | None) -> None:
    """Connect a step's outputs with its inputs and leaves, in `values`.

    Args:
        step: The step.
        values: Has its inputs, leaves and outputs.
        accumulation: Takes the aggregates, and the backward pass has no gradients; None for the gradients.
    """
    plan = step.plan
    outputs = [values[n].detach() for n in plan.outputs]
    sources = [values[n] for n in (*plan.samples, *plan.leaves)]
    connected = _Collapsed.apply(step, accumulation, len(outputs), *outputs, *sources)
    values.update(zip(plan.outputs, connected, strict=True))


class _Collapsed(torch.autograd.Function):
    """Outputs forward; backward, the gradients of inputs and leaves from the aggregates."""

    @staticmethod
    def forward(
        ctx: Any, step: Step, accumulation: Accumulation | None, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.step, ctx.accumulation, ctx.count = step, accumulation, count
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[count:])  # autograd sees to it that none of them changes
        return tuple(y.view_as(y) for y in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise CollapseError(
                "the collapsed backward pass cannot be differentiated again (create_graph=True); use lb.convert"
            )
        step: Step = ctx.step
        plan, nothing = step.plan, (None,) * (3 + ctx.count)
        sources = ctx.saved_tensors
        takes = ctx.needs_input_grad[3 + ctx.count :]
        count = len(plan.samples)
        wanted = Wanted(tuple(each is not None for each in g), takes[:count], takes[count:])
        if not any(wanted.outputs):
            return (*nothing, *[None] * len(sources))
        cotangents = step.cotangents(g)
        total = step.aggregates(cotangents, keep=_graph_is_kept())
        if ctx.accumulation is not None:
            ctx.accumulation.take(step, wanted, total, list(sources[count:]))
            return (*nothing, *[None] * len(sources))
        found = iter(step.found(wanted, total))
        gradients = [next(found) if each else None for each in takes]
        for index, (n, z) in enumerate(zip(plan.samples, sources, strict=False)):
            rows = gradients[index]
            if rows is not None:
                layout = plan.layouts[n]
                spread = total.spread(layout.rows(rows)[: len(total.ones) + 1], cotangents)
                gradients[index] = layout.like(spread, Form.of(z))
        return (*nothing, *gradients)


def _graph_is_kept() -> bool:
    """Whether the backward pass under way was asked to keep the graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore
