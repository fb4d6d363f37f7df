"""`LocallyExact`: a linear chain, and the exact derivative where it is used.

The graph is cut at every activation; what is left of it is one affine part a layer. The cotangents delta_n of every
activation h come from the chain, and the parameters of every part get their gradients from delta_n * f'(a_n). There
are two ways down the chain:

- its map from g_n is the same for every sample, a matrix P_k of C rows, so the C unit vectors are sent down once, and
  delta_n = g_n P_k: no part waits for the one above;
- the batch itself is sent down, a part at a time. That is what `convert` does, and `collapse` where it is cheaper.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_flatten, tree_unflatten

from .._call import Call
from .._conversion.run_call import run_activation, run_layer_with_constants
from .._errors import LinearBackpropError
from .._rules.elementwise import Linear, MeanLinear
from .._rules.rule import BackwardRule, LayerRule, ModelRule
from .._torch import graph_is_kept
from .aggregates import mean_slopes, spread
from .boundary import Boundary, Seam
from .parts import begin, gradients, separate
from .replay import Emitter, Recorded, Run, autocast_as_now, undisturbed
from .workers import averaged


@dataclass(frozen=True)
class LocallyExact(ModelRule):
    """A linear chain, and the exact derivative where it is used.

    The parameters of the affine part just below an activation receive g * f'(a); what lies further down
    receives the chain's cotangent of a. Two cotangents for one pre-activation are more than an activation can
    send by itself, so this is a rule for whole models, for `convert` and `collapse`, and not for `with_rule` or
    `backward_rule`.

    Args:
        chain: `Linear()` or `MeanLinear()`.

    Raises:
        LinearBackpropError: The chain is another rule; or the rule was given to something else than `convert` or
            `collapse`, at the backward pass.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> conversion = lb.convert(model, lb.LocallyExact(lb.Linear()))
        >>> model(torch.ones(3, 4)).sum().backward()
    """

    formula = "g * f'(a) for the parameters just below, chain's cotangent further down"
    source = "a linear chain with each layer's own derivative; for convert and collapse"

    chain: BackwardRule = Linear()  # noqa: RUF009

    def __post_init__(self) -> None:
        if not isinstance(self.chain, Linear | MeanLinear):
            raise LinearBackpropError(f"LocallyExact's chain must be Linear() or MeanLinear(), got {self.chain!r}")

    def run(
        self,
        forward: Callable[..., Any],
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        layers: Sequence[LayerRule],
    ) -> Any:
        """The model's output, its graph cut at every activation."""
        return run_locally(forward, model, self, args, kwargs, layers)


_Add = Callable[[Sequence[Tensor], Sequence[Tensor | None]], None]


@dataclass
class _Cut:
    """One activation of a forward pass, but for its values.

    Attributes:
        a: The pre-activation's edge in the graph of the affine part below it; None if that takes no gradient.
        start: Where the graph of the activation itself begins.
        own: h, in the graph of the activation itself.
        h: Where the graph of what follows begins; None where only the C unit vectors are sent down.
        like: h's shape and dtype.
        parameters: What f depends on besides a, such as PReLU's weight.
        position: Which of the non-linearities that emit something it is.
    """

    a: GradientEdge | None
    start: GradientEdge
    own: GradientEdge
    h: GradientEdge | None
    like: Tensor
    parameters: list[Tensor]
    position: int


