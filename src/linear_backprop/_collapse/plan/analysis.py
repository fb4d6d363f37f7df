"""What every operation of a captured graph is to the collapsed backward pass, each found by proof."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from ..._call import Call
from ..._catalogue.activations import FORMS
from ..._catalogue.not_elementwise import row_of
from ..._errors import CollapseError
from ..._rules.layers import rule_for
from ..._rules.rule import LayerRule
from ..captured.graph import computes, function_of, has_own_rule, tensors_of, user_line
from ..captured.layout import Layout
from ..captured.sizes import BatchSize
from ..captured.trace import Trace
from ..proof.affine import Proof
from .nonlinearity import NonLinearity, Selection, emission_of, linear_map_of
from .parts import Part, require_order
from .refusal import MAP_OF, refuse


class Analysis:
    """What a traced graph consists of.

    Args:
        trace: The trace.
        size: The number of samples.
        selection: What follows which rule.
        positions: Whether positions may count as samples; not where every unit has a slope of its own.

    Attributes:
        data: What is made of the samples outside the collapsed part, and passes no gradient.
        parts: By node.
        nonlinearities: Those above, in order.
        ruled: Those of the values that no sample reaches, which follow their rules in the ordinary graph.
        outputs: The differentiable outputs.
        layouts: Where the nodes above keep their samples.
    """

    def __init__(self, trace: Trace, size: BatchSize, selection: Selection, *, positions: bool) -> None:
        self.size = size
        self.trace, self.selection, self.places = trace, selection, trace.places
        self.outputs = trace.differentiable
        self.needed = trace.needed(self.outputs)
        self.found = {node: self._followed(node) for node in trace.module.graph.nodes if computes(node)}
        self.data: set[fx.Node] = set()
        proof = Proof(trace)
        faults = self._prove(proof)
        self.parts = self._parts(faults)
        refuse(self, faults, proof)
        self.nonlinearities = [n for node, n in self.found.items() if n and self.is_above(node)]
        self.ruled = [n for node, n in self.found.items() if n and self.parts[node] is Part.ONCE]
        self.layouts = self._positions_or(proof) if positions else proof.layouts
        self._require_outputs()
        require_order(self)

    def is_number_of_samples(self, node: fx.Node) -> bool:
        """Whether a node is a number read off samples, their shape for example."""
        return node in self._numbers

    def _followed(self, node: fx.Node) -> NonLinearity | None:
        """What the node is, if it follows a rule; where no gradient passes, it runs as it is."""
        follows = node in self.needed and self.selection.takes(self.places.path(node))
        return self.nonlinearity(node, self.selection.layers) if follows else None

    def nonlinearity(self, node: fx.Node, layers: Sequence[LayerRule]) -> NonLinearity | None:
        """What it is, if it would follow a rule once selected."""
        if has_own_rule(node):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: self.trace.values[a][0])  # pyright: ignore
        call = Call(function_of(node), tuple(args), dict(kwargs))
        if not isinstance(call.input, Tensor) or not call.input.is_floating_point():
            return None
        layer = rule_for(call.function, layers)
        if layer is not None:
            takes = layer.applies(call) and self._reaches(layer, self.places.module(node))
            return NonLinearity(node, layer=layer) if takes else None
        if call.function not in FORMS:
            return None
        found = NonLinearity(node, form=FORMS[call.function])
        own = [b for b in node.all_input_nodes if b is not found.input and _takes_gradient(self.trace.values[b][0])]
        return replace(found, own=tuple(own))

    def _reaches(self, layer: LayerRule, module: nn.Module | None) -> bool:
        """False inside a module that the rule is not for: SyncBatchNorm calls F.batch_norm in a single process."""
        return module is None or row_of(module) is None or layer.governs_module(module)

    def _prove(self, proof: Proof) -> dict[fx.Node, str]:
        """Prove every operation that depends on the samples; the faults."""
        trace = self.trace
        for node in trace.module.graph.nodes:
            if node.op == "placeholder" and node in trace.carries:
                proof.place(node)
        faults: dict[fx.Node, str] = {}
        for node in self.found:
            if node not in trace.carries:
                continue
            fault = self._fault(proof, node)
            if fault and self._is_data(node):
                self.data.add(node)
            elif fault:
                faults[node] = fault
                proof.is_thorough = self.selection.selects is not None  # the model is refused in any case
            if node not in proof.layouts and proof.place(node):
                proof.layouts[node] = [None] * len(tensors_of(trace.values[node][0]))
        return faults

    def _is_data(self, node: fx.Node) -> bool:
        """Whether a node is made of integers of the samples and of nothing that takes gradients: images in bytes."""
        if node in self.trace.overwrites or node in self.trace.random:
            return False
        read = [n for n in node.all_input_nodes if n in self.trace.carries and n not in self.trace.numbers]
        if not read or self._fault_of_sizes(node):
            return False
        made_of = self.trace.made_of([node])
        return not any(_takes_gradient(self.trace.values[n][0]) for n in made_of if n in self.trace.values)

    def _fault(self, proof: Proof, node: fx.Node) -> str:
        nonlinearity = self.found[node]
        if node not in self.needed:
            return ""
        if fault := self._fault_of_sizes(node):
            return fault
        if function_of(node) in FORMS and has_own_rule(node):
            return "it has a rule of its own inside the model (with_rule, backward_rule)"
        if nonlinearity is None:
            written = self.trace.overwrites.get(node, set())
            once = [a for a in node.all_input_nodes if a not in self.trace.carries and self.trace.storages(a) & written]
            return "it writes samples into a tensor that is not theirs" if once else proof.fault(node)
        if nonlinearity.input not in self.trace.carries:
            return "it is called with a number made of the number of samples"
        if any(a in self.trace.carries for a in node.all_input_nodes if a is not nonlinearity.input):
            return "more than its first argument depends on the sample"
        if isinstance(self.trace.values[node][0], tuple):
            return "it returns indices, which depend on the sample"
        if nonlinearity.layer is not None:
            fault = proof.fault(node, linear_map_of(nonlinearity, self.trace.values))
            return f"{MAP_OF} {nonlinearity.layer!r}: {fault}" if fault else ""
        emission = emission_of(nonlinearity)
        return proof.fault(node, emission) if emission is not None else proof.place(node, nonlinearity.input)

    def _fault_of_sizes(self, node: fx.Node) -> str:
        if not all(self.size.knows(n) for n in (node, *node.all_input_nodes)):
            return (
                "its size depends on values, such as a mask's: multiply by the mask, use torch.where, or, where no "
                "sample enters them, make indices outside the model"
            )
        if not all(self.size.proportional(n, self.trace.values[n]) for n in (node, *node.all_input_nodes)):
            return "it depends on the number of samples, and not in proportion"
        return ""

    def _parts(self, faults: Mapping[fx.Node, str]) -> dict[fx.Node, Part]:
        trace = self.trace
        self._numbers = self._numbers_of_samples()
        below = trace.made_of(self.data)
        if faults and self.selection.selects is not None:
            below |= trace.made_of(faults)
        for node in self.found:  # parts of a tuple, as `max(1)` returns one
            if node.target is operator.getitem and node.args[0] in below and self._is_tuple(node.args[0]):
                below.add(node)
        parts = {
            node: Part.BELOW if node in below else Part.ABOVE
            for node in trace.module.graph.nodes
            if node in trace.carries
        }
        parts |= {
            node: Part.ONCE for node in trace.module.graph.nodes if node not in parts and node not in self._numbers
        }
        order = {node: i for i, node in enumerate(trace.module.graph.nodes)}
        for node, storages in trace.overwrites.items():  # a counter is advanced after whoever reads it
            if node in parts and node not in self.needed:
                readers = [n for n in parts if order[n] < order[node] and trace.touches(n, storages)]
                parts[node] = max((parts[n] for n in (node, *readers)), key=lambda part: part.rank)
        return parts

    def _numbers_of_samples(self) -> set[fx.Node]:
        found: set[fx.Node] = set()
        for node in self.trace.module.graph.nodes:
            reads_samples = any(a in found or a in self.trace.carries for a in node.all_input_nodes)
            if node in self.trace.numbers and (reads_samples or self.trace.depends_on_size(node)):
                found.add(node)
        return found

    def _is_tuple(self, node: Any) -> bool:
        return not isinstance(self.trace.values[node][0], Tensor)

    def is_above(self, node: fx.Node) -> bool:
        """Whether it is collapsed."""
        return self.parts.get(node) is Part.ABOVE

    def _positions_or(self, proof: Proof) -> dict[fx.Node, list[Layout | None]]:
        """The layouts with every position a sample of its own, if all are treated alike; else those of samples."""
        sizes = {tuple(self.trace.values[y][0].shape[1:-1]) for y in self.outputs if self.is_above(y)}
        if len(sizes) != 1 or () in sizes:
            return proof.layouts
        finer = Proof(self.trace, sizes.pop())
        for node in self.trace.module.graph.nodes:
            enters = node.op == "placeholder" or self.parts.get(node) is Part.BELOW
            if node not in self.trace.carries or node not in self.needed:
                continue
            if enters:
                if finer.place(node) and any(self.is_above(user) for user in node.users):
                    return proof.layouts
            elif self._fault(finer, node):
                return proof.layouts
        return finer.layouts

    def _require_outputs(self) -> None:
        for node in self.outputs:
            if self.is_above(node) and self.trace.values[node][0].is_complex():
                raise CollapseError(
                    f"{self.places.name(node)}: outputs must be real, got {self.trace.values[node][0].dtype}; return "
                    f"torch.view_as_real of it{user_line(node)}"
                )
            if self.is_above(node) and node.op != "placeholder" and self.layouts[node][0] is None:
                raise CollapseError(
                    f"{self.places.name(node)}: outputs must hold something for each sample, got shape "
                    f"{tuple(self.trace.values[node][0].shape)}; compute the loss outside the model{user_line(node)}"
                )


def _takes_gradient(value: Any) -> bool:
    return any(t.requires_grad for t in tensors_of(value))
