"""A pass of `LocallyExact`: the cotangents down the linear chain, and the gradients of every part from them.

The graph is cut at every activation; what is left of it is one affine part a layer. There are two ways down the chain:

- its map from g_n is the same for every sample, a matrix P_k of C rows, so the C unit vectors are sent down once, and
  delta_n = g_n P_k: no part waits for the one above;
- the batch itself is sent down, a part at a time. That is what `convert` does, and `collapse` where it is cheaper.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..._errors import CollapseError
from ..._torch.recording import graph_is_kept
from ..captured.beginning import begin
from ..plan.cutting import Cut, Cutter, connected, gradients, separate
from .functions import outputs_apart, require_one_cotangent
from .maps import Maps
from .workers import averaged, averaged_if_any, require_same


def run_cut(
    module: Callable[..., Sequence[Any]],
    inputs: Sequence[Any],
    cutter: Cutter,
    is_argument: Sequence[bool],
    maps: Maps | None = None,
    group: dist.ProcessGroup | None = None,
    names: Sequence[str] = (),
) -> list[Any]:
    """What a graph returns; its backward pass is the rule's.

    Args:
        module: The graph, its activations run by the cutter, which is its last input.
        inputs: The others; of any kind.
        cutter: The cutter.
        is_argument: Which of them receive the chain's cotangents; the others, parameters, receive the exact ones of
            the part that reads them.
        maps: Sends the unit vectors down the chain; None to send the batch itself.
        group: The workers whose mean the parameters' gradients become; None for this one alone.
        names: Those parameters', which must be the same on all workers.
    """
    places = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    given, edges = list(inputs), list[GradientEdge]()
    for i in places:
        begun, edge = begin(inputs[i])
        given[i] = begun if maps is None or not is_argument[i] else begun.detach()  # whose cotangents the maps bring
        edges.append(edge)
    results = list(module(*given, cutter))
    differentiable = [i for i, y in enumerate(results) if isinstance(y, Tensor) and y.requires_grad]
    if maps is not None:  # with which what an activation puts out has no graph
        differentiable = maps.outputs
    if not differentiable:
        return results
    outputs: list[Tensor] = [results[i] for i in differentiable]
    arguments = [is_argument[i] for i in places]
    likes = [inputs[i].detach().to("meta") for i in places]
    if maps is not None:
        maps.note(cutter.noted)
    tops = [get_gradient_edge(y) if y.requires_grad else None for y in outputs]
    step = _Pass(cutter, edges, likes, arguments, tops, maps, group, names)
    apart = outputs_apart(outputs)
    if maps is not None:
        components = maps.components
    else:
        parameters = {i for i in places if not is_argument[i]}
        components = connected(tops, dict(zip(places, edges, strict=True)), parameters, cutter.cuts)
    for each in components:
        own = [y if i in each.outputs else None for i, y in enumerate(apart)]
        made = _Local.apply(step, own, *[inputs[i] if i in each.sources else None for i in places])
        for i in each.outputs:
            results[differentiable[i]] = made[i]
    return results


class _Pass:
    """One forward pass, kept until its backward pass.

    Args:
        cutter: What ran it.
        sources: Where its graph begins.
        likes: The shapes and dtypes of what it begins with.
        arguments: Which of them receive the chain's cotangents.
        outputs: Its outputs, in the graph of the part below them; None for an activation's own.
        maps: As for `run_cut`.
        group: As for `run_cut`.
        names: Of the parameters, as for `run_cut`.
    """

    def __init__(
        self,
        cutter: Cutter,
        sources: list[GradientEdge],
        likes: list[Tensor],
        arguments: list[bool],
        outputs: list[GradientEdge | None],
        maps: Maps | None,
        group: dist.ProcessGroup | None,
        names: Sequence[str],
    ) -> None:
        self.cuts, self.sources, self.outputs = cutter.cuts, sources, outputs
        self.likes, self.maps, self.group, self.names = likes, maps, group, names
        self.arguments = [i for i, each in enumerate(arguments) if each]
        self.parameters = [i for i, each in enumerate(arguments) if not each]
        if group is not None:
            _average_slopes(self.cuts, group)

    def gradients(self, g: Sequence[Tensor | None], sources: Sequence[Any], keep: bool) -> list[Tensor | None]:
        """Of what its graph begins with; None where `sources` has None, on which none of these outputs depends."""
        if self.group is not None:
            require_same([[each is not None for each in g]], [*self.names], None, self.group, _device(g))
        of_arguments, of_h = self._chain(g)
        found = self._of_parameters(g, of_h, keep)
        found.update(zip(self.arguments, of_arguments, strict=True))
        if self.group is not None:
            reached = [i for i in self.parameters if sources[i] is not None]
            parts, likes = [found.get(i) for i in reached], [self.likes[i] for i in reached]
            found.update(zip(reached, averaged_if_any(parts, likes, self.group, _device(g)), strict=True))
        return [None if source is None else found.get(i) for i, source in enumerate(sources)]

    def _chain(self, g: Sequence[Tensor | None]) -> tuple[Sequence[Tensor | None], Iterable[Tensor | None]]:
        """The cotangents that the chain brings to the arguments, and one by one to every h, the last first."""
        if self.maps is not None:
            return self.maps.spread(g, self.cuts)
        of_h: list[Tensor | None] = [None] * len(self.cuts)
        of_arguments: list[Tensor | None] = [None] * len(self.arguments)

        def send(outputs: Sequence[GradientEdge], cotangents: Sequence[Tensor], below: int) -> None:
            edges = [(of_arguments, i, self.sources[j]) for i, j in enumerate(self.arguments)]
            edges += [(of_h, k, cut.h) for k, cut in enumerate(self.cuts[:below]) if cut.h is not None]
            if not edges:
                return
            found = gradients(outputs, [edge for *_, edge in edges], cotangents, keep=True)
            for (total, i, _), part in zip(edges, found, strict=True):
                if part is not None:
                    total[i] = part if (sum_ := total[i]) is None else sum_ + part

        received = [(y, each) for y, each in zip(self.outputs, g, strict=True) if y is not None and each is not None]
        send([y for y, _ in received], [each for _, each in received], len(self.cuts))
        for k in range(len(self.cuts) - 1, -1, -1):
            cut, delta = self.cuts[k], of_h[k]
            if delta is not None:
                _, of_own = _through(cut, delta, keep=True)
                of_a = [delta if cut.slope is None else delta * cut.slope] if cut.a is not None else []
                send([cut.a, *cut.parameters] if cut.a is not None else cut.parameters, [*of_a, *of_own], k)
        return of_arguments, of_h[::-1]

    def _of_parameters(
        self, g: Sequence[Tensor | None], of_h: Iterable[Tensor | None], keep: bool
    ) -> dict[int, Tensor | None]:
        """Every affine part's, from delta * f'(a), and those of the activations themselves, from delta.

        Parts that have nothing in common come one after another, so that the memory of one is free for the next.
        """
        total: dict[int, Tensor | None] = {}

        def add(indices: Iterable[int], found: Iterable[Tensor | None]) -> None:
            for i, gradient in zip(indices, found, strict=True):
                if gradient is not None:
                    total[i] = gradient if (before := total.get(i)) is None else before + gradient

        cuts = self.cuts[::-1]
        edges = [y for y in self.outputs if y is not None]
        of_outputs = [each for y, each in zip(self.outputs, g, strict=True) if y is not None]
        edges += [edge for cut in cuts for edge in (cut.a, *cut.parameters) if edge is not None]
        waiting = separate(edges, self.sources)
        ready: list[Tensor | None] = []
        for cotangent in itertools.chain(of_outputs, self._of_pre_activations(of_h, keep)):
            ready.append(cotangent)
            for part in [part for part in waiting if part.edges[-1] < len(ready)]:
                waiting.remove(part)
                indices = [i for i in part.sources if i in self.parameters]
                pairs = [(edges[k], c) for k in part.edges if (c := ready[k]) is not None]
                if indices and pairs:
                    sources = [self.sources[i] for i in indices]
                    add(indices, gradients([y for y, _ in pairs], sources, [c for _, c in pairs], keep))
                for k in part.edges:
                    ready[k] = None
        return total

    def _of_pre_activations(self, of_h: Iterable[Tensor | None], keep: bool) -> Generator[Tensor | None]:
        """The exact cotangents of every pre-activation, and of tensors of the activation's own, the last first."""
        for cut, delta in zip(self.cuts[::-1], of_h, strict=True):
            if cut.a is None and not cut.parameters:
                continue
            of_a, of_own = (None, [None] * len(cut.parameters)) if delta is None else _through(cut, delta, keep)
            if cut.a is not None:
                yield of_a
            yield from of_own


