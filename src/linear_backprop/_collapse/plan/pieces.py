"""Graphs made of parts of a captured one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..._call import Call
from ..._conversion.run_call import run_activation, run_layer
from ..._rules.elementwise import Linear, MeanLinear
from ..._torch.functions import SET_GRAD_ENABLED, Function
from ..captured.graph import Rewriting
from ..captured.layout import clone
from ..captured.trace import Trace
from .cutting import Cutter
from .emission import emit, map_layer, note_activation, note_layer
from .nonlinearity import NonLinearity


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


def ordinary_piece(
    module: fx.GraphModule,
    inputs: list[fx.Node],
    nodes: set[fx.Node],
    outputs: list[fx.Node],
    ruled: Iterable[NonLinearity],
    rule: Linear | MeanLinear,
) -> Piece:
    """A graph for ordinary autograd, some of its operations under their rules."""
    new = Rewriting(module, inputs)

    def under_the_rule(n: NonLinearity) -> Callable[[fx.Node], fx.Node]:
        run, given = (run_activation, rule) if n.layer is None else (run_layer, n.layer)
        return lambda node: new.call(_with(_under, run, n.function, given), *new.arguments(node))

    new.write(nodes, {n.node: under_the_rule(n) for n in ruled})
    return Piece(new.finish([new.copies[node] for node in outputs]), inputs, outputs)


def forward_piece(
    trace: Trace,
    inputs: list[fx.Node],
    nodes: set[fx.Node],
    outputs: list[fx.Node],
    noted: Iterable[tuple[NonLinearity, Noting]],
    copied: Iterable[fx.Node],
    rule: Linear | MeanLinear,
) -> Piece:
    """A graph that returns, after its outputs, copies of inputs that it overwrites, and what is noted."""
    new = Rewriting(trace.module, inputs)
    copies = [new.call(clone, new.copies[n]) for n in copied]
    returned: list[Any] = []

    def note(n: NonLinearity, noting: Noting) -> Callable[[fx.Node], fx.Node]:
        def write(node: fx.Node) -> fx.Node:
            slope, own, constants = None, (), ()
            if n.layer is not None:
                both = new.call(_with(note_layer, n.function, n.layer), *new.arguments(node))
                h, constants = new.call(_item, both, 0), new.call(_item, both, 1)
            elif noting.slope or noting.own:
                tensors = tuple(new.copies[p] for p in n.own)
                made = new.call(_with(note_activation, n.function, rule), tensors, *new.arguments(node))
                h, slope = new.call(_item, made, 0), new.call(_item, made, 1)
                own = tuple(new.call(_item, made, 2 + index) for index in range(noting.own))
            else:
                h = new.graph.node_copy(node, new.copies.__getitem__)
            kept = new.call(torch.clone, h) if trace.overwriting(node, node) else h
            returned.append((kept if n.emits else None, slope, own, constants))
            return h

        return write

    writers: dict[fx.Node, Callable[[fx.Node], fx.Node | None]] = {n.node: note(n, noting) for n, noting in noted}
    writers |= {node: lambda _: None for node in trace.module.graph.nodes if node.target is SET_GRAD_ENABLED}
    new.write(nodes, writers)
    return Piece(new.finish([*(new.copies[n] for n in outputs), *copies, *returned]), inputs, outputs)


def replay_piece(
    trace: Trace,
    inputs: list[fx.Node],
    nodes: set[fx.Node],
    outputs: list[fx.Node],
    noted: Sequence[tuple[NonLinearity, Noting]],
    copied: Iterable[fx.Node],
) -> Piece:
    """A graph whose non-linearities emit; its further inputs are h, slope, derivatives and constants of each."""
    new = Rewriting(trace.module, inputs)
    given: dict[fx.Node, fx.Node] = {n.node: new.input(f"noted_{k}") for k, (n, _) in enumerate(noted)}
    for n in copied:  # which may be a leaf of autograd's
        if n in new.copies:
            new.copies[n] = new.call(clone, new.copies[n])

    def replay(n: NonLinearity, noting: Noting) -> Callable[[fx.Node], fx.Node]:
        def write(node: fx.Node) -> fx.Node:
            args, kwargs = new.arguments(node)
            values = given[node]
            a = mapped = new.copies[n.input]
            if n.layer is not None:
                mapped = new.call(_with(map_layer, n.function, n.layer), new.call(_item, values, 3), args, kwargs)
            if not n.emits:
                return new.call(Tensor.copy_, a, mapped) if n.overwrites(args, kwargs) else mapped
            derivatives = [new.call(_item, new.call(_item, values, 2), index) for index in range(noting.own)]
            own = tuple(zip((new.copies[p] for p in n.own), derivatives, strict=True))
            by_channel = n.form is not None and not n.form.broadcasts
            emitted = (mapped, new.call(_item, values, 0), new.call(_item, values, 1), own, by_channel)
            if not n.overwrites(args, kwargs):
                return new.call(emit, *emitted)
            return new.call(Tensor.copy_, a, new.call(emit, *emitted))

        return write

    new.write(nodes, {n.node: replay(n, noting) for n, noting in noted})
    return Piece(new.finish([new.copies[node] for node in outputs]), inputs, outputs)


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
