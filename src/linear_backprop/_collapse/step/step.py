"""One step of a collapsed model: forward on the batch, and the gradients from combinations of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx

from ..._errors import CollapseError
from ..captured.layout import Form
from ..plan.emission import Noted
from ..plan.plan import Plan
from .aggregates import Aggregates
from .gradients import Autocast, Gradients, Receive, Wanted
from .workers import averaged, require_same, require_same_values

# How far combinations may be off, relative to the largest value: rounding over the layers.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}


@dataclass(eq=False)
class Step:
    """What is kept of a forward pass for its backward pass.

    Attributes:
        plan: The plan.
        gradients: Its gradients.
        values: What is to be aggregated: the collapsed part's inputs, and what its non-linearities put out.
        forms: The forms of `values`, then of the outputs.
        noted: Of every non-linearity, without what is to be aggregated.
        leaves: The values of the leaves.
        connected: The leaves.
        autocast: What it ran under.
        group: The workers whose mean the gradients become; None for this one alone.
        names: Of the parameters below, whose gradients are averaged by themselves.
        checked: The outputs, where their combinations are to be verified.
        waiting: How many backward passes, each of other outputs, may yet come.
    """

    plan: Plan
    gradients: Gradients
    values: list[Tensor]
    forms: list[Form]
    noted: list[Noted]
    leaves: list[Tensor]
    connected: list[Tensor]
    autocast: Autocast
    group: dist.ProcessGroup | None
    names: Sequence[str]
    checked: list[Tensor]
    waiting: int = 0

    @staticmethod
    def of(
        plan: Plan,
        gradients: Gradients,
        values: dict[fx.Node, Any],
        group: dist.ProcessGroup | None = None,
        names: Sequence[str] = (),
        *,
        check: bool = False,
    ) -> Step:
        """Run the collapsed part forward: `values` has what it reads, and gets what it returns."""
        connected = [values[n] for n in plan.leaves]
        leaves = [z.detach() for z in connected]
        for index, n in enumerate(plan.leaves):
            if n in plan.changing:
                leaves[index] = leaves[index].clone()
                connected[index] = connected[index] if connected[index].requires_grad else leaves[index]
        with torch.no_grad():
            made = plan.forward.run(values)
        copies = dict(zip(plan.copied_samples, made, strict=False))
        noted = [Noted(*each) for each in made[len(copies) :]]
        kept = [copies[n] if n in copies else values[n].detach() for n in plan.samples]
        for each in noted:
            kept += each.combined
        plan.require_shapes(values)
        with torch.no_grad():  # as views of what comes from below were made
            values.update({n: values[n].clone() for n in plan.aliased})
        return Step(
            plan=plan,
            gradients=gradients,
            values=kept,
            forms=[Form.of(z) for z in (*kept, *(values[n] for n in plan.outputs))],
            noted=[each._replace(value=None, own=()) for each in noted],
            leaves=leaves,
            connected=connected,
            autocast=Autocast.now(kept[0].device.type),
            group=group,
            names=names,
            checked=[values[n] for n in plan.outputs] if check else [],
        )

    def cotangents(self, g: Sequence[Tensor | None]) -> Tensor:
        """The cotangents of the outputs that received one, side by side: shape (N, C)."""
        outputs = zip(g, self.plan.output_layouts, self._output_forms, strict=True)
        rows = [layout.rows(each, form) for each, layout, form in outputs if each is not None]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def aggregates(self, g: Tensor, keep: bool) -> Aggregates:
        """Of all values, which are freed if they are not to be kept, before the gradients ask for memory."""
        layouts = [*self.plan.value_layouts, *(self.plan.output_layouts if self.checked else ())]
        values = [*self.values, *self.checked]
        total = Aggregates.of(g, [layout.rows(z) for layout, z in zip(layouts, values, strict=True)])
        self.waiting -= not keep
        if not self.waiting:
            self.values.clear()
        return total

    def require_same_on_all(self, passes: Sequence[Wanted], total: Aggregates) -> None:
        """Refuse backward passes that are not those of the other workers: of other outputs, or under another map.

        Args:
            passes: All that are to be summed.
            total: The aggregates of one of them.

        Raises:
            CollapseError: On every worker.
        """
        if self.group is None:
            return
        layouts = [*self.plan.value_layouts, *self.plan.output_layouts]
        samples = [layout.of_sample(form) for layout, form in zip(layouts, self.forms, strict=True)]
        maps = self.plan.operations, samples, total.rows.dtype
        device = total.rows.device
        require_same([[*each.outputs] for each in passes], [*self.names], maps, self.group, device)
        require_same_values(self.leaves, self.plan.leaf_names, self.group, device)

    def over_workers(self, total: Aggregates) -> Aggregates:
        """The sums over all workers, where there are several."""
        return total if self.group is None else total.over(self.group)

    def find(self, wanted: Wanted, total: Aggregates, receive: Receive) -> None:
        """Make the gradients that are wanted, of the combinations of the inputs and of the leaves."""
        plan = self.plan
        rows = zip(plan.value_layouts, total.combinations(), self.forms, strict=False)
        combinations = iter([layout.place(z, form) for layout, z, form in rows])
        samples = [next(combinations) for _ in plan.samples]
        noted: list[Noted] = []
        for (_, noting), slope, each in zip(plan.noted, self._slopes(), self.noted, strict=True):
            value = next(combinations) if noting.emits else None
            own = tuple(next(combinations) for _ in range(noting.own))
            noted.append(Noted(value, slope, own, each.constants))
        columns, cotangents = total.cotangents(), list[Tensor]()
        for received, layout, form in zip(wanted.outputs, plan.output_layouts, self._output_forms, strict=True):
            if received:
                width = layout.width(form.shape)
                cotangents.append(layout.place(columns[:, :width], form, pad=0.0))
                columns = columns[:, width:]
        batch = plan.output_layouts[0].whole_samples(len(total.ones) + 1)
        if self.checked:
            self._verify(samples, noted, total, batch)
        self.gradients(
            wanted,
            samples,
            self.leaves,
            noted,
            cotangents,
            batch=batch,
            autocast=self.autocast,
            receive=receive,
        )

    @property
    def _output_forms(self) -> list[Form]:
        return self.forms[len(self.plan.value_layouts) :]

    def _verify(self, samples: list[Tensor], noted: list[Noted], total: Aggregates, batch: int) -> None:
        """Refuse gradients of combinations that do not come out as those of the outputs."""
        plan = self.plan
        values = dict(zip([*plan.samples, *plan.leaves], [*samples, *self.leaves], strict=True))
        given = [values[n] if n in values else plan.number(n, batch) for n in plan.replay.inputs]
        with torch.no_grad(), self.autocast.again():
            made = plan.replay.module(*given, *noted)
        combinations = total.combinations()[-len(made) :]
        for y, expected, layout, form in zip(made, combinations, plan.output_layouts, self._output_forms, strict=True):
            error = (layout.rows(y, form)[: len(expected)] - expected).abs().max() / expected.abs().max().clamp(
                min=1e-30
            )
            if not error <= _TOLERANCE.get(y.dtype, 0.1):
                raise CollapseError(
                    f"combinations of samples come out of the model {error.item():.1e} off (relative): rounding, or "
                    f"infinities among its values; scale its inputs, or run it in a wider dtype"
                )

    def _slopes(self) -> list[Tensor | None]:
        """The slopes; over several workers, their means, in one message."""
        slopes = [each.slope for each in self.noted]
        present = [slope for slope in slopes if slope is not None]
        if self.group is None or not present:
            return slopes
        batch = self.plan.output_layouts[0].batch(self._output_forms[0].shape)
        means = iter(averaged(present, self.group, [batch] * len(present)))
        return [None if slope is None else next(means) for slope in slopes]
