"""What every operation of a captured graph is to the collapsed backward pass, each found by proof."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from .._call import Call
from .._catalogue.activations import FORMS, Form
from .._catalogue.not_elementwise import row_of
from .._conversion.where import Predicate
from .._errors import CollapseError
from .._rules.layers import LINEAR_LAYERS, rule_for
from .._rules.rule import LayerRule
from .._torch import Function
from .affine import Proof
from .graph import computes, function_of, has_own_rule, tensors_of, user_line
from .layout import Layout
from .remedies import Remedies
from .sizes import BatchSize
from .trace import Trace

_MAP_OF = "the map of"


class Part(enum.Enum):
    """The part of a forward pass that an operation belongs to."""

    ONCE = "does not depend on the samples: computed once, in the ordinary graph"
    BELOW = "below the collapsed part: runs as it is, with its true derivatives"
    ABOVE = "collapsed"

    @property
    def rank(self) -> int:
        """The parts run in this order."""
        return list(Part).index(self)


@dataclass(frozen=True)
class NonLinearity:
    """An activation, or a layer under a layer's rule.

    Attributes:
        node: Its node.
        form: How the activation is called; None for a layer.
        layer: The layer's rule; None for an activation.
        own: The tensors of its own that take gradients, such as PReLU's weight: nodes.
    """

    node: fx.Node
    form: Form | None = None
    layer: LayerRule | None = None
    own: tuple[fx.Node, ...] = ()

    @property
    def function(self) -> Function:
        """The function that it calls."""
        return function_of(self.node)

    @property
    def input(self) -> fx.Node:
        """The node of its pre-activation."""
        return self.node.args[0] if self.node.args else self.node.kwargs["input"]  # pyright: ignore

    @property
    def emits(self) -> bool:
        """Whether its values have to be noted; those of a map that reproduces them need not."""
        return self.layer is None or not self.layer.reproduces_forward

    def called(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Its call, of some arguments."""
        return Call(self.function, tuple(args), dict(kwargs))

    def overwrites(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """True if the call overwrites its input."""
        call = self.called(args, kwargs)
        if self.layer is not None:
            return self.layer.overwrites_input(call)
        assert self.form is not None
        return self.form.overwrites_input(call)


@dataclass
class Selection:
    """What follows which rule.

    Attributes:
        model: The model.
        selects: Which modules' activations and layers follow their rules; None for all.
        layers: The rules of layers.
    """

    model: nn.Module
    selects: Predicate | None
    layers: Sequence[LayerRule]
    modules: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules(remove_duplicate=False))

    def takes(self, path: str) -> bool:
        """Whether a module of this path is selected."""
        return self.selects is None or (path in self.modules and bool(self.selects(path, self.modules[path])))