def _through(cut: Cut, delta: Tensor, keep: bool) -> tuple[Tensor | None, Sequence[Tensor]]:
    """The exact cotangents of an activation's input, and of tensors of its own."""
    assert cut.own is not None
    of_a, *of_own = gradients([cut.own], cut.starts, [delta], keep)
    return of_a, [torch.zeros_like(delta) if each is None else each for each in of_own]


def _average_slopes(cuts: Sequence[Cut], group: dist.ProcessGroup) -> None:
    sloped = [(cut, cut.slope) for cut in cuts if cut.slope is not None]
    if sloped:
        slopes = [slope for _, slope in sloped]
        require_same("slopes", [], [slope.shape for slope in slopes], group, slopes[0].device)
        means = averaged(slopes, group, [cut.count for cut, _ in sloped])
        for (cut, _), mean in zip(sloped, means, strict=True):
            cut.slope = mean


def _device(g: Sequence[Tensor | None]) -> torch.device:
    return next(each.device for each in g if each is not None)


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, step: _Pass, outputs: list[Tensor | None], *sources: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.step = step
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*sources)  # autograd sees to it that none of them changes
        return tuple(outputs)  # which whoever called may overwrite

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise CollapseError("LocallyExact cannot be differentiated again (create_graph=True); use another rule")
        step: _Pass = ctx.step
        kept = graph_is_kept()
        sources: tuple[Tensor | None, ...] = ctx.saved_tensors
        if all(each is None for each in g):
            return (None,) * (2 + len(sources))
        if step.maps is not None:
            require_one_cotangent(g)
        return None, None, *step.gradients(g, sources, kept)
