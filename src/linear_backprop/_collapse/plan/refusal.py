"""Why a graph cannot be collapsed: the first fault that matters, by name, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import fx

from ..._catalogue.activations import FORMS
from ..._errors import CollapseError
from ..._rules.layers import LINEAR_LAYERS
from ..._rules.rule import LayerRule
from ..captured.graph import function_of, user_line
from ..proof.affine import Proof
from .nonlinearity import linear_map_of
from .remedies import Remedies

if TYPE_CHECKING:
    from .analysis import Analysis

MAP_OF = "the map of"


def refuse(analysis: Analysis, faults: Mapping[fx.Node, str], proof: Proof) -> None:
    """Refuse what cannot be collapsed, by name."""
    refusal = _Refusal(analysis, faults, proof)
    activations = [node for node in refusal.order if function_of(node) in FORMS]
    chosen = [node for node in activations if analysis.found[node]]
    if analysis.selection.selects is not None and not chosen:
        names = ", ".join(map(analysis.places.name, activations))
        raise CollapseError(f"`where` selects none of the activations: {names or 'none'}")
    for node in refusal.order if faults else ():
        below = [n for n in chosen if n is not node and n in analysis.trace.made_of([node])]
        if node in faults and (analysis.selection.selects is None or below):
            raise CollapseError(refusal.text(node, below))


class _Refusal:
    """What is said of a fault.

    Args:
        analysis: What is known of the graph.
        faults: Why the proofs of some nodes failed.
        proof: Tells what else would follow a rule.

    Attributes:
        order: The nodes that matter.
    """

    def __init__(self, analysis: Analysis, faults: Mapping[fx.Node, str], proof: Proof) -> None:
        self.analysis, self.faults, self.proof = analysis, faults, proof
        self.order = [n for n in analysis.found if n in analysis.needed and n in analysis.trace.carries]

    def text(self, node: fx.Node, below: list[fx.Node]) -> str:
        """Why a node is refused, and what to do: it runs after those `below`, which are selected."""
        analysis, fault = self.analysis, self.faults[node]
        remedies = self._remedies(analysis.selection.layers)
        name = analysis.places.name
        if node not in remedies.faults:
            return (
                f"{name(node)} is not selected, but runs after {name(below[0])}, which is: collapse takes "
                f"everything from one activation on, so {remedies.selecting(node)}"
            )
        if not remedies.wanted:
            more = self._remedies(LINEAR_LAYERS)
            remedies = more if more.wanted and node in more.faults else remedies
        call_is_at_fault = analysis.found[node] is not None and not fault.startswith(MAP_OF)
        advice = remedies.advice(node, fault, call_is_at_fault=call_is_at_fault)
        place = f", and runs after {name(below[0])}, which is selected" if analysis.selection.selects else ""
        return f"{name(node)} cannot be collapsed{place}: {advice}{user_line(node)}"

    def _remedies(self, layers: Sequence[LayerRule]) -> Remedies:
        """What to do under some rules for layers."""
        analysis = self.analysis
        paths = {n: analysis.places.path(n) for n in self.order if self._may_follow(n, layers)}
        lasting = [n for n in self.order if n in self.faults and (n not in paths or analysis.found[n])]
        given = "" if layers is analysis.selection.layers else ", layers=lb.LINEAR_LAYERS"
        return Remedies(analysis.trace, analysis.selection.model, paths, lasting, given)

    def _may_follow(self, node: fx.Node, layers: Sequence[LayerRule]) -> bool:
        """Whether it follows a rule, or would once selected."""
        if self.analysis.found[node] is not None and node not in self.faults:
            return True
        n = self.analysis.nonlinearity(node, layers)
        if n is None or n.layer is None:
            return n is not None
        return not self.proof.fault(node, linear_map_of(n, self.analysis.trace.values))
