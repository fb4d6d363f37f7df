"""Why a graph cannot be collapsed: the first fault that matters, by name, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import fx

from .._catalogue.activations import FORMS
from .._errors import CollapseError
from .._rules.layers import LINEAR_LAYERS
from .._rules.rule import LayerRule
from .affine import Proof
from .graph import function_of, user_line
from .nonlinearity import linear_map_of
from .remedies import Remedies

if TYPE_CHECKING:
    from .analysis import Analysis

MAP_OF = "the map of"


def refuse(analysis: Analysis, faults: Mapping[fx.Node, str], proof: Proof) -> None:
    """Refuse what cannot be collapsed, by name."""
    order = [node for node in analysis.found if node in analysis.needed and node in analysis.trace.carries]
    activations = [node for node in order if function_of(node) in FORMS]
    chosen = [node for node in activations if analysis.found[node]]
    if analysis.selection.selects is not None and not chosen:
        names = ", ".join(map(analysis.places.name, activations))
        raise CollapseError(f"`where` selects none of the activations: {names or 'none'}")
    for node in order if faults else ():
        below = [n for n in chosen if n is not node and n in analysis.trace.made_of([node])]
        if node in faults and (analysis.selection.selects is None or below):
            raise CollapseError(
                _refusal(analysis, node, faults[node], below, partial(_remedies, analysis, faults, proof))
            )


def _refusal(
    analysis: Analysis,
    node: fx.Node,
    fault: str,
    below: list[fx.Node],
    under: Callable[[Sequence[LayerRule]], Remedies],
) -> str:
    """Why a node is refused, and what to do: it runs after those `below`, which are selected."""
    remedies = under(analysis.selection.layers)
    name = analysis.places.name(node)
    if node not in remedies.faults:
        return (
            f"{name} is not selected, but runs after {analysis.places.name(below[0])}, which is: collapse takes "
            f"everything from one activation on, so {remedies.selecting(node)}"
        )
    if not remedies.wanted:
        more = under(LINEAR_LAYERS)
        remedies = more if more.wanted and node in more.faults else remedies
    call_is_at_fault = analysis.found[node] is not None and not fault.startswith(MAP_OF)
    advice = remedies.advice(node, fault, call_is_at_fault=call_is_at_fault)
    place = (
        f", and runs after {analysis.places.name(below[0])}, which is selected" if analysis.selection.selects else ""
    )
    return f"{name} cannot be collapsed{place}: {advice}{user_line(node)}"


def _remedies(analysis: Analysis, faults: Mapping[fx.Node, str], proof: Proof, layers: Sequence[LayerRule]) -> Remedies:
    """What to do under some rules for layers."""

    def may_follow(node: fx.Node) -> bool:
        if analysis.found[node] is not None and node not in faults:
            return True
        n = analysis.nonlinearity(node, layers)
        return n is not None and (n.layer is None or not proof.fault(node, linear_map_of(n, analysis.trace.values)))

    order = [n for n in analysis.found if n in analysis.needed and n in analysis.trace.carries]
    paths = {n: analysis.places.path(n) for n in order if may_follow(n)}
    lasting = [n for n in order if n in faults and (n not in paths or analysis.found[n])]
    given = "" if layers is analysis.selection.layers else ", layers=lb.LINEAR_LAYERS"
    return Remedies(analysis.trace, analysis.selection.model, paths, lasting, given)
