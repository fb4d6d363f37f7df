"""What a step costs on either path."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from .plan import Plan

_FIXED = {"cpu": 2.5e8, "cuda": 3e11}
"""What a collapsed step takes longer than an ordinary one however small it is: floating-point operations, by device.

Measured on MLPs of 1 to 16 layers of 8 to 256 units on two cores of an AMD EPYC: 0.6 to 1.2 ms at any depth, and both
paths take the same time where by their operations alone 0.6 to 3.5e8 would be saved. On an H100 1.5 ms, and the same
time at 1.2e11 (MLPs in float32) to 8e11 (VGG19 in bfloat16). Not measured elsewhere.
"""


@dataclass(frozen=True)
class Costs:
    """What a step costs: floating-point operations, counted on a captured graph, and what small steps take besides.

    Attributes:
        forward: Operations of the collapsed part's forward pass, a sample.
        combined: Those of the combinations' run, C + 1 samples for every backward pass.
        numbers: Numbers aggregated, a sample.
        outputs: C.
        rows: C + 1; with several backward passes, their sum.
        positions: Samples in the output for each of the input's.
        fixed: What a collapsed step costs besides.
    """

    forward: float
    combined: float
    numbers: int
    outputs: int
    rows: int
    positions: int
    fixed: float

    @staticmethod
    def of(plan: Plan) -> Costs:
        """Those of a plan."""
        trace = plan.analysis.trace
        if not plan.outputs:
            return Costs(0, 0, 0, 1, 2, 1, 0)
        positions = plan.output_layouts[0].positions

        def operations(nodes: set[fx.Node]) -> float:
            return sum(trace.operations.get(node, 0) for node in nodes) / trace.sizes[0] / positions

        def width(node: fx.Node) -> int:
            return plan.layout(node).width(trace.values[node][0].shape)

        noted = [n.node for n, noting in plan.noted for _ in range(noting.emits + noting.own)]
        rows = [1 + sum(map(width, component.outputs)) for component in plan.components]
        parts = [trace.needed([*component.outputs]) & plan.above for component in plan.components]
        first: Tensor = trace.values[plan.outputs[0]][0]
        return Costs(
            forward=operations(plan.above),
            combined=sum(each * operations(part) for each, part in zip(rows, parts, strict=True)),
            numbers=sum(map(width, [*plan.samples, *noted])),
            outputs=sum(rows) - len(rows),
            rows=sum(rows),
            positions=positions,
            fixed=_FIXED.get(first.device.type, 0),
        )

    def collapse_pays(self, batch: int) -> bool:
        """Whether the combinations, their parameters' gradients and the aggregates cost less than N samples."""
        samples = batch * self.positions
        collapsed = 2 * self.combined + 2 * self.numbers * self.rows * samples + self.fixed
        return collapsed < 2 * self.forward * samples

    def chain_pays(self, batch: int) -> bool:
        """Whether C samples down the chain, and a product a non-linearity, cost less than N samples down it."""
        samples = batch * self.positions
        return self.outputs * (self.forward + 2 * self.numbers * samples) < self.forward * samples
