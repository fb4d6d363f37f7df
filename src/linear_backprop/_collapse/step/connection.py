"""What connects a step's outputs with its inputs and parameters in autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..._errors import CollapseError
from ..._torch.recording import graph_is_kept
from ..captured.layout import Form
from .accumulation import Accumulation
from .functions import connect_outputs, outputs_apart, require_one_cotangent
from .gradients import Wanted
from .step import Step


def connect(step: Step, values: dict[fx.Node, Any], accumulation: Accumulation | None) -> None:
    """Connect a step's outputs with its inputs and leaves, in `values`.

    Args:
        step: The step.
        values: Has its inputs, leaves and outputs.
        accumulation: Takes the aggregates, and the backward pass has no gradients; None for the gradients.
    """
    plan = step.plan
    overwritten = {n: [values[m] for m in (n, *of) if values[m].requires_grad] for n, of in plan.copied_samples.items()}
    samples = [values[n].clone() if overwritten.get(n) else values[n] for n in plan.samples]
    leaves = step.connected
    if accumulation is not None:  # what made the leaves has its turn when the accumulation is finished
        leaves = [leaf.detach().requires_grad_(leaf.requires_grad) for leaf in leaves]
    sources = list(zip([*plan.samples, *plan.leaves], [*samples, *leaves], strict=True))
    apart = outputs_apart([values[n] for n in plan.outputs])
    for component in plan.components:
        given = [z if n in component.sources else None for n, z in sources]
        if not any(z is not None and z.requires_grad for z in given):
            continue
        step.waiting += 1
        outputs = [y if n in component.outputs else None for n, y in zip(plan.outputs, apart, strict=True)]
        made = _Collapsed.apply(step, accumulation, outputs, *given)
        values.update({n: y for n, y in zip(plan.outputs, made, strict=True) if n in component.outputs})
    connect_outputs(values, plan.computed_from, plan.analysis.places)
    for n, takes in overwritten.items():
        if takes:
            _Overwritten.apply(values[n], n.name, *takes)


class _Overwritten(torch.autograd.Function):
    """What the model made of its input in place, outside autograd: whoever uses it later has no gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, name: str, *sources: Tensor) -> Tensor:
        ctx.name = name
        ctx.mark_dirty(value)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise CollapseError(
            f"the model overwrote its input ({ctx.name}), which is used again outside: its gradient from there is not "
            f"computed in a collapsed backward pass. Give the model a clone(), or let it write out of place"
        )


class _Collapsed(torch.autograd.Function):
    """Outputs forward; backward, the gradients of inputs and leaves from the aggregates."""

    @staticmethod
    def forward(
        ctx: Any, step: Step, accumulation: Accumulation | None, outputs: list[Tensor | None], *sources: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.step, ctx.accumulation = step, accumulation
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*sources)  # autograd sees to it that none of them changes
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise CollapseError(
                "the collapsed backward pass cannot be differentiated again (create_graph=True); use lb.convert"
            )
        require_one_cotangent(g)
        step: Step = ctx.step
        plan, nothing = step.plan, (None, None, None)
        sources = ctx.saved_tensors
        takes = ctx.needs_input_grad[3:]
        count = len(plan.samples)
        wanted = Wanted(tuple(each is not None for each in g), takes[:count], takes[count:])
        if not any(wanted.outputs):
            return (*nothing, *[None] * len(sources))
        cotangents = step.cotangents(g)
        total = step.aggregates(cotangents, keep=graph_is_kept())
        if ctx.accumulation is not None:
            ctx.accumulation.take(step, wanted, total)
            return (*nothing, *[None] * len(sources))
        step.require_same_on_all([wanted], total)
        total = step.over_workers(total)
        found: dict[int, Tensor] = {}
        step.find(wanted, total, found.__setitem__)
        for index, (n, z) in enumerate(zip(plan.samples, sources, strict=False)):
            if index in found and z is not None:
                layout = plan.layout(n)
                form = Form.of(z)
                spread = total.spread(layout.rows(found[index], form)[: len(total.ones) + 1], cotangents)
                found[index] = layout.like(spread, form)
        return (*nothing, *(found.get(index) for index in range(len(sources))))
