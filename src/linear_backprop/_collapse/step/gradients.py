"""The gradients of the collapsed part from C + 1 combinations of samples, as one graph without autograd.

The replay's own backward pass is traced once into a graph of operations. What the replay computes forward and no
gradient reads is dropped from it: most products below an activation. Each gradient is handed over when it is made, so
that they need not be held together. With operators of the user's own (`torch.library.custom_op`), whose backward pass
is Python and may read what changes, the replay and its backward pass are run each time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from ..._torch.functions import is_of_pytorch
from ..captured.graph import compiled, inputs_of, tracing, undisturbed
from ..plan.emission import Noted
from ..plan.plan import Plan

Receive = Callable[[int, Tensor], None]
"""Takes one gradient, after its place among samples, leaves and what is emitted."""


@dataclass(frozen=True)
class Wanted:
    """Which gradients of which outputs.

    Attributes:
        outputs: Which outputs received a cotangent.
        samples: Which inputs of the collapsed part take a gradient.
        leaves: Which leaves do.
        emitted: Whether everything emitted does.
    """

    outputs: tuple[bool, ...]
    samples: tuple[bool, ...]
    leaves: tuple[bool, ...]
    emitted: bool = False


class Gradients:
    """The gradients of one plan's collapsed part.

    Args:
        plan: The plan.
        compiled: Whether the graphs are compiled.
    """

    def __init__(self, plan: Plan, compiled: bool) -> None:
        self.plan, self.compiled = plan, compiled
        self._reorders = compiled and plan.lies_in_any_order  # channels last, a few samples' convolutions take longer
        self._traced: dict[Any, Callable[..., Any]] = {}

    def __call__(
        self,
        wanted: Wanted,
        samples: Sequence[Tensor],
        leaves: Sequence[Tensor],
        noted: Sequence[Noted],
        cotangents: Sequence[Tensor],
        *,
        batch: int,
        autocast: Autocast,
        receive: Receive,
    ) -> None:
        """Make the gradients of samples, leaves and what is emitted: those wanted that an output depends on.

        Args:
            wanted: Which.
            samples: Combinations of the inputs.
            leaves: The leaves.
            noted: Combinations of what the non-linearities put out; slopes and constants as they are.
            cotangents: Of those outputs that received one.
            batch: The size of the batch that the combinations make.
            autocast: What the forward pass ran under.
            receive: Takes them one by one.
        """
        flat = [*leaves, *samples, *(t for each in noted for t in each.tensors), *cotangents]
        if self._reorders:
            flat = [z.contiguous() for z in flat]
        key = wanted, autocast, batch, tuple(z.stride() for z in flat)
        if key not in self._traced:
            self._traced[key] = self._trace(wanted, noted, batch, autocast, flat)
        with torch.no_grad():
            self._traced[key](receive, *flat)

    def _trace(
        self, wanted: Wanted, noted: Sequence[Noted], batch: int, autocast: Autocast, flat: list[Tensor]
    ) -> Callable[..., None]:
        plan = self.plan
        present = tree_map(lambda t: t is not None, list(noted))
        numbers = {n: plan.number(n, batch) for n in plan.replay.inputs if n in plan.analysis.trace.numbers}

        def gradients(*given: Tensor) -> list[Tensor | None]:
            rest = list(given)
            of_leaves = _begun(_taken(rest, len(plan.leaves)), wanted.leaves)
            of_samples = _begun(_taken(rest, len(plan.samples)), wanted.samples)
            noted: list[Noted] = tree_map(lambda is_there: rest.pop(0) if is_there else None, present)
            emitted = [n.value.requires_grad_() for n in noted if n.value is not None] if wanted.emitted else []
            values = numbers | dict(zip([*plan.leaves, *plan.samples], [*of_leaves, *of_samples], strict=True))
            with torch.enable_grad(), autocast.again():
                made = plan.replay.module(*[values[n] for n in plan.replay.inputs], *noted)
            received = [y for y, takes in zip(made, wanted.outputs, strict=True) if takes]
            pairs = [(y, g.to(y.dtype)) for y, g in zip(received, rest, strict=True) if y.requires_grad]
            sources = [*of_samples, *of_leaves, *emitted]
            taking = [place for place, z in enumerate(sources) if z.requires_grad]
            found: list[Tensor | None] = [None] * len(sources)
            if pairs and taking:
                outputs, cotangents = zip(*pairs, strict=True)
                of_taking = torch.autograd.grad(outputs, [sources[i] for i in taking], cotangents, allow_unused=True)
                for place, gradient in zip(taking, of_taking, strict=True):
                    found[place] = gradient
            return found

        if not all(is_of_pytorch(node.target) for node in plan.above):
            return _handing_over(gradients)  # whose backward pass may read anything
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to load

        with tracing, undisturbed():
            traced = make_fx(gradients)(*flat)
        _simplify(traced)
        if self.compiled and not _writes_through_strides(traced):
            return _handing_over(compiled(traced))
        _hand_over(traced)
        return traced.forward


@dataclass(frozen=True)
class Autocast:
    """What autocast was when the forward pass ran; `again()` makes it so."""

    device: str
    dtype: torch.dtype
    enabled: bool

    @staticmethod
    def now(device: str) -> Autocast:
        """What it is now."""
        return Autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))

    def again(self) -> torch.autocast:
        """A context."""
        return torch.autocast(self.device, self.dtype, self.enabled, cache_enabled=False)


def _taken(rest: list[Tensor], count: int) -> list[Tensor]:
    taken, rest[:] = rest[:count], rest[count:]
    return taken


def _begun(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [t.detach().requires_grad_(takes) for t, takes in zip(tensors, wanted, strict=True)]


def _simplify(traced: fx.GraphModule) -> None:
    """Drop what nobody reads, detaching, which means nothing outside autograd, and what is transposed twice."""
    transpose = torch.ops.aten.t.default
    for node in traced.graph.nodes:
        below: Any = node.args[0] if node.args else None
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(below)
        elif node.target is transpose and below.target is transpose:
            node.replace_all_uses_with(below.args[0])
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _writes_through_strides(traced: fx.GraphModule) -> bool:
    """Whether TorchInductor may get it wrong, as it does what autograd makes of writing into views (PyTorch 2.13)."""
    return any(node.target is torch.ops.aten.as_strided.default for node in traced.graph.nodes)


def _handing_over(make: Callable[..., Sequence[Tensor | None]]) -> Callable[..., None]:
    """A function that gives what another returns to its first argument."""

    def handing_over(receive: Receive, *given: Tensor) -> None:
        for place, gradient in enumerate(make(*given)):
            if gradient is not None:
                receive(place, gradient)

    return handing_over


def _hand_over(traced: fx.GraphModule) -> None:
    """Make a graph that gives what it returns to a new first input, each as soon as nothing works in its memory."""
    graph = traced.graph
    nodes = list(graph.nodes)
    begun = len(inputs_of(graph)) - 1
    owners, last = dict[fx.Node, fx.Node](), dict[fx.Node, int]()
    for index, node in enumerate(nodes):
        owners[node], last[node] = node, max(index, begun)
        for read in node.all_input_nodes if node.op != "output" else ():
            last[owners[read]] = index
            if _shares_memory(node):
                owners[node] = owners[read]
    (returned,) = nodes[-1].args
    with graph.inserting_before(nodes[0]):
        receive = graph.placeholder("receive")
    for place, node in enumerate(returned):
        if node is not None:
            with graph.inserting_after(nodes[last[owners[node]]]):
                graph.call_function(operator.call, (receive, place, node))
    nodes[-1].args = (None,)
    traced.recompile()


def _shares_memory(node: fx.Node) -> bool:
    """Whether what the operation returns may lie in the memory of what it is given."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(each.alias_info is not None for each in schema.returns)
