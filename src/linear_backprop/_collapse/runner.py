"""What runs in the place of a captured model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx

from .._errors import CollapseError
from .._rules.elementwise import Linear, MeanLinear
from .captured.graph import compiled, computes, inputs_of, outputs_of
from .captured.layout import Form
from .locally_exact import LocallyExact
from .plan.analysis import Analysis
from .plan.costs import Costs
from .plan.cutting import Connected, Cutter
from .plan.pieces import Piece, cut_piece
from .plan.plan import Plan
from .step.accumulation import Accumulation
from .step.chain import run_cut
from .step.connection import connect
from .step.functions import connect_outputs
from .step.gradients import Gradients
from .step.maps import Maps
from .step.step import Step
from .step.workers import averaged, require_same


@dataclass(frozen=True)
class Options:
    """How a captured graph is run.

    Attributes:
        group: The workers whose mean the gradients become; None for this one alone.
        always: True to collapse also where that costs more.
        check: True to verify every step.
        compiled: True to compile the graphs.
    """

    group: dist.ProcessGroup | None
    always: bool
    check: bool
    compiled: bool


class CollapsedRunner:
    """One captured graph under `Linear` or `MeanLinear`.

    Args:
        analysis: What the graph consists of.
        rule: The rule.
        options: How it is run.

    Attributes:
        costs: What a step costs on either path.
    """

    def __init__(
        self,
        analysis: Analysis,
        rule: Linear | MeanLinear,
        options: Options,
    ) -> None:
        self.plan = Plan(analysis, rule)
        self.gradients = Gradients(self.plan, options.compiled)
        self.costs = Costs.of(self.plan)
        if options.compiled:
            self.plan.forward = replace(self.plan.forward, module=_compiled_forward(self.plan))
        if options.group is not None:
            _require_one_map(self.plan)
        self.options = options
        graph = analysis.trace.module.graph
        self._placeholders = inputs_of(graph)
        self._returned = outputs_of(graph)

    def collapses(self, samples: int) -> bool:
        """Whether a batch of so many samples is collapsed."""
        return self.options.always or self.options.group is not None or self.costs.collapse_pays(samples)

    def __call__(self, inputs: Sequence[Any], collapses: bool, accumulation: Accumulation | None) -> list[Any]:
        """The values that the graph returns."""
        plan = self.plan
        values: dict[fx.Node, Any] = dict(zip(self._placeholders, inputs, strict=True))
        plan.require_apart(values)
        if not collapses:
            plan.whole().run(values)
            return [values[node] for node in self._returned]
        names = [n.name for n in run_what_is_under(plan, self.options.group, values)]
        if plan.outputs:
            step = Step.of(plan, self.gradients, values, self.options.group, names, check=self.options.check)
            connect(step, values, accumulation)
        else:
            plan.forward.run(values)
        return _returned(plan, self.options.group, values, self._returned)


class LocalRunner:
    """One captured graph under `LocallyExact`.

    Args:
        analysis: What the graph consists of.
        rule: The rule.
        options: How it is run; `always` sends the unit vectors down the chain also where the batch is cheaper.
        arguments: Those inputs of the graph that the model is called with: they receive the chain's cotangents.

    Attributes:
        whole: Whether the chain has to reach what no sample does: activations of parameters alone, or an argument.
        mixes: Whether it has to reach what is made of all samples, below the collapsed part.
    """

    def __init__(
        self,
        analysis: Analysis,
        rule: LocallyExact,
        options: Options,
        arguments: Collection[fx.Node],
    ) -> None:
        self.rule, self.options = rule, options
        self.plan = Plan(analysis, rule.chain)
        self.gradients = Gradients(self.plan, options.compiled)
        self.costs = Costs.of(self.plan)
        if options.group is not None:
            _require_one_map(self.plan)
        carries = analysis.trace.carries
        self._receives = {*carries, *arguments}
        taking = [n for n in arguments if n not in carries and _takes_gradient(analysis.trace.values[n][0])]
        beside = [*(n.node for n in analysis.ruled), *taking]
        self.whole = bool(beside)
        self.mixes = any(n in carries and analysis.trace.values[n][0].requires_grad for n in self.plan.leaves)
        if self.whole and self.plan.below:
            raise CollapseError(
                f"{analysis.places.name(beside[0])} is not of the samples, and LocallyExact with `where` has no chain "
                f"to reach it: take another rule, or collapse without `where`"
            )
        graph = analysis.trace.module.graph
        self._placeholders = inputs_of(graph)
        self._returned = outputs_of(graph)
        self._piece = self._whole_piece() if self.whole else self.plan.cut()
        self._components = [
            Connected(_places(self.plan.outputs, each.outputs), _places(self._piece.inputs, each.sources))
            for each in self.plan.components
        ]

    def collapses(self, samples: int) -> bool:
        """Whether the unit vectors are sent down the chain, in a batch of so many samples."""
        return not self.whole and not self.mixes and (self.options.always or self.costs.chain_pays(samples))

    def __call__(self, inputs: Sequence[Any], collapses: bool, accumulation: Accumulation | None) -> list[Any]:
        """The values that the graph returns."""
        plan, piece = self.plan, self._piece
        values: dict[fx.Node, Any] = dict(zip(self._placeholders, inputs, strict=True))
        plan.require_apart(values)
        parameters = [] if self.whole else run_what_is_under(plan, self.options.group, values)
        if self.options.group is not None:
            parameters += _taking_gradients(plan, piece.inputs, values)
        chained = self.whole or not collapses
        maps = None
        if not chained:
            leaves = [values[n].detach() for n in plan.leaves]
            outputs = [piece.outputs.index(n) for n in plan.outputs]
            maps = Maps(plan, self.gradients, [values[n] for n in plan.samples], leaves, outputs, self._components)
        cutter = Cutter(self.rule, plan.rule, chained)
        made = run_cut(
            piece.module,
            [values[n] for n in piece.inputs],
            cutter,
            [n in self._receives for n in piece.inputs],
            maps=maps,
            group=self.options.group,
            names=[n.name for n in parameters],
        )
        values.update(zip(piece.outputs, made, strict=True))
        connect_outputs(values, plan.computed_from, plan.analysis.places)
        return _returned(plan, self.options.group, values, self._returned)

    def _whole_piece(self) -> Piece:
        nodes = {node for node in self.plan.module.graph.nodes if computes(node)}
        nonlinearities = [*self.plan.nonlinearities, *self.plan.analysis.ruled]
        return cut_piece(self.plan.module, self._placeholders, nodes, self._returned, nonlinearities)


def _compiled_forward(plan: Plan) -> Callable[..., tuple[Any, ...]]:
    """The forward pass under TorchInductor, which may choose how what is kept of it lies in memory, not its outputs."""
    run = compiled(plan.forward.module, keep_output_stride=not plan.lies_in_any_order)
    traced = [plan.analysis.trace.values[n][0] for n in plan.forward.outputs]
    forms = [Form.of(y) if isinstance(y, Tensor) else None for y in traced]

    def forward(*inputs: Any) -> tuple[Any, ...]:
        made = run(*inputs)
        laid = [y if form is None else form.relaid(y) for y, form in zip(made, forms, strict=False)]
        return (*laid, *made[len(forms) :])

    return forward


def _require_one_map(plan: Plan) -> None:
    """Refuse what makes the map of every worker its own."""
    for n, noting in plan.noted:
        if noting.constants:
            raise CollapseError(
                f"{plan.analysis.places.name(n.node)} takes its statistics from each worker's own part of the batch, "
                f"and aggregates cannot be summed under different ones: put it in eval mode, or leave out process_group"
            )
    for node in plan.leaves:
        if node in plan.analysis.trace.carries:
            raise CollapseError(
                f"{plan.analysis.places.name(node)} mixes the samples of each worker's own part of the batch: leave "
                f"out process_group"
            )


def run_what_is_under(plan: Plan, group: dist.ProcessGroup | None, values: dict[fx.Node, Any]) -> list[fx.Node]:
    """Run what does not depend on the samples, and what lies below the collapsed part.

    Returns:
        The parameters whose gradients are averaged where they leave it: every worker has its own.
    """
    if plan.computed_once:
        plan.once.run(values)
    if not plan.below:
        return []
    if group is None:
        plan.under.run(values)
        return []
    own, parameters = dict(values), _taking_gradients(plan, plan.under.inputs, values)
    own.update({node: _Averaged.apply(values[node], group) for node in parameters})
    plan.under.run(own)
    values.update({node: own[node] for node in plan.under.outputs})
    return parameters


def _returned(
    plan: Plan, group: dist.ProcessGroup | None, values: dict[fx.Node, Any], nodes: Sequence[fx.Node]
) -> list[Any]:
    """What the graph returns: of what is made of parameters alone, every worker's gradient becomes the mean."""
    own = dict(values)
    if group is not None:
        beside = [n for n in dict.fromkeys(nodes) if n in plan.computed_once and _takes_gradient(values[n])]
        own.update({n: _Averaged.apply(values[n], group, n.name) for n in beside})
    return [own[n] for n in nodes]


def _places(nodes: Sequence[fx.Node], chosen: Collection[fx.Node]) -> set[int]:
    return {place for place, node in enumerate(nodes) if node in chosen}


def _takes_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _taking_gradients(plan: Plan, nodes: Sequence[fx.Node], values: dict[fx.Node, Any]) -> list[fx.Node]:
    """Those parameters among the inputs of a graph that take gradients."""
    carries = plan.analysis.trace.carries
    return [n for n in nodes if _takes_gradient(values[n]) and n not in carries]


class _Averaged(torch.autograd.Function):
    """A tensor whose gradient becomes the mean over the workers, who agree on its name unless they did before."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup, name: str = "") -> Tensor:
        ctx.group, ctx.name = group, name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.name:
            require_same(ctx.name, [], tuple(g.shape), ctx.group, g.device)
        return averaged([g], ctx.group)[0], None, None
