"""The parts of a forward pass, and the order in which they run."""

from __future__ import annotations

import enum
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import fx

from ..._errors import CollapseError
from ..captured.graph import user_line

if TYPE_CHECKING:
    from .analysis import Analysis


class Part(enum.Enum):
    """The part of a forward pass that an operation belongs to."""

    ONCE = "does not depend on the samples: computed once, in the ordinary graph"
    BELOW = "below the collapsed part: runs as it is, with its true derivatives"
    ABOVE = "collapsed"

    @property
    def rank(self) -> int:
        """The parts run in this order."""
        return list(Part).index(self)


def require_order(analysis: Analysis) -> None:
    """Refuse graphs in which the parts, run one after the other, would read what is not there yet or no more."""
    trace, parts, name = analysis.trace, analysis.parts, analysis.places.name
    order = {node: i for i, node in enumerate(trace.module.graph.nodes)}
    for first, second in pairwise(node for node in trace.random if node in parts):
        if parts[first].rank > parts[second].rank:
            raise CollapseError(
                f"{name(second)} draws its random numbers after {name(first)}, and would "
                f"draw them before: the collapsed part runs last. Draw them first{user_line(second)}"
            )
    for node, storages in trace.overwrites.items():
        if node not in parts:
            continue
        if analysis.is_above(node):
            _require_one_way_in(analysis, node, storages)
        for other in parts:
            if other is node or not trace.touches(other, storages):
                continue
            later, ranks = order[other] > order[node], parts[other].rank - parts[node].rank
            layer = (n := analysis.found.get(other)) is not None and n.layer is not None
            combined = parts[node] is Part.ABOVE and later and other in analysis.needed and not layer
            if (ranks < 0 if later else ranks > 0) or (combined and _is_foreign(analysis, node)):
                raise CollapseError(
                    f"{name(node)} overwrites what {name(other)} reads: write it out of place{user_line(node)}"
                )


def _require_one_way_in(analysis: Analysis, node: fx.Node, storages: set[int]) -> None:
    """Refuse to overwrite what tensors from below share, or return: above, each has combinations of its own."""
    trace, name = analysis.trace, analysis.places.name
    sharing = [n for n, part in analysis.parts.items() if part is Part.BELOW and trace.storages(n) & storages]
    outputs = trace.outputs
    returned = [n for n in sharing if n in outputs]
    entering = [n for n in sharing if any(map(analysis.is_above, n.users))]
    if returned or len(entering) > 1:
        names = " and ".join(dict.fromkeys(map(name, (returned or entering)[:2])))
        raise CollapseError(
            f"{name(node)} overwrites {names}, which lies below the collapsed part and is "
            f"{'returned' if returned else 'read under two names'}: write it out of place{user_line(node)}"
        )


def _is_foreign(analysis: Analysis, node: fx.Node) -> bool:
    """Whether a node overwrites a tensor that is not of the samples."""
    trace, parts = analysis.trace, analysis.parts
    storages = trace.overwrites[node]
    return any(parts.get(a) is Part.ONCE and trace.storages(a) & storages for a in node.all_input_nodes)
