"""Why an operation cannot be collapsed, and what to do, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from ..._catalogue.activations import FORMS
from ..._catalogue.not_elementwise import ABOVE, FUNCTIONS, row_of
from ..._conversion.where import after, selection
from ..captured.graph import function_of, tensors_of
from ..captured.trace import Trace

_MOST_PATHS = 3


@dataclass
class Remedies:
    """What to do about the faults of a graph.

    Args:
        trace: The traced graph.
        model: The model.
        paths: The module of every operation that follows a rule, or would once selected: "" for the model itself.
        faults: What cannot be collapsed whatever is selected, in order.
        layers: The argument that goes with what is to be selected; "" for none.

    Attributes:
        wanted: The modules to select so that all faults lie below.
    """

    trace: Trace
    model: nn.Module
    paths: Mapping[fx.Node, str]
    faults: Sequence[fx.Node]
    layers: str
    wanted: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.wanted = self._above()

    def advice(self, node: fx.Node, fault: str, *, call_is_at_fault: bool) -> str:
        """The reason, and remedies that work.

        Args:
            node: The operation.
            fault: Why the proof failed.
            call_is_at_fault: True if a rule governs it, and cannot in this very call.
        """
        module = self.trace.places.module(node)
        row = (row_of(module) if module is not None else None) or FUNCTIONS.get(function_of(node))
        if call_is_at_fault:
            reason, remedy = fault, f"call it otherwise, or {ABOVE}"
        elif row is not None:
            reason, remedy = row.in_collapse.reason, row.in_collapse.remedy
        elif self._is_last(node):
            reason, remedy = fault, "move it out of the model, into the loss"
        else:
            reason, remedy = fault, f"write it otherwise, or {ABOVE}"
        remedy = remedy.replace(ABOVE, self._collapse_above(node))
        return f"{reason}. {remedy[:1].upper()}{remedy[1:]}"

    def selecting(self, node: fx.Node) -> str:
        """What to select, since a node is to follow a rule."""
        if self.paths[node] in self.wanted:
            return f"select it, too (`where={self._where()}`)"
        return self._collapse_above(node)

    def _above(self) -> list[str]:
        """The modules of which nothing lies below a fault."""
        below = self.trace.made_of(self.faults)
        while True:
            partly = {path for node, path in self.paths.items() if node in below}
            more = [node for node, path in self.paths.items() if node not in below and path in partly]
            if not more:
                break
            below |= self.trace.made_of(more)
        above = [node for node in self.paths if node not in below]
        return list(dict.fromkeys(map(self.paths.__getitem__, above))) if any(map(_is_activation, above)) else []

    def _collapse_above(self, node: fx.Node) -> str:
        last = self.faults[-1]
        beyond = "" if last is node else f" and above {self.trace.places.name(last)}"
        if not self.wanted:
            return f"use lb.convert: no activation that `where=` could select lies above it{beyond}"
        return f"collapse only what lies above it{beyond} (`where={self._where()}{self.layers}`)"

    def _where(self) -> str:
        """An argument that selects what is wanted, and nothing else that could follow a rule."""
        order = [path for path, _ in self.model.named_modules(remove_duplicate=False)]
        others = {*self.paths.values()}.difference(self.wanted)
        if len(self.wanted) > _MOST_PATHS:
            before = reversed(order[: max(1, min(map(order.index, self.wanted)))])
            for path in sorted(before, key=lambda path: path.count(".")):
                takes = selection(after(path), self.model).selects
                if all(takes(p, self.model) for p in self.wanted) and not any(takes(p, self.model) for p in others):
                    return f"lb.after({path!r})"
        return repr(self.wanted[0] if len(self.wanted) == 1 else self.wanted)

    def _is_last(self, node: fx.Node) -> bool:
        """Whether no activation and nothing that is learned comes after a node."""
        later, written = {node}, set(self.trace.overwrites.get(node, ()))
        nodes = list(self.trace.module.graph.nodes)
        for each in nodes[nodes.index(node) + 1 : -1]:
            if any(read in later or self.trace.storages(read) & written for read in each.all_input_nodes):
                later.add(each)
                written |= self.trace.overwrites.get(each, set())
        read = {arg for user in later - {node} for arg in user.all_input_nodes if arg not in self.trace.carries}
        learned = any(t.requires_grad for arg in read for t in tensors_of(self.trace.values[arg]))
        return not learned and not any(map(_is_activation, later - {node}))


def _is_activation(node: fx.Node) -> bool:
    return node.op != "output" and function_of(node) in FORMS
