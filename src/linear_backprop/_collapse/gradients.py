"""The gradients of the collapsed part from C + 1 combinations of samples, as one graph without autograd.

The replay's own backward pass is traced once into a graph of operations. What the replay computes forward and no
gradient reads is dropped from it: most products below an activation. With operators of the user's own
(`torch.library.custom_op`), whose backward pass is Python and may read what changes, it is run each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .._torch import is_of_pytorch
from .graph import compiled, undisturbed
from .plan import Plan

Noted = tuple[Tensor | None, Tensor | None, tuple[Tensor, ...], tuple[Tensor, ...]]
"""Of one non-linearity: values, slope, derivatives by its own tensors, and constants."""


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
    ) -> list[Tensor | None]:
        """The gradients of samples, leaves and what is emitted, those wanted; None where nothing depends on one.

        Args:
            wanted: Which.
            samples: Combinations of the inputs.
            leaves: The leaves.
            noted: Combinations of what the non-linearities put out; slopes and constants as they are.
            cotangents: Of those outputs that received one.
            batch: The size of the batch that the combinations make.
            autocast: What the forward pass ran under.
        """
        flat = [*leaves, *samples, *(t for each in noted for t in _flat(each)), *cotangents]
        if self.compiled:  # channels last, a few samples' convolutions take longer
            flat = [z.contiguous() for z in flat]
        key = wanted, autocast, batch, tuple(z.stride() for z in flat)
        if key not in self._traced:
            self._traced[key] = self._trace(wanted, [_counts(each) for each in noted], batch, autocast, flat)
        with torch.no_grad():
            return list(self._traced[key](*flat))

    def _trace(
        self, wanted: Wanted, counts: list[_Counts], batch: int, autocast: Autocast, flat: list[Tensor]
    ) -> Callable[..., Any]:
        plan = self.plan
        numbers = {n: plan.number(n, batch) for n in plan.replay.inputs if n in plan.analysis.trace.numbers}

        def gradients(*given: Tensor) -> list[Tensor | None]:
            rest = list(given)
            of_leaves = _begun(_taken(rest, len(plan.leaves)), wanted.leaves)
            of_samples = _begun(_taken(rest, len(plan.samples)), wanted.samples)
            noted = [_structured(rest, count) for count in counts]
            emitted = [h.requires_grad_() for h, *_ in noted if h is not None] if wanted.emitted else []
            values = numbers | dict(zip([*plan.leaves, *plan.samples], [*of_leaves, *of_samples], strict=True))
            with torch.enable_grad(), autocast.again():
                made = plan.replay.module(*[values[n] for n in plan.replay.inputs], *noted)
            received = [y for y, takes in zip(made, wanted.outputs, strict=True) if takes]
            pairs = [(y, g.to(y.dtype)) for y, g in zip(received, rest, strict=True) if y.requires_grad]
            sources = [z for z in (*of_samples, *of_leaves) if z.requires_grad] + emitted
            if not pairs or not sources:
                return [None] * len(sources)
            outputs, cotangents = zip(*pairs, strict=True)
            return list(torch.autograd.grad(outputs, sources, cotangents, allow_unused=True))

        if not all(is_of_pytorch(node.target) for node in plan.above):
            return gradients  # whose backward pass may read anything
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to load

        with undisturbed():
            traced = make_fx(gradients)(*flat)
        _simplify(traced)
        return compiled(traced) if self.compiled else traced.forward


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


@dataclass(frozen=True)
class _Counts:
    """How many tensors a `Noted` has in each place."""

    values: int
    slopes: int
    own: int
    constants: int


def _counts(noted: Noted) -> _Counts:
    values, slope, own, constants = noted
    return _Counts(values is not None, slope is not None, len(own), len(constants))


def _flat(noted: Noted) -> list[Tensor]:
    values, slope, own, constants = noted
    return [t for t in (values, slope, *own, *constants) if t is not None]


def _structured(rest: list[Tensor], counts: _Counts) -> Noted:
    values, slopes = _taken(rest, counts.values), _taken(rest, counts.slopes)
    own, constants = _taken(rest, counts.own), _taken(rest, counts.constants)
    return next(iter(values), None), next(iter(slopes), None), tuple(own), tuple(constants)


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