class Analysis:
    """What a traced graph consists of.

    Args:
        trace: The trace.
        size: The number of samples.
        selection: What follows which rule.
        positions: Whether positions may count as samples; not where every unit has a slope of its own.

    Attributes:
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
        proof = Proof(trace)
        faults = self._prove(proof)
        self.parts = self._parts(faults)
        self._refuse(faults, proof)
        self.nonlinearities = [n for node, n in self.found.items() if n and self._is_above(node)]
        self.ruled = [n for node, n in self.found.items() if n and self.parts[node] is Part.ONCE]
        self.layouts = self._positions_or(proof) if positions else proof.layouts
        self._require_outputs()
        self._require_order()

    def is_number_of_samples(self, node: fx.Node) -> bool:
        """Whether a node is a number read off samples, their shape for example."""
        return node in self._numbers

    def _followed(self, node: fx.Node) -> NonLinearity | None:
        """What the node is, if it follows a rule."""
        return self._nonlinearity(node, self.selection.layers) if self.selection.takes(self.places.path(node)) else None

    def _nonlinearity(self, node: fx.Node, layers: Sequence[LayerRule]) -> NonLinearity | None:
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
        first = node.args[0] if node.args else node.kwargs["input"]
        own = [b for b in node.all_input_nodes if b is not first and _takes_gradient(self.trace.values[b][0])]
        return NonLinearity(node, form=FORMS[call.function], own=tuple(own))

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
            if fault and node in self.needed:
                faults[node] = fault
            if node not in proof.layouts and proof.place(node):
                proof.layouts[node] = [None] * len(tensors_of(trace.values[node][0]))
        return faults

    def _fault(self, proof: Proof, node: fx.Node) -> str:
        nonlinearity = self.found[node]
        if node not in self.needed:
            return ""
        if not all(self.size.proportional(n, self.trace.values[n]) for n in (node, *node.all_input_nodes)):
            return "it depends on the number of samples, and not in proportion"
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
            fault = proof.fault(node, _linear_map(nonlinearity, self.trace.values))
            return f"{_MAP_OF} {nonlinearity.layer!r}: {fault}" if fault else ""
        return proof.place(node, nonlinearity.input)

    def _parts(self, faults: Mapping[fx.Node, str]) -> dict[fx.Node, Part]:
        trace = self.trace
        self._numbers = self._numbers_of_samples()
        below = trace.made_of(faults) if faults and self.selection.selects is not None else set[fx.Node]()
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
                readers = [n for n in parts if order[n] < order[node] and self._touches(n, storages)]
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

    def _is_above(self, node: fx.Node) -> bool:
        return self.parts.get(node) is Part.ABOVE

    def _refuse(self, faults: Mapping[fx.Node, str], proof: Proof) -> None:
        """Refuse what cannot be collapsed, by name."""
        order = [node for node in self.found if node in self.needed and node in self.trace.carries]
        activations = [node for node in order if function_of(node) in FORMS]
        chosen = [node for node in activations if self.found[node]]
        if self.selection.selects is not None and not chosen:
            names = ", ".join(map(self.places.name, activations))
            raise CollapseError(f"`where` selects none of the activations: {names or 'none'}")
        for node in order if faults else ():
            below = [n for n in chosen if n is not node and n in self.trace.made_of([node])]
            if node in faults and (self.selection.selects is None or below):
                raise CollapseError(self._refusal(node, faults[node], below, partial(self._remedies, faults, proof)))

    def _refusal(
        self, node: fx.Node, fault: str, below: list[fx.Node], under: Callable[[Sequence[LayerRule]], Remedies]
    ) -> str:
        """Why a node is refused, and what to do: it runs after those `below`, which are selected."""
        remedies = under(self.selection.layers)
        name = self.places.name(node)
        if node not in remedies.faults:
            return (
                f"{name} is not selected, but runs after {self.places.name(below[0])}, which is: collapse takes "
                f"everything from one activation on, so {remedies.selecting(node)}"
            )
        if not remedies.wanted:
            more = under(LINEAR_LAYERS)
            remedies = more if more.wanted and node in more.faults else remedies
        call_is_at_fault = self.found[node] is not None and not fault.startswith(_MAP_OF)
        advice = remedies.advice(node, fault, call_is_at_fault=call_is_at_fault)
        place = f", and runs after {self.places.name(below[0])}, which is selected" if self.selection.selects else ""
        return f"{name} cannot be collapsed{place}: {advice}{user_line(node)}"

    def _remedies(self, faults: Mapping[fx.Node, str], proof: Proof, layers: Sequence[LayerRule]) -> Remedies:
        """What to do under some rules for layers."""

        def may_follow(node: fx.Node) -> bool:
            if self.found[node] is not None and node not in faults:
                return True
            n = self._nonlinearity(node, layers)
            return n is not None and (n.layer is None or not proof.fault(node, _linear_map(n, self.trace.values)))

        order = [n for n in self.found if n in self.needed and n in self.trace.carries]
        paths = {n: self.places.path(n) for n in order if may_follow(n)}
        lasting = [n for n in order if n in faults and (n not in paths or self.found[n])]
        given = "" if layers is self.selection.layers else ", layers=lb.LINEAR_LAYERS"
        return Remedies(self.trace, self.selection.model, paths, lasting, given)

    def _positions_or(self, proof: Proof) -> dict[fx.Node, list[Layout | None]]:
        """The layouts with every position a sample of its own, if all are treated alike; else those of samples."""
        sizes = {tuple(self.trace.values[y][0].shape[1:-1]) for y in self.outputs if self._is_above(y)}
        if len(sizes) != 1 or () in sizes:
            return proof.layouts
        finer = Proof(self.trace, sizes.pop())
        for node in self.trace.module.graph.nodes:
            enters = node.op == "placeholder" or self.parts.get(node) is Part.BELOW
            if node not in self.trace.carries or node not in self.needed:
                continue
            if enters:
                if finer.place(node) and any(self._is_above(user) for user in node.users):
                    return proof.layouts
            elif self._fault(finer, node):
                return proof.layouts
        return finer.layouts

    def _require_outputs(self) -> None:
        for node in self.outputs:
            if self._is_above(node) and self.trace.values[node][0].is_complex():
                raise CollapseError(
                    f"{self.places.name(node)}: outputs must be real, got {self.trace.values[node][0].dtype}; return "
                    f"torch.view_as_real of it{user_line(node)}"
                )
            if self._is_above(node) and node.op != "placeholder" and self.layouts[node][0] is None:
                raise CollapseError(
                    f"{self.places.name(node)}: outputs must hold something for each sample, got shape "
                    f"{tuple(self.trace.values[node][0].shape)}; compute the loss outside the model{user_line(node)}"
                )

    def _require_order(self) -> None:
        """Refuse graphs in which the parts, run one after the other, would read what is not there yet or no more."""
        order = {node: i for i, node in enumerate(self.trace.module.graph.nodes)}
        for first, second in pairwise(node for node in self.trace.random if node in self.parts):
            if self.parts[first].rank > self.parts[second].rank:
                raise CollapseError(
                    f"{self.places.name(second)} draws its random numbers after {self.places.name(first)}, and would "
                    f"draw them before: the collapsed part runs last. Draw them first{user_line(second)}"
                )
        for node, storages in self.trace.overwrites.items():
            if node not in self.parts:
                continue
            self._require_one_way_in(node, storages)
            for other in self.parts:
                if other is node or not self._touches(other, storages):
                    continue
                later, ranks = order[other] > order[node], self.parts[other].rank - self.parts[node].rank
                layer = (n := self.found.get(other)) is not None and n.layer is not None
                combined = self.parts[node] is Part.ABOVE and later and other in self.needed and not layer
                if (ranks < 0 if later else ranks > 0) or (combined and self._is_foreign(node)):
                    raise CollapseError(
                        f"{self.places.name(node)} overwrites what {self.places.name(other)} reads: write it "
                        f"out of place{user_line(node)}"
                    )

    def _require_one_way_in(self, node: fx.Node, storages: set[int]) -> None:
        """Refuse to overwrite what tensors from below share, or return: above, each has combinations of its own."""
        sharing = [n for n, p in self.parts.items() if p is Part.BELOW and self.trace.storages(n) & storages]
        returned = [n for n in sharing if n in self.trace.outputs]
        entering = [n for n in sharing if any(map(self._is_above, n.users))]
        if self._is_above(node) and (returned or len(entering) > 1):
            names = " and ".join(dict.fromkeys(map(self.places.name, (returned or entering)[:2])))
            raise CollapseError(
                f"{self.places.name(node)} overwrites {names}, which lies below the collapsed part and is "
                f"{'returned' if returned else 'read under two names'}: write it out of place{user_line(node)}"
            )

    def _touches(self, node: fx.Node, storages: set[int]) -> bool:
        """Whether an operation reads or writes any of some storages."""
        return computes(node) and any(self.trace.storages(a) & storages for a in node.all_input_nodes)

    def _is_foreign(self, node: fx.Node) -> bool:
        """Whether a node overwrites a tensor that is not of the samples."""
        storages = self.trace.overwrites[node]
        return any(self.parts.get(a) is Part.ONCE and self.trace.storages(a) & storages for a in node.all_input_nodes)


def _takes_gradient(value: Any) -> bool:
    return any(t.requires_grad for t in tensors_of(value))


def _linear_map(nonlinearity: NonLinearity, traced: Mapping[fx.Node, Any]) -> Callable[[Mapping[fx.Node, Any]], Any]:
    """The map of a layer's rule as an operation, with the constants of the traced run."""
    node, layer = nonlinearity.node, nonlinearity.layer
    assert layer is not None

    def called(values: Mapping[fx.Node, Any]) -> Call:
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)  # pyright: ignore
        return nonlinearity.called(args, kwargs)

    with torch.no_grad():
        constants = layer.constants(called({arg: traced[arg][0] for arg in node.all_input_nodes}))

    def run(values: Mapping[fx.Node, Any]) -> Any:
        call = called(values)
        return layer.linear_map(call, tuple(c.to(call.input.dtype) for c in constants))

    return run
