"""What a step costs on either path."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import Plan


@dataclass(frozen=True)
class Costs:
    """What a step costs, counted on a captured graph.

    Attributes:
        forward: Floating-point operations of the collapsed part's forward pass, a sample.
        aggregate: Those of one row of all aggregates, a sample.
        outputs: C.
        positions: Samples in the output for each of the input's.
    """

    forward: float
    aggregate: float
    outputs: int
    positions: int = 1

    @staticmethod
    def of(plan: Plan) -> Costs:
        trace = plan.analysis.trace
        first = plan.outputs[0] if plan.outputs else None
        if first is None:
            return Costs(0, 0, 1)
        layout = plan.layouts[first]
        forward = sum(trace.operations.get(node, 0) for node in plan.above) / trace.sizes[0] / layout.positions
        nodes = [
            *plan.samples,
            *(
                n.node
                for n, each in zip(plan.nonlinearities, plan.noting, strict=True)
                for _ in range(each.emits + each.own)
            ),
        ]
        width = sum(each.width(trace.values[n][0].shape) for n, each in zip(nodes, plan.value_layouts, strict=True))
        return Costs(forward, 2 * width, layout.width(trace.values[first][0].shape), layout.positions)

    def collapse_pays(self, batch: int) -> bool:
        """Whether C + 1 samples down and their parameters' gradients, and the aggregates, cost less than N samples."""
        rows, samples = self.outputs + 1, batch * self.positions
        return 2 * self.forward * rows + self.aggregate * rows * samples < 2 * self.forward * samples

    def chain_pays(self, batch: int) -> bool:
        """Whether C samples down the chain, and a product a non-linearity, cost less than N samples down it."""
        samples = batch * self.positions
        return self.forward * self.outputs + self.aggregate * self.outputs * samples < self.forward * samples