class _Cutter(Run):
    """Runs the model as it is, its graph cut at every activation above the boundary.

    Args:
        rule: The rule.
        layers: Rules for layers.
        seam: Where the upper part begins.
        chained: Whether the batch is to be sent down the chain, so that every h must take a cotangent.
    """

    def __init__(self, rule: LocallyExact, layers: Sequence[LayerRule], seam: Seam, chained: bool) -> None:
        super().__init__(Boundary(seam, grad_below=True, grad_above=True), layers)
        self.rule = rule
        self.chained = chained
        self.cuts: list[_Cut] = []
        self.seen: list[Recorded] = []
        self.shapes: list[torch.Size] = []

    def layer(self, call: Call, rule: LayerRule) -> Any:
        """Run it under its rule."""
        result, constants = run_layer_with_constants(call, rule)
        self._note(Recorded(call.name, not rule.reproduces_forward, constants), result)
        return result

    def activation(self, call: Call) -> Tensor:
        """Cut the graph there."""
        h: Tensor = run_activation(call, self.rule, self.cut)
        if h is call.input:  # written in place, and so with the graph below it
            h.detach_().requires_grad_(self.chained)
            self.cuts[-1].h = get_gradient_edge(h) if self.chained else None
        return h

    def cut(self, f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
        """The activation's value, without the graph below it."""
        begun, start = begin(a)
        own = f(begun, *parameters)
        slope = None
        if isinstance(self.rule.chain, MeanLinear):
            (derivatives,) = gradients([own], [start], [torch.ones_like(own)], keep=True)
            slope = self.rule.chain.mean(torch.zeros_like(own) if derivatives is None else derivatives)
        h, edge = begin(own) if self.chained else (own.detach(), None)
        self.cuts.append(
            _Cut(
                a=get_gradient_edge(a) if a.requires_grad else None,
                start=start,
                own=get_gradient_edge(own),
                h=edge,
                like=own.detach().to("meta"),
                parameters=[p for p in parameters if p.requires_grad],
                position=len(self.shapes),
            )
        )
        self._note(Recorded(getattr(f, "__name__", "an activation"), slope=slope), h)
        return h

    def _note(self, recorded: Recorded, result: Tensor) -> None:
        self.seen.append(recorded)
        if recorded.emits:
            self.shapes.append(result.shape)


def run_locally(
    forward: Callable[..., Any],
    model: nn.Module,
    rule: LocallyExact,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    layers: Sequence[LayerRule],
    seam: Seam = Seam(),  # noqa: B008
    chained: bool = True,
    process_group: dist.ProcessGroup | None = None,
) -> Any:
    """The model's output; its backward pass is the rule's.

    Args:
        forward: Runs the model on `args` and `kwargs`.
        model: The model.
        rule: The rule.
        args: Of any kind; the gradients of tensors among them are the chain's.
        kwargs: Likewise.
        layers: Rules for layers.
        seam: Below it, derivatives are true.
        chained: Whether the batch itself is sent down the chain, or the C unit vectors.
        process_group: The workers whose mean the gradients become; None for this one alone.

    Returns:
        What `forward` returns: tensors, or any structure of them.
    """
    arguments, structure = tree_flatten((args, kwargs))
    places = [i for i, x in enumerate(arguments) if isinstance(x, Tensor) and x.is_floating_point()]
    leaves: list[Tensor] = [arguments[i] for i in places]
    inner = [x.detach().requires_grad_(x.requires_grad) for x in leaves]
    for i, x in zip(places, inner, strict=True):
        arguments[i] = x
    cutter = _Cutter(rule, layers, seam, chained)
    # A compiled model is run eagerly: a graph that is cut at every activation leaves little to compile.
    eagerly = nullcontext() if torch.compiler.is_compiling() else torch.compiler.set_stance("force_eager")
    with eagerly, cutter:
        inner_args, inner_kwargs = tree_unflatten(arguments, structure)
        result = forward(*inner_args, **inner_kwargs)
    flat, result_structure = tree_flatten(result)
    differentiable = [i for i, y in enumerate(flat) if isinstance(y, Tensor) and y.requires_grad]
    outputs: list[Tensor] = [flat[i] for i in differentiable]
    if not outputs:
        return result
    parameters = [p for p in model.parameters() if p.requires_grad]
    leaves += cutter.boundary.crossed
    step = _Pass(model, cutter, inner + cutter.boundary.replacements, outputs, parameters, process_group)
    connected = _Local.apply(step, *[y.detach() for y in outputs], *leaves, *parameters)
    for i, y in zip(differentiable, connected, strict=True):
        flat[i] = y
    return tree_unflatten(flat, result_structure)


class _Pass:
    """One forward pass, kept until its backward pass.

    Args:
        model: The model.
        cutter: What ran it.
        leaves: Its inputs, and what crossed the boundary.
        outputs: Its outputs, with the graph of the part below them.
        parameters: Its parameters.
        process_group: As for `run_locally`.
    """

    def __init__(
        self,
        model: nn.Module,
        cutter: _Cutter,
        leaves: list[Tensor],
        outputs: list[Tensor],
        parameters: list[nn.Parameter],
        process_group: dist.ProcessGroup | None,
    ) -> None:
        self.model, self.cutter, self.leaves = model, cutter, leaves
        self.outputs, self.parameters, self.process_group = outputs, parameters, process_group
        self.wanted = set[Tensor](parameters)
        self.autocast = autocast_as_now(outputs[0].device.type)
        self.seen = cutter.seen if process_group is None else mean_slopes(cutter.seen, process_group)

    def chain(self, g: Sequence[Tensor]) -> tuple[Sequence[Tensor | None], Iterable[Tensor]]:
        """The cotangents that the chain brings to the leaves, and one by one to every activation h, the last first."""
        if self.cutter.chained:
            return self._sent_down(g)
        maps = self._maps(g[0].dim() - 1)
        count = len(self.leaves)
        of_leaves = [spread(p, g[0], z) if z.requires_grad else None for p, z in zip(maps, self.leaves, strict=False)]
        return of_leaves, (spread(maps[count + cut.position], g[0], cut.like) for cut in reversed(self.cutter.cuts))

    def _sent_down(self, g: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        cuts = self.cutter.cuts
        of_h: list[Tensor] = [torch.zeros_like(cut.like, device=g[0].device) for cut in cuts]
        of_leaves = [torch.zeros_like(z) for z in self.leaves]
        seen = [each for each in self.seen if each.emits]

        def send(outputs: Sequence[Tensor | GradientEdge], cotangents: Sequence[Tensor], below: int) -> None:
            sources: list[tuple[Tensor | GradientEdge, Tensor]] = [
                (z, total) for z, total in zip(self.leaves, of_leaves, strict=True) if z.requires_grad
            ]
            sources += [(cut.h, total) for cut, total in zip(cuts[:below], of_h, strict=False) if cut.h is not None]
            if not sources:
                return
            found = gradients(outputs, [z for z, _ in sources], cotangents, keep=True)
            for (_, total), part in zip(sources, found, strict=True):
                if part is not None:
                    total += part

        send(self.outputs, g, len(cuts))
        for k in range(len(cuts) - 1, -1, -1):
            slope, edge = seen[cuts[k].position].slope, cuts[k].a
            if edge is not None:
                send([edge], [of_h[k] if slope is None else of_h[k] * slope], k)
        return of_leaves, of_h[::-1]

    def _maps(self, leading: int) -> list[Tensor]:
        """P for every leaf and everything emitted: shape (C, 1, ..., 1, *features)."""
        (y,) = self.outputs
        shape = (y.shape[-1], *(1,) * (leading - 1))
        boundary = self.cutter.boundary
        of_leaves = [z.new_zeros(shape + z.shape[leading:]).requires_grad_() for z in self.leaves]
        count = len(of_leaves) - len(boundary.crossed)
        inputs, crossed = of_leaves[:count], of_leaves[count:]
        zeros = [y.new_zeros(shape + features[leading:]) for features in self.cutter.shapes]
        with (
            undisturbed(self.model, inputs if boundary.seam.activations else []),
            self.autocast(),
            torch.enable_grad(),
            Emitter(self.cutter.layers, self.seen, zeros, boundary.seam, crossed, of_parameters=False) as emitter,
        ):
            outputs: Tensor = self.model(*inputs)
        unit = torch.eye(y.shape[-1], dtype=outputs.dtype, device=y.device).view_as(outputs)
        quantities = [*of_leaves, *emitter.outputs]
        return list(torch.autograd.grad(outputs, quantities, unit, allow_unused=True, materialize_grads=True))

    def of_parameters(self, g: Sequence[Tensor], of_h: Iterable[Tensor], keep: bool) -> list[Tensor | None]:
        """Every affine part's, from delta * f'(a), and those of the activations themselves, from delta.

        Parts that have nothing in common come one after another, so that the memory of one is free for the next.

        Args:
            g: The cotangents of the outputs.
            of_h: Those of every activation, the last one first.
            keep: Whether the pass may be gone through once more.
        """
        total: dict[Tensor, Tensor] = {}

        def add(parameters: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
            for p, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    total[p] = total[p] + gradient if p in total else gradient

        cuts = self.cutter.cuts[::-1]
        edges = [get_gradient_edge(y) for y in self.outputs] + [cut.a for cut in cuts if cut.a is not None]
        waiting = separate(edges)
        ready: list[Tensor | None] = []
        for cotangent in itertools.chain(g, self._of_pre_activations(cuts, of_h, keep, add)):
            ready.append(cotangent)
            for part in [part for part in waiting if part.edges[-1] < len(ready)]:
                waiting.remove(part)
                parameters = [p for p in part.leaves if p in self.wanted]
                if parameters:
                    outputs = [edges[index] for index in part.edges]
                    cotangents = [c for index in part.edges if (c := ready[index]) is not None]
                    found = gradients(outputs, parameters, cotangents, keep)
                    add(parameters, found)
                for index in part.edges:
                    ready[index] = None
        whole = [total.get(p) for p in self.parameters]
        if self.process_group is None:
            return whole
        dense = [torch.zeros_like(p) if g is None else g for g, p in zip(whole, self.parameters, strict=True)]
        return [*averaged(dense, self.process_group)]

    def _of_pre_activations(
        self, cuts: Sequence[_Cut], of_h: Iterable[Tensor], keep: bool, add: _Add
    ) -> Generator[Tensor]:
        for cut, delta in zip(cuts, of_h, strict=True):
            of_a, *own = gradients([cut.own], [cut.start, *cut.parameters], [delta], keep)
            add(cut.parameters, own)
            if cut.a is not None:
                yield torch.zeros_like(delta) if of_a is None else of_a


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: _Pass, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        ctx.set_materialize_grads(True)
        return tuple(y.view_as(y) for y in values[: len(step.outputs)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        step: _Pass = ctx.step
        of_leaves, of_h = step.chain(g)
        return None, *[None] * len(g), *of_leaves, *step.of_parameters(g, of_h, graph_is_kept())
