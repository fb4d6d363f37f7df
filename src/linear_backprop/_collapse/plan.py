"""The graphs of a collapsed model, made of the one that was captured.

once      what does not depend on the samples: parameters, and what is made of them; in ordinary autograd
below     what lies under the collapsed part: on the batch, in ordinary autograd
forward   the collapsed part on the batch, without autograd: its outputs, and what is to be aggregated
replay    the collapsed part on combinations of samples, its non-linearities emitting those of what they put out
whole     all of it in ordinary autograd under the rule, where that is cheaper
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .._call import Call
from .._catalogue.activations import FORMS
from .._conversion.run_call import run_activation, run_layer
from .._errors import CollapseError
from .._rules.elementwise import Linear, MeanLinear
from .._rules.layers import rule_for
from .._rules.rule import LayerRule
from .._torch import SET_GRAD_ENABLED, Function
from .analysis import Analysis, NonLinearity, Part
from .cutting import Cutter
from .emission import emit, map_layer, note_activation, note_layer
from .graph import Rewriting, computes, function_of, tensors_of, user_line
from .layout import Layout


@dataclass(frozen=True)
class Piece:
    """A graph, and the nodes of the captured one that it reads and makes."""

    module: Callable[..., tuple[Any, ...]]
    inputs: list[fx.Node]
    outputs: list[fx.Node]

    def run(self, values: dict[fx.Node, Any]) -> tuple[Any, ...]:
        """Add the values of its outputs to those of its inputs; what else it returns."""
        made = self.module(*[values[node] for node in self.inputs])
        values.update(zip(self.outputs, made, strict=False))
        return made[len(self.outputs) :]


@dataclass(frozen=True)
class Noting:
    """What a non-linearity notes of a batch.

    Attributes:
        emits: Whether its values are to be emitted.
        slope: Whether it has a slope.
        own: How many derivatives by tensors of its own.
        constants: Whether it takes constants from the batch.
    """

    emits: bool
    slope: bool
    own: int
    constants: bool


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
        layouts: Where samples and outputs keep their samples.
        value_layouts: Where what is aggregated does: samples, and what non-linearities put out.
        output_layouts: Where the outputs do.
        sources: The samples and leaves that an output depends on.
        components: The outputs, those together that have something learned in common.
        inner: Those outputs that another one is computed from.
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
        read_by_collapsed = {*self.samples, *self.leaves}
        self.sources = {n: trace.needed([n]) & read_by_collapsed for n in self.outputs}
        self.components = self._components()
        self.inner = {n for n in self.outputs if any(n in trace.needed([m]) for m in self.outputs if m is not n)}
        self.layouts = {n: self._layout(n) for n in (*self.samples, *self.outputs)}
        self.output_layouts = [self.layouts[n] for n in self.outputs]
        self.once = self._ordinary_piece(self.computed_once, self.above | self.below)
        self.under = self._ordinary_piece(self.below, self.above)
        self.noting = [self._noting(n) for n in self.nonlinearities]
        self.emitted_layouts = [self._layout(n.node) for n in self.nonlinearities]
        self.value_layouts = [self.layouts[n] for n in self.samples]
        for n, noting in zip(self.nonlinearities, self.noting, strict=True):
            self.value_layouts += [self._layout(n.node)] * (noting.emits + noting.own)
        self.copied_samples: list[fx.Node] = []
        self.forward = self._forward_piece()
        self.replay = self._replay_piece()
        self._whole: Piece | None = None
        self.aliased = self._aliased()

    def number(self, node: fx.Node, batch: int) -> Any:
        """The value of an input that is a number, in a batch of another size."""
        return batch if self.analysis.is_number_of_samples(node) else self.analysis.trace.values[node][0]

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

    def _layout(self, node: fx.Node) -> Layout:
        layout = self.analysis.layouts[node][0]
        assert layout is not None
        return layout

    def _noting(self, n: NonLinearity) -> Noting:
        if n.layer is None and isinstance(self.rule, MeanLinear) and self._layout(n.node).dim:
            raise CollapseError(
                f"{self.analysis.places.name(n.node)}: {self.rule!r} takes the mean over dimension 0, and the samples "
                f"lie in dimension {self._layout(n.node).dim} there: put them first{user_line(n.node)}"
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

    def _components(self) -> list[set[fx.Node]]:
        """Between two of them nothing but samples and leaves is shared: each has a backward pass of its own."""
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
        return [component for component, _ in found]

    def _needed(self, nodes: set[fx.Node], outputs: Sequence[fx.Node]) -> set[fx.Node]:
        """The operations among `nodes` that make `outputs` or overwrite something, with the numbers they take."""
        effects = [node for node in nodes if node in self.analysis.trace.overwrites]
        return self._with_numbers(self.analysis.trace.needed([*outputs, *effects]) & nodes, outputs)

    # The pieces

    def _ordinary_piece(self, nodes: set[fx.Node], readers: set[fx.Node]) -> Piece:
        """What of `nodes` others read, or the graph returns."""
        read = self._read_by(self._with_numbers(readers))
        outputs = [n for n in self.module.graph.nodes if n in nodes and (n in read or n in self.returned)]
        return self._piece(nodes, outputs, [n for n in self.analysis.ruled if n.node in nodes])

    def _piece(self, nodes: set[fx.Node], outputs: list[fx.Node], ruled: list[NonLinearity]) -> Piece:
        needed = self._needed(nodes, outputs)
        inputs = self._read_by(needed) + [n for n in outputs if n not in needed]
        inputs = list(dict.fromkeys(inputs))
        new = Rewriting(self.module, inputs)

        def under_the_rule(n: NonLinearity) -> Callable[[fx.Node], fx.Node]:
            run, rule = (run_activation, self.rule) if n.layer is None else (run_layer, n.layer)
            return lambda node: new.call(_with(_under, run, n.function, rule), *new.arguments(node))

        new.write(needed, {n.node: under_the_rule(n) for n in ruled})
        return Piece(new.finish([new.copies[node] for node in outputs]), inputs, outputs)

    def _forward_piece(self) -> Piece:
        outputs = [n for n in self.returned if n in self.above or self.analysis.is_number_of_samples(n)]
        needed = self._needed(self.above, [*outputs, *(n.node for n in self.nonlinearities)])
        inputs = list(dict.fromkeys(self._read_by(needed) + [n for n in outputs if n not in needed]))
        new = Rewriting(self.module, inputs)
        noted: list[Any] = []
        self.copied_samples = [n for n in self.samples if self.analysis.trace.overwriting(n, n)]
        copies = [new.call(torch.clone, new.copies[n]) for n in self.copied_samples]

        def note(n: NonLinearity, noting: Noting) -> Callable[[fx.Node], fx.Node]:
            def write(node: fx.Node) -> fx.Node:
                slope, own, constants = None, (), ()
                if n.layer is not None:
                    both = new.call(_with(note_layer, n.function, n.layer), *new.arguments(node))
                    h, constants = new.call(_item, both, 0), new.call(_item, both, 1)
                elif noting.slope or noting.own:
                    tensors = tuple(new.copies[p] for p in n.own)
                    made = new.call(_with(note_activation, n.function, self.rule), tensors, *new.arguments(node))
                    h, slope = new.call(_item, made, 0), new.call(_item, made, 1)
                    own = tuple(new.call(_item, made, 2 + index) for index in range(noting.own))
                else:
                    h = new.graph.node_copy(node, new.copies.__getitem__)
                kept = new.call(torch.clone, h) if self.analysis.trace.overwriting(node, node) else h
                noted.append((kept if n.emits else None, slope, own, constants))
                return h

            return write

        writers: dict[fx.Node, Callable[[fx.Node], fx.Node | None]]
        writers = {n.node: note(n, noting) for n, noting in zip(self.nonlinearities, self.noting, strict=True)}
        writers |= {node: lambda _: None for node in self.module.graph.nodes if node.target is SET_GRAD_ENABLED}
        new.write(needed, writers)
        return Piece(new.finish([*(new.copies[n] for n in outputs), *copies, *noted]), inputs, outputs)

    def _replay_piece(self) -> Piece:
        """Its further inputs: h, slope, derivatives and constants of every non-linearity."""
        needed = self._with_numbers(self.analysis.trace.needed(self.outputs) & self.above)
        inputs = self._read_by(needed)
        new = Rewriting(self.module, inputs)
        given: dict[fx.Node, fx.Node] = {n.node: new.input(f"noted_{k}") for k, n in enumerate(self.nonlinearities)}
        for n in self.samples:  # which may be a leaf of autograd's
            if n in new.copies and self.analysis.trace.overwriting(n, n):
                new.copies[n] = new.call(torch.clone, new.copies[n])

        def replay(n: NonLinearity, noting: Noting) -> Callable[[fx.Node], fx.Node]:
            def write(node: fx.Node) -> fx.Node:
                args, kwargs = new.arguments(node)
                noted = given[node]
                a = mapped = new.copies[n.input]
                if n.layer is not None:
                    mapped = new.call(_with(map_layer, n.function, n.layer), new.call(_item, noted, 3), args, kwargs)
                if not n.emits:
                    return new.call(Tensor.copy_, a, mapped) if n.overwrites(args, kwargs) else mapped
                derivatives = [new.call(_item, new.call(_item, noted, 2), index) for index in range(noting.own)]
                own = tuple(zip((new.copies[p] for p in n.own), derivatives, strict=True))
                by_channel = n.form is not None and not n.form.broadcasts
                emitted = (mapped, new.call(_item, noted, 0), new.call(_item, noted, 1), own, by_channel)
                if not n.overwrites(args, kwargs):
                    return new.call(emit, *emitted)
                return new.call(Tensor.copy_, a, new.call(emit, *emitted))

            return write

        new.write(
            needed, {n.node: replay(n, noting) for n, noting in zip(self.nonlinearities, self.noting, strict=True)}
        )
        return Piece(new.finish([new.copies[node] for node in self.outputs]), inputs, self.outputs)

    def _aliased(self) -> list[fx.Node]:
        """What is returned and shares memory with what the backward pass needs."""
        trace = self.analysis.trace
        kept = {s for n in (*self.samples, *(n.node for n in self.nonlinearities)) for s in trace.storages(n)}
        return [node for node in self.forward.outputs if tensors_of(trace.values[node]) and trace.storages(node) & kept]


def cut_piece(
    module: fx.GraphModule,
    inputs: list[fx.Node],
    nodes: set[fx.Node],
    outputs: list[fx.Node],
    nonlinearities: Iterable[NonLinearity],
) -> Piece:
    """A graph whose activations are cut; its last input is the `Cutter`."""
    new = Rewriting(module, inputs)
    cutter = new.input("cutter")

    def cut(n: NonLinearity) -> Callable[[fx.Node], fx.Node]:
        run = Cutter.activate if n.layer is None else Cutter.run_layer
        given = (n.function,) if n.layer is None else (n.function, n.layer)
        return lambda node: new.call(_with(_by_cutter, run, given), cutter, *new.arguments(node))

    new.write(nodes, {n.node: cut(n) for n in nonlinearities})
    return Piece(new.finish([new.copies[node] for node in outputs]), inputs, outputs)


def nonlinearities_in(graph: fx.Graph, layers: Sequence[LayerRule]) -> Iterator[NonLinearity]:
    """The calls that may turn out to be non-linearities, by their functions alone."""
    for node in graph.nodes:
        if not computes(node):
            continue
        function = function_of(node)
        layer = rule_for(function, layers)
        if layer is not None or function in FORMS:
            yield NonLinearity(node, form=FORMS.get(function), layer=layer)


def _by_cutter(
    run: Callable[..., Any], given: tuple[Any, ...], cutter: Cutter, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return run(cutter, *given, args, kwargs)


def _under(
    run: Callable[..., Any], function: Function, rule: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return run(Call(function, args, kwargs), rule)


def _item(values: Sequence[Any], index: int) -> Any:
    return values[index]


def _with(function: Callable[..., Any], *first: Any) -> Callable[..., Any]:
    """A function with its first arguments given; unlike a `partial`, one that a graph can call by name."""

    def given(*rest: Any) -> Any:
        return function(*first, *rest)

    return given
