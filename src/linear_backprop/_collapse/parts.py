"""Affine parts of a graph that has been cut: where each begins, and which have nothing in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


def begin(values: Tensor) -> tuple[Tensor, GradientEdge]:
    """The same values at the beginning of a graph, and the edge at which a gradient can be asked for.

    Unlike a leaf that requires grad, the edge does not keep the values alive.
    """
    token = values.new_empty(0).requires_grad_()
    begun: Tensor = _Begin.apply(token, values.detach())
    return begun, get_gradient_edge(begun)


def gradients(
    outputs: Sequence[Tensor | GradientEdge],
    inputs: Sequence[Tensor | GradientEdge],
    cotangents: Sequence[Tensor],
    keep: bool,
) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`, None for inputs that the outputs do not depend on."""
    return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=keep, allow_unused=True)  # pyright: ignore


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, values: Tensor) -> Tensor:
        return values.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None


@dataclass(eq=False)
class Part:
    """Edges whose graphs have nodes in common.

    Attributes:
        edges: Which they are, in the order they were given.
        leaves: The tensors at the ends of their graphs that take gradients.
    """

    edges: list[int]
    leaves: dict[Tensor, None] = field(default_factory=dict[Tensor, None])
    nodes: set[Node] = field(default_factory=set[Node])


def separate(edges: Sequence[GradientEdge]) -> list[Part]:
    """The parts of a graph below some edges. Leaves may be shared between parts; nodes are not."""
    owners: dict[Node, Part] = {}
    for index, edge in enumerate(edges):
        part = Part([index])
        queue: list[Node | None] = [edge.node]
        while queue:
            node = queue.pop()
            if node is None or node in part.nodes:
                continue
            leaf = getattr(node, "variable", None)
            if leaf is not None:
                part.leaves[leaf] = None
            elif node in owners:
                _absorb(part, owners[node])
            else:
                part.nodes.add(node)
                queue.extend(below for below, _ in node.next_functions)
        owners.update(dict.fromkeys(part.nodes, part))
    return list(dict.fromkeys(owners[edge.node] for edge in edges))


def _absorb(part: Part, other: Part) -> None:
    part.edges = sorted(part.edges + other.edges)
    part.leaves |= other.leaves
    part.nodes |= other.nodes
