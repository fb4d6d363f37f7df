"""The graphs of a collapsed model, made of the one that was captured.

once      what does not depend on the samples: parameters, and what is made of them; in ordinary autograd
below     what lies under the collapsed part: on the batch, in ordinary autograd
forward   the collapsed part on the batch, without autograd: its outputs, and what is to be aggregated
replay    the collapsed part on combinations of samples, its non-linearities emitting those of what they put out
whole     all of it in ordinary autograd under the rule, where that is cheaper
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from ..._errors import CollapseError
from ..._rules.elementwise import Linear, MeanLinear
from ..._torch.tensors import storage_of
from ..captured.graph import computed_from, computes, inputs_of, name_of, tensors_of, user_line
from ..captured.layout import Layout
from .analysis import Analysis
from .nonlinearity import NonLinearity
from .parts import Part
from .pieces import Noting, Piece, cut_piece, forward_piece, ordinary_piece, replay_piece

_VIEWS = {"view", "view_as", "view_as_real", "view_as_complex", "_unsafe_view", "as_strided"}
_VIEWS_OR_COPIES = {"reshape", "reshape_as", "contiguous", "flatten", "ravel", "to", "type", "type_as", "clone"}


@dataclass(frozen=True)
class Component:
    """Outputs with one backward pass; with others they share samples and leaves, and nothing learned between.

    Attributes:
        outputs: The nodes.
        sources: The samples and leaves that they depend on.
    """

    outputs: set[fx.Node]
    sources: set[fx.Node]


class Plan:
    """How one captured graph is run; see above.

    Args:
        analysis: What the graph consists of.
        rule: `Linear()` or `MeanLinear()`.

    Attributes:
        samples: The inputs of the collapsed part that hold samples: the model's, and what crosses from below.
        leaves: What else it reads: parameters and constants, and what is made of them.
        changing: Those leaves that the forward pass itself overwrites.
        outputs: What it returns that takes gradients.
        value_layouts: Where what is aggregated does: samples, and what non-linearities put out.
        output_layouts: Where the outputs do.
        components: The outputs, those together that have something learned in common.
        computed_from: Those outputs that are computed from others, with these.
        noted: The non-linearities, and what is noted of each.
        overwritten: The graph's inputs that it overwrites, and with which operation first.
        copied_samples: Those inputs that the forward pass overwrites, and the leaves that it does so with.
        emitted_layouts: Where what each non-linearity puts out does.
    """

    def __init__(self, analysis: Analysis, rule: Linear | MeanLinear) -> None:
        self.analysis, self.rule = analysis, rule
        trace = analysis.trace
        self.module, self.returned = trace.module, trace.outputs
        self.nonlinearities = analysis.nonlinearities
        self.above = {n for n, part in analysis.parts.items() if part is Part.ABOVE and n.op != "placeholder"}
        self.below = {n for n, part in analysis.parts.items() if part is Part.BELOW and n.op != "placeholder"}
        self.computed_once = {n for n, part in analysis.parts.items() if part is Part.ONCE and computes(n)}
        self.outputs = [node for node in analysis.outputs if node in self.above]
        read = self._read_by(self._with_numbers(self.above, self.returned))
        entering = [n for n in read if n in trace.carries]
        self.samples = [n for n in entering if self._holds_samples(n)]
        self.leaves = [n for n in read if n not in self.samples and n not in trace.numbers]
        self.changing = {n for n in self.leaves if any(s & trace.storages(n) for s in trace.overwrites.values())}
        self.components = self._components()
        self.computed_from = computed_from(self.outputs, lambda node: trace.needed([node]))
        self.output_layouts = [self.layout(n) for n in self.outputs]
        self.once = self._ordinary_piece(self.computed_once, self.above | self.below)
        self.under = self._ordinary_piece(self.below, self.above)
        self.noted = [(n, self._noting(n)) for n in self.nonlinearities]
        self.emitted_layouts = [self.layout(n.node) for n in self.nonlinearities]
        self.value_layouts = [self.layout(n) for n in self.samples]
        for n, noting in self.noted:
            self.value_layouts += [self.layout(n.node)] * (noting.emits + noting.own)
        writers = {n: trace.overwriting(n, n) for n in self.samples}
        self.overwritten = {n: w[0] for n in inputs_of(self.module.graph) if (w := trace.overwriting(n, n))}
        self.copied_samples = {n: [m for m in self.leaves if m in trace.made_of(w)] for n, w in writers.items() if w}
        self.forward = self._forward_piece()
        self.replay = self._replay_piece()
        self._whole: Piece | None = None
        self.aliased = self._aliased()

    @cached_property
    def lies_in_any_order(self) -> bool:
        """Whether it comes to the same in which order its values lie in memory.

        Not where a view is asked for; nor where something is written into later that is a view of another tensor or a
        copy, as the order decides.
        """
        trace, nodes = self.analysis.trace, [n for n in self.module.graph.nodes if n in self.above]
        undecided: set[int] = set()
        for node in nodes:
            if trace.overwrites.get(node, set()) & undecided or name_of(node) in _VIEWS:
                return False
            if name_of(node) in _VIEWS_OR_COPIES:
                undecided |= trace.storages(node) | {s for arg in node.all_input_nodes for s in trace.storages(arg)}
        return True

    @cached_property
    def operations(self) -> str:
        """The collapsed part's, as text: the same in processes that do the same."""
        return "\n".join(str(n.format_node()) for n in self.module.graph.nodes if n in self.above)

    @cached_property
    def leaf_names(self) -> list[str]:
        """The leaves', for the reader of an error."""
        return [n.name if n.op == "placeholder" else self.analysis.places.name(n) for n in self.leaves]

    def layout(self, node: fx.Node) -> Layout:
        """Where an input, an output or a non-linearity keeps its samples."""
        layout = self.analysis.layouts[node][0]
        assert layout is not None
        return layout

    def number(self, node: fx.Node, batch: int) -> Any:
        """The value of an input that is a number, in a batch of another size."""
        return batch if self.analysis.is_number_of_samples(node) else self.analysis.trace.values[node][0]

    def require_apart(self, values: dict[fx.Node, Any]) -> None:
        """Refuse to overwrite an input that is a view of another's memory: what was analysed had a copy of each.

        Raises:
            CollapseError: Names the operation that does.
        """
        given = [n for n in inputs_of(self.module.graph) if isinstance(values[n], Tensor)] if self.overwritten else []
        sharing = Counter(storage_of(values[n]) for n in given)
        for node, writer in self.overwritten.items():
            if sharing[storage_of(values[node])] > 1:
                raise CollapseError(
                    f"{self.analysis.places.name(writer)} overwrites a tensor that shares its memory with another that "
                    f"the model reads: an argument or buffer that is a view of another. Make one a copy, or write it "
                    f"out of place{user_line(writer)}"
                )

    def require_shapes(self, values: dict[fx.Node, Any]) -> None:
        """Refuse outputs whose dimensions are not those that were traced: `squeeze()` drops a batch of one.

        Raises:
            CollapseError: Names the output.
        """
        for node in self.outputs:
            traced, made = self.analysis.trace.values[node][0].shape, values[node].shape
            if len(made) != len(traced):
                raise CollapseError(
                    f"{self.analysis.places.name(node)} has shape {tuple(made)} in this batch, and {len(traced)} "
                    f"dimensions in others: say which dimension squeeze() drops{user_line(node)}"
                )

    def whole(self) -> Piece:
        """Everything under the rule, in ordinary autograd."""
        if self._whole is None:
            nodes = {node for node in self.module.graph.nodes if computes(node)}
            self._whole = self._piece(nodes, self.returned, [*self.nonlinearities, *self.analysis.ruled])
        return self._whole

    def cut(self) -> Piece:
        """The collapsed part with its activations cut; its last input is the `Cutter`."""
        outputs = self.forward.outputs
        needed = self._needed(self.above, [*outputs, *(n.node for n in self.nonlinearities)])
        rest = [n for n in self._read_by(needed) if n not in self.samples]
        inputs = [*self.samples, *rest, *(n for n in outputs if n not in needed and n not in rest)]
        return cut_piece(self.module, inputs, needed, outputs, self.nonlinearities)

    def _holds_samples(self, node: fx.Node) -> bool:
        first = self.analysis.trace.values[node][0]
        inexact = isinstance(first, Tensor) and (first.is_floating_point() or first.is_complex())
        return inexact and self.analysis.layouts.get(node, [None])[0] is not None

    def _noting(self, n: NonLinearity) -> Noting:
        if n.layer is None and isinstance(self.rule, MeanLinear) and self.layout(n.node).dim:
            raise CollapseError(
                f"{self.analysis.places.name(n.node)}: {self.rule!r} takes the mean over dimension 0, and the samples "
                f"lie in dimension {self.layout(n.node).dim} there: put them first{user_line(n.node)}"
            )
        of_batch = n.layer is not None and n.layer.reproduces_forward
        return Noting(n.emits, n.layer is None and isinstance(self.rule, MeanLinear), len(n.own), of_batch)

    # Which nodes

    def _read_by(self, nodes: Collection[fx.Node]) -> list[fx.Node]:
        read = {arg for node in nodes for arg in node.all_input_nodes}
        return [n for n in self.module.graph.nodes if n in read and n not in nodes and n.op != "get_attr"]

    def _with_numbers(self, nodes: Collection[fx.Node], outputs: Iterable[fx.Node] = ()) -> set[fx.Node]:
        """The nodes, and the numbers of samples that they and the outputs are made with."""
        found = set(nodes)
        waiting = [*nodes, *outputs]
        while waiting:
            node = waiting.pop()
            if node not in found and self.analysis.is_number_of_samples(node) and node.op != "placeholder":
                found.add(node)
            if node in found:
                waiting += [a for a in node.all_input_nodes if a not in found and self.analysis.is_number_of_samples(a)]
        return found

    def _read(self, nodes: set[fx.Node], outputs: Iterable[fx.Node]) -> list[fx.Node]:
        """What a graph of these nodes, with these outputs, is to be given."""
        return list(dict.fromkeys(self._read_by(nodes) + [n for n in outputs if n not in nodes]))

    def _components(self) -> list[Component]:
        trace = self.analysis.trace
        learned = {n for n in self.leaves if any(t.requires_grad for t in tensors_of(trace.values[n]))}
        for node in self.module.graph.nodes:
            if node in self.above and any(arg in learned for arg in node.all_input_nodes):
                learned.add(node)
        found: list[tuple[set[fx.Node], set[fx.Node]]] = []
        for output in self.outputs:
            component, shared = {output}, trace.needed([output]) & self.above & learned
            for other in [each for each in found if each[1] & shared]:
                found.remove(other)
                component, shared = component | other[0], shared | other[1]
            found.append((component, shared))
        read = {*self.samples, *self.leaves}
        return [Component(outputs, trace.needed([*outputs]) & read) for outputs, _ in found]

    def _needed(self, nodes: set[fx.Node], outputs: Sequence[fx.Node]) -> set[fx.Node]:
        """What of `nodes` makes `outputs`, overwrites something or draws random numbers; with the numbers it takes."""
        trace = self.analysis.trace
        effects = [node for node in nodes if node in trace.overwrites or node in trace.random]
        return self._with_numbers(trace.needed([*outputs, *effects]) & nodes, outputs)

    # The pieces

    def _ordinary_piece(self, nodes: set[fx.Node], readers: set[fx.Node]) -> Piece:
        """What of `nodes` others read, or the graph returns."""
        read = self._read_by(self._with_numbers(readers))
        outputs = [n for n in self.module.graph.nodes if n in nodes and (n in read or n in self.returned)]
        return self._piece(nodes, outputs, [n for n in self.analysis.ruled if n.node in nodes])

    def _piece(self, nodes: set[fx.Node], outputs: list[fx.Node], ruled: list[NonLinearity]) -> Piece:
        needed = self._needed(nodes, outputs)
        return ordinary_piece(self.module, self._read(needed, outputs), needed, outputs, ruled, self.rule)

    def _forward_piece(self) -> Piece:
        outputs = [n for n in self.returned if n in self.above or self.analysis.is_number_of_samples(n)]
        needed = self._needed(self.above, [*outputs, *(n.node for n in self.nonlinearities)])
        inputs = self._read(needed, outputs)
        return forward_piece(self.analysis.trace, inputs, needed, outputs, self.noted, self.copied_samples, self.rule)

    def _replay_piece(self) -> Piece:
        trace = self.analysis.trace
        needed = self._with_numbers(trace.needed(self.outputs) & self.above)
        return replay_piece(trace, self._read_by(needed), needed, self.outputs, self.noted, self.copied_samples)

    def _aliased(self) -> list[fx.Node]:
        """What is returned and shares memory with what the backward pass needs."""
        trace = self.analysis.trace
        kept = {s for n in (*self.samples, *(n.node for n in self.nonlinearities)) for s in trace.storages(n)}
        return [node for node in self.forward.outputs if tensors_of(trace.values[node]) and trace.storages(node) & kept]
