"""`LocallyExact`: a linear chain, and the exact derivative where it is used.

The cotangents delta_n of every activation h come from the chain (`chain.py`), and the parameters of the affine part
below it get their gradients from delta_n * f'(a_n).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from .._errors import LinearBackpropError
from .._rules.elementwise import Linear, MeanLinear
from .._rules.rule import LayerRule, ModelRule
from .._torch.functions import Function
from .captured.capture import Captured, Invocation, Runner
from .captured.graph import Places, ancestors, computed_from, computes, function_of, inputs_of, outputs_of
from .plan.cutting import Cutter
from .plan.nonlinearity import nonlinearities_in
from .plan.pieces import cut_piece
from .step.chain import run_cut
from .step.functions import connect_outputs


@dataclass(frozen=True)
class LocallyExact(ModelRule):
    """A linear chain, and the exact derivative where it is used.

    The parameters of the affine part just below an activation receive g * f'(a); what lies further down
    receives the chain's cotangent of a. Two cotangents for one pre-activation are more than an activation can
    send by itself, so this is a rule for whole models, for `convert` and `collapse`, and not for `with_rule` or
    `backward_rule`.

    What the model is called with is further down: tensors by themselves and in tuples, lists, dicts and dataclasses.
    One inside another object is taken for a parameter.

    Args:
        chain: `Linear()` or `MeanLinear()`.

    Raises:
        LinearBackpropError: The chain is another rule; or the rule was given to something else than `convert` or
            `collapse`, at the backward pass.
        CollapseError: At the call: the model's graph cannot be captured.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> conversion = lb.convert(model, lb.LocallyExact(lb.Linear()))
        >>> model(torch.ones(3, 4)).sum().backward()
    """

    formula = "g * f'(a) for the parameters just below, chain's cotangent further down"
    source = "a linear chain with each layer's own derivative; for convert and collapse"

    chain: Linear | MeanLinear = Linear()  # noqa: RUF009

    def __post_init__(self) -> None:
        if not isinstance(self.chain, Linear | MeanLinear):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LinearBackpropError(f"LocallyExact's chain must be Linear() or MeanLinear(), got {self.chain!r}")

    def bind(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        layers: Sequence[LayerRule],
        observe: Callable[[str, Function], None],
    ) -> Callable[..., Any]:
        """The forward pass, its captured graph cut at every activation, the batch itself sent down the chain."""
        return Captured(forward, partial(_prepare, self, model, tuple(layers), observe), model, samples=False)


def _prepare(
    rule: LocallyExact,
    model: nn.Module,
    layers: tuple[LayerRule, ...],
    observe: Callable[[str, Function], None],
    module: fx.GraphModule,
    inputs: Sequence[Any],
    call: Invocation,
) -> Runner:
    nodes, places = list(module.graph.nodes), Places(model)
    for node in nodes:
        if computes(node):
            observe(places.path(node), function_of(node))
    placeholders = inputs_of(module.graph)
    piece = cut_piece(
        module,
        placeholders,
        {node for node in nodes if computes(node)},
        list(dict.fromkeys(outputs_of(module.graph))),
        list(nonlinearities_in(module.graph, layers)),
    )
    returned = outputs_of(module.graph)
    below = computed_from(piece.outputs, ancestors)

    def run(call: Invocation, inputs: Sequence[Any]) -> Sequence[Any]:
        made = run_cut(
            piece.module, inputs, Cutter(rule, rule.chain, chained=True), [id(x) in call.given for x in inputs]
        )  # pyright: ignore
        values = dict(zip(piece.outputs, made, strict=True))
        connect_outputs(values, below, places)
        return [values[node] for node in returned]

    return run
