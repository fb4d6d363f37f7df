"""A forward pass whose autograd graph is cut at every activation, and what lies between two cuts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ..._call import Call
from ..._conversion.run_call import run_activation, run_layer_with_constants
from ..._errors import CollapseError
from ..._rules.elementwise import Linear, MeanLinear
from ..._rules.rule import BackwardRule, LayerRule
from ..._torch.functions import Function
from ..._torch.tensors import is_view
from ..captured.beginning import begin, begin_at
from ..captured.layout import Form


@dataclass
class Cut:
    """One activation of a forward pass, but for its values; one that passes no gradient has no edges.

    Attributes:
        a: The pre-activation's edge in the graph of the affine part below it; None if that takes no gradient.
        starts: Where the graph of the activation itself begins: at a, and at each of `parameters`.
        own: h, in the graph of the activation itself.
        h: Where the graph of what follows begins; None where only unit vectors are sent down.
        parameters: The edges of what f depends on besides a, such as PReLU's weight.
        slope: What the chain multiplies with; None for 1.
        count: Of how many values the slope of a unit is the mean.
    """

    a: GradientEdge | None
    starts: list[GradientEdge]
    own: GradientEdge | None
    h: GradientEdge | None
    parameters: list[GradientEdge]
    slope: Tensor | None
    count: int = 1


class Cutter:
    """What a graph whose activations are cut is run with.

    Args:
        rule: `LocallyExact`.
        chain: What cotangents are multiplied with on their way down.
        chained: Whether the batch is to be sent down the chain, so that every h must take a cotangent.

    Attributes:
        cuts: The activations that ran, in order.
        noted: The form of what every non-linearity put out, and the constants of its map.
    """

    def __init__(self, rule: BackwardRule, chain: Linear | MeanLinear, chained: bool) -> None:
        self.rule, self.chain, self.chained = rule, chain, chained
        self.cuts: list[Cut] = []
        self.noted: list[tuple[Form, tuple[Tensor, ...]]] = []

    def activate(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an activation, cut."""
        call = Call(function, args, kwargs)
        a: Any = call.input
        if not isinstance(a, Tensor) or not a.is_floating_point():
            return call()
        takes = any(isinstance(t, Tensor) and t.requires_grad for t in (*args, *kwargs.values()))
        if not torch.is_grad_enabled() or (self.chained and not takes):
            h = call()
            self.cuts.append(Cut(None, [], None, None, [], None))
            self.noted.append((Form.of(h), ()))
            return h
        h: Tensor = run_activation(call, self.rule, self._cut)
        if h is a and is_view(h):
            raise CollapseError(
                f"under LocallyExact, {getattr(function, '__name__', function)} cannot overwrite a view of a "
                f"tensor: use its out-of-place form (inplace=False)"
            )
        if h is a:  # written in place, and so with the graph below it
            if self.chained:
                self.cuts[-1].h = begin_at(h)
            else:
                h.detach_()
        return h

    def run_layer(self, function: Function, layer: LayerRule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a layer under its rule."""
        call = Call(function, args, kwargs)
        if not layer.applies(call):
            return function(*args, **kwargs)
        result, constants = run_layer_with_constants(call, layer)
        self.noted.append((Form.of(result), constants))
        return result

    def _cut(self, f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
        begun, start = begin(a)
        apart = [begin(p) if p.requires_grad else (p, None) for p in parameters]  # one may be made of another
        own = f(begun, *(p for p, _ in apart))
        slope = None
        if isinstance(self.chain, MeanLinear):
            (derivatives,) = gradients([own], [start], [torch.ones_like(own)], keep=True)
            slope = self.chain.mean(torch.zeros_like(own) if derivatives is None else derivatives)
        h, edge = begin(own) if self.chained else (own.detach(), None)
        self.cuts.append(
            Cut(
                a=get_gradient_edge(a) if a.requires_grad else None,
                starts=[start, *(edge for _, edge in apart if edge is not None)],
                own=get_gradient_edge(own),
                h=edge,
                parameters=[get_gradient_edge(p) for p in parameters if p.requires_grad],
                slope=slope,
                count=1 if slope is None else h.numel() // slope.numel(),
            )
        )
        self.noted.append((Form.of(h), ()))
        return h


def gradients(
    outputs: Sequence[Tensor | GradientEdge],
    inputs: Sequence[Tensor | GradientEdge],
    cotangents: Sequence[Tensor],
    keep: bool,
) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`, None for inputs that the outputs do not depend on."""
    return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=keep, allow_unused=True)  # pyright: ignore


@dataclass
class Connected:
    """Outputs with one backward pass: they have in common what autograd frees once.

    Attributes:
        outputs: Their places among all outputs.
        sources: The places of the inputs that they depend on.
        freed: The nodes of their graph that read a parameter, and those at which an activation's h begins.
    """

    outputs: set[int]
    sources: set[int]
    freed: set[Node] = field(default_factory=set[Node])


def connected(
    outputs: Sequence[GradientEdge | None],
    sources: Mapping[int, GradientEdge],
    parameters: Collection[int],
    cuts: Sequence[Cut],
) -> list[Connected]:
    """All outputs, those together that have one backward pass.

    Args:
        outputs: Their edges.
        sources: By an input's place, the edge at which its graph begins.
        parameters: Which of the inputs are parameters.
        cuts: The activations between them.
    """
    if len(outputs) == 1:
        return [Connected({0}, set(sources))]
    begins = {source.node: place for place, source in sources.items()}
    through = {cut.h.node: [e.node for e in (cut.a, *cut.parameters) if e is not None] for cut in cuts if cut.h}
    found: list[Connected] = []
    for index, output in enumerate(outputs):
        each, seen = Connected({index}, set()), set[Node]()
        queue = [output.node] if output is not None else []
        while queue:
            node = queue.pop()
            if node in begins:
                each.sources.add(begins[node])
            elif node not in seen:
                seen.add(node)
                below = through[node] if node in through else [b for b, _ in node.next_functions if b is not None]
                if node in through or any(begins.get(b) in parameters for b in below):
                    each.freed.add(node)
                queue += below
        for other in [other for other in found if other.freed & each.freed]:
            found.remove(other)
            each = Connected(each.outputs | other.outputs, each.sources | other.sources, each.freed | other.freed)
        found.append(each)
    return found


@dataclass(eq=False)
class Affine:
    """Edges whose graphs have nodes in common: an affine part.

    Attributes:
        edges: Which they are, in the order they were given.
        sources: Which of the given sources their graphs begin at.
    """

    edges: list[int]
    sources: dict[int, None] = field(default_factory=dict[int, None])
    nodes: set[Node] = field(default_factory=set[Node])


def separate(edges: Sequence[GradientEdge], sources: Sequence[GradientEdge]) -> list[Affine]:
    """The parts of a graph between some edges and sources. Sources may be shared between parts; nodes are not."""
    begins = {source.node: index for index, source in enumerate(sources)}
    owners: dict[Node, Affine] = {}
    parts: dict[Affine, None] = {}
    for index, edge in enumerate(edges):
        part = Affine([index])
        queue: list[Node | None] = [edge.node]
        while queue:
            node = queue.pop()
            if node is None or node in part.nodes:
                continue
            if node in begins:
                part.sources[begins[node]] = None
            elif node in owners:
                parts.pop(owners[node])
                _absorb(part, owners[node])
                owners.update(dict.fromkeys(part.nodes, part))
            else:
                part.nodes.add(node)
                queue.extend(below for below, _ in node.next_functions)
        owners.update(dict.fromkeys(part.nodes, part))
        parts[part] = None
    return list(parts)


def _absorb(part: Affine, other: Affine) -> None:
    part.edges = sorted(part.edges + other.edges)
    part.sources |= other.sources
    part.nodes |= other.nodes
