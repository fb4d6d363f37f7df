"""The proof that one operation is affine in each sample, with coefficients that are the same for all.

The operation alone is run on random values of its own shapes: at samples z and at mixtures W z of them, with rows of
W that sum to one. It is affine in each sample if f(W z) = W f(z) for random z and W, and its backward pass is that of
an affine map if it is the same at two random z. What else it reads (parameters, constants) is random, too, so that
nothing holds because a factor happens to be zero today. All this in float64 where the operation allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from .._torch import HigherOrderOperator, version_of
from .graph import name_of, run_node, tensors_of
from .layout import Form, Layout, candidates, of_positions
from .trace import Trace, random_state

Operation = Callable[[Mapping[fx.Node, Any]], Any]
Values = dict[fx.Node, Any]

_TOLERANCE = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-4, torch.complex64: 1e-4}
_ROUGH = 5e-2  # bfloat16 and float16

_MOST_VALUES = 200_000  # of a tensor of many samples
_PRIME = 7

_NOT_AFFINE = "it is not affine in each sample"


def _as_drawn(z: Tensor) -> Tensor:
    return z


def _of_many_sizes(z: Tensor) -> Tensor:
    return z * 10 ** (6 * torch.rand(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype) - 3)


def _small(z: Tensor) -> Tensor:
    return _of_many_sizes(z) * 1e-9


def _large(z: Tensor) -> Tensor:
    return z * 1e30


# A kink may lie far from zero, or two pieces meet where a sample is small.
_SCALES: tuple[Callable[[Tensor], Tensor], ...] = (_as_drawn, _of_many_sizes, _small, _large)


def _not_a_number(z: Tensor) -> Tensor:
    return torch.full_like(z, torch.nan)


def _shifted(k: Tensor) -> Tensor:
    return ~k if k.dtype == torch.bool else k + 1


def _reversed(k: Tensor) -> Tensor:
    return k.flip(tuple(range(k.dim())))


def _of_small_numbers(k: Tensor) -> Tensor:
    return torch.randint(-3, 4, k.shape, generator=torch.Generator().manual_seed(0)).to(k)


# Integers and masks that are no samples may be others tomorrow; a device other than the CPU fails for good on an index
# that is out of range.
_INTEGERS: tuple[Callable[[Tensor], Tensor], ...] = (_reversed, _shifted, _of_small_numbers)


class Proof:
    """Proves operations of a traced graph, in its order, and knows where their results keep their samples.

    Args:
        trace: The trace.
        positions: The sizes of a sample's positions, where every position counts as a sample; () where none does.

    Attributes:
        layouts: By node, where each of its tensors keeps its samples; None for one that holds none.
        alike: The nodes whose values are the same for every sample, whatever the samples are.
    """

    def __init__(self, trace: Trace, positions: tuple[int, ...] = ()) -> None:
        self.trace, self.positions = trace, positions
        self.layouts: dict[fx.Node, list[Layout | None]] = {}
        self.alike: set[fx.Node] = set()
        self._proved: dict[Any, tuple[fx.Node, str]] = {}
        count = torch.Size(positions).numel()
        self._weights = _mixing(trace.sizes[1] * count, trace.sizes[0] * count)

    def place(self, node: fx.Node, like: fx.Node | None = None) -> str:
        """Note where a node keeps its samples, by its shapes or as another does; the fault if nowhere."""
        known = self.layouts[like][0] if like is not None else None
        found = [self._options(first, second) for first, second in self.pairs(node)]
        if not all(found):
            return "it does not keep the samples apart"
        self.layouts[node] = [known if known in options else options[0] for options in found]
        return ""

    def fault(self, node: fx.Node, operation: Operation | None = None) -> str:
        """Why an operation is not affine in each sample; empty if it is, and then its layouts are known.

        Args:
            node: Its node.
            operation: What to run in its place, given the values that it reads.
        """
        if isinstance(node.target, HigherOrderOperator):
            return "it has a backward pass of its own, or runs code that depends on the sample"
        if operation is not None:
            return self._attempted(node, operation)
        signature = self._signature(node)
        if signature not in self._proved:
            self._proved[signature] = node, self._attempted(node, lambda v: run_node(node, v, self.trace.module))
        like, fault = self._proved[signature]
        if like is not node and not fault:
            self.layouts[node] = self.layouts[like]
            if like in self.alike:
                self.alike.add(node)
        return fault

    def _attempted(self, node: fx.Node, run: Operation) -> str:
        for dtype in (torch.float64, None):  # some operations exist in the model's own precision alone
            try:
                return _Attempt(self, node, run, dtype).fault()
            except Exception as error:
                failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        return f"it cannot be run by itself ({failure})"

    def _signature(self, node: fx.Node) -> Any:
        """What the proof of an operation depends on; the node itself where that is more than forms."""
        forms: dict[fx.Node, str] = {}
        for arg in node.all_input_nodes:
            tensors = self.trace.values[arg]
            if not all(isinstance(t, Tensor) and _is_inexact(t) for t in tensors):
                return node
            layouts = self.layouts[arg] if arg in self.trace.carries else None
            form = [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors]
            forms[arg] = repr((form, layouts, arg in self.alike))
        if node in self.trace.overwrites or not forms:
            return node
        return node.target, repr(fx.map_arg((node.args, node.kwargs), forms.__getitem__))  # pyright: ignore

    def pairs(self, node: fx.Node) -> list[tuple[Tensor, Tensor]]:
        first, second = map(tensors_of, self.trace.values[node])
        return list(zip(first, second, strict=True))

    def _options(self, first: Tensor, second: Tensor) -> list[Layout]:
        """The layouts that the shapes of a tensor in the two runs allow."""
        if not self.positions:
            return list(candidates(first.shape, second.shape, self.trace.sizes))
        found = [
            of_positions(t.shape, size, self.positions)
            for t, size in zip((first, second), self.trace.sizes, strict=True)
        ]
        return [found[0]] if found[0] is not None and found[0] == found[1] else []

    def fitting(self, first: Tensor, second: Tensor) -> list[Layout | None]:
        """The layouts under which `second` is the mixture of `first`; [None] if both are one constant."""
        options = self._options(first, second)
        if options:
            return [layout for layout in options if _close(second, self.mix(layout, first, second), first)]
        return [None] if first.shape == second.shape and _close(second, first, first) else []

    def mix(self, layout: Layout, z: Tensor, like: Tensor) -> Tensor:
        """Mixtures of samples, in the shape of `like`."""
        rows = _rows(layout, z)
        mixed = self._weights.to(rows) @ rows
        return layout.like(mixed if _is_inexact(z) else mixed.round(), Form.of(z)._replace(shape=like.shape))


class _Run(NamedTuple):
    """What an operation made of random samples.

    Attributes:
        results: What it returned, then what it overwrote.
        written: Where the latter keep their samples.
        gradients: Of the samples, for one and the same cotangents.
    """

    results: list[Tensor]
    written: list[Layout | None]
    gradients: Sequence[Tensor | None]

    def has_gradients_of(self, other: _Run) -> bool:
        """Whether its backward pass is another's."""
        pairs = zip(self.gradients, other.gradients, strict=True)
        return all(a is b if a is None or b is None else _close(a, b, b) for a, b in pairs)


@dataclass
class _Attempt:
    """One operation, run in one precision; None for the model's own."""

    proof: Proof
    node: fx.Node
    run: Operation
    dtype: torch.dtype | None

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        trace = self.proof.trace
        self.samples = [arg for arg in self.node.all_input_nodes if arg in trace.carries]
        self.varied = [arg for arg in self.samples if arg not in self.proof.alike]
        self.values = {arg: trace.values[arg] for arg in self.node.all_input_nodes}
        self.alike: dict[fx.Node, tuple[Any, Any]] = {}
        for arg in self.samples:
            if arg not in self.varied:
                self.alike[arg] = self._drawn(arg, _as_drawn)
        self.devices = {t.device for pair in self.values.values() for t in tensors_of(pair) if t.is_cuda}
        self.chosen: list[Layout | None] = []
        self.others: dict[fx.Node, tuple[Any, Any]] = {}
        for arg, (first, second) in self.values.items():
            if arg not in trace.carries:
                constants = self._constants(first)
                self.others[arg] = (constants, constants) if first is second else (first, second)

    def fault(self) -> str:
        """Why it is not affine; empty if it is."""
        if any(not _is_inexact(t) for arg in self.varied for t in tensors_of(self.values[arg])):
            return "it reads integers of the samples, indices or a mask, which cannot be combined"
        with torch.random.fork_rng(list(self.devices)):
            fault = self._fault_at_scales()
            if fault:
                return fault
            if not self._is_affine_for_other_integers():
                return "it is affine in each sample for some values of its integers only"
            if not self._is_affine_for_many():
                return _NOT_AFFINE
        self.proof.layouts[self.node] = self.chosen[: len(self.proof.pairs(self.node))]
        self._note_what_is_alike()
        return ""

    def _fault_at_scales(self) -> str:
        shapes = [first.shape for first, _ in self.proof.pairs(self.node)]
        runs: list[_Run] = []
        for scale in _SCALES:
            before = random_state(self.devices)
            run, second = self._run_backward(scale), self._results(1, scale)[0]
            if before != random_state(self.devices):
                return "it is random, and draws other numbers for every sample"
            if [t.shape for t in run.results[: len(shapes)]] != shapes:
                return "its shapes depend on the values"
            if scale is _large and any(t.dtype == torch.float16 for t in run.results):
                continue
            found = self._fitting(run.results, second, run.written)
            if not found or (runs and found != self.chosen):
                return _NOT_AFFINE
            self.chosen = found
            runs.append(run)
        if not all(run.has_gradients_of(runs[0]) for run in runs):
            return "its backward pass depends on the sample"
        if not self._keeps_what_is_not_a_number(*runs[:2]):
            return "it replaces what is not a number, which is all that is combined with it"
        return ""

    def _keeps_what_is_not_a_number(self, run: _Run, other: _Run) -> bool:
        """Whether a NaN in the samples reaches whatever depends on them."""
        results, _ = self._results(0, _not_a_number)
        return not any(
            _is_inexact(c) and (c.shape != a.shape or (~c.isnan())[a != b].any())
            for a, b, c in zip(run.results, other.results, results, strict=True)
        )

    def _is_affine_for_other_integers(self) -> bool:
        """Whether it stays affine when its integers and masks are others, those that it takes."""
        given = self.others
        if not any(not _is_inexact(t) for pair in given.values() for t in tensors_of(pair[0])):
            return True
        try:
            for changed in _INTEGERS[: 1 if self.devices else None]:
                change = partial(_integers_changed, changed)
                self.others = {arg: tuple(map(change, pair)) for arg, pair in given.items()}  # pyright: ignore
                try:
                    (first, written), (second, _) = self._results(0, _as_drawn), self._results(1, _as_drawn)
                except Exception:  # not those
                    continue
                if not self._fitting(first, second, written):
                    return False
        finally:
            self.others = given
        return True

    def _is_affine_for_many(self) -> bool:
        """Whether it stays so for more samples than its numbers count: `roll(6, 0)` does nothing to 3 samples or 2."""
        numbers = [abs(a) for a in tree_leaves((self.node.args, self.node.kwargs)) if type(a) is int]
        tensors = [t for arg in self.samples for t in tensors_of(self.values[arg][0])]
        if self.proof.positions or max(numbers, default=0) < self.proof.trace.sizes[1]:
            return True
        if not tensors or not all(_is_inexact(t) and t.numel() for t in tensors):
            return True
        most = _MOST_VALUES * self.proof.trace.sizes[0] // max(t.numel() for t in tensors)
        count = min(max(numbers) + 3, max(most, _PRIME))
        weights = _mixing(count - 1, count)
        try:
            first, second = self._many_results(None, count), self._many_results(weights, count)
        except Exception:
            return False
        for a, b, layout in zip(first, second, self.chosen, strict=False):
            mixed = a
            if layout is not None:
                rows = _rows(layout, a)
                mixed = layout.like(weights.to(rows) @ rows, Form.of(b))
            if _is_inexact(a) and not _close(b, mixed, a):
                return False
        return True

    def _many_results(self, weights: Tensor | None, count: int) -> list[Tensor]:
        with torch.no_grad():
            return self._ran(0, self._many(weights, count))[0]

    def _many(self, weights: Tensor | None, count: int) -> Values:
        """Values of many samples, or of mixtures of them, in the places of all that the operation reads."""
        self.generator.manual_seed(0)
        (more, fewer), number = self.proof.trace.sizes, count if weights is None else len(weights)

        def of_many(t: Tensor, layout: Layout | None) -> Tensor:
            if layout is None:
                return self._constant(t)
            width = layout.rows(t).shape[1]
            rows = torch.randn(count, width, generator=self.generator, dtype=torch.float64)
            rows = rows if weights is None else weights @ rows
            return layout.like(rows.to(t.device), Form.of(t)._replace(dtype=self._precision(t)))

        values: Values = {}
        for arg in self.samples:
            leaves, structure = tree_flatten(self.values[arg][0])
            layouts = iter(self.proof.layouts[arg])
            made = [of_many(t, next(layouts)) if isinstance(t, Tensor) else t for t in leaves]
            values[arg] = tree_unflatten(made, structure)
        for arg, (a, b) in self.values.items():
            if type(a) is int and a != b:
                values[arg] = b + (a - b) * (number - fewer) // (more - fewer)
        return values

    def _note_what_is_alike(self) -> None:
        trace, alike = self.proof.trace, self.proof.alike
        if not self.varied or _is_constructor(self.node):
            alike.add(self.node)
        else:
            written = trace.overwrites.get(self.node, set[int]())
            alike.difference_update([node for node in alike if trace.storages(node) & written])

    def _fitting(self, first: list[Tensor], second: list[Tensor], written: list[Layout | None]) -> list[Layout | None]:
        """A layout for each result; none at all if one of them has none."""
        chosen: list[Layout | None] = []
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            if not _is_inexact(a) and self.varied and not _is_constructor(self.node):
                return []
            options = self.proof.fitting(a, b)
            own = index - (len(first) - len(written))
            if own >= 0:  # what it overwrites keeps its samples where they are
                options = [layout for layout in options if layout == written[own]]
            if not options:
                return []
            chosen.append(options[0])
        return chosen or [None]

    def _results(self, which: int, scale: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], list[Layout | None]]:
        """What the operation makes of random samples, then of their mixtures; and what it overwrites of them."""
        with torch.no_grad():
            return self._ran(which, self._all_drawn(which, scale))

    def _all_drawn(self, which: int, scale: Callable[[Tensor], Tensor]) -> Values:
        self.generator.manual_seed(0)
        return {arg: self._drawn(arg, scale)[which] for arg in self.samples}

    def _ran(self, which: int, samples: Values) -> tuple[list[Tensor], list[Layout | None]]:
        others = {arg: _copied(pair[which]) for arg, pair in self.others.items() if arg not in samples}
        placed = [
            (t, layout)
            for arg in self.samples
            for t, layout in zip(tensors_of(samples[arg]), self.proof.layouts[arg], strict=True)
        ]
        versions = [version_of(t) for t, _ in placed]
        returned = tensors_of(self.run({**samples, **others}))
        written = [each for each, version in zip(placed, versions, strict=True) if version_of(each[0]) != version]
        extra = [(t, layout) for t, layout in written if all(t is not other for other in returned)]
        return returned + [t for t, _ in extra], [layout for _, layout in extra]

    def _run_backward(self, scale: Callable[[Tensor], Tensor]) -> _Run:
        leaves: list[Tensor] = []

        def begun(t: Tensor) -> Tensor:
            if not _is_inexact(t):
                return t
            leaves.append(t.requires_grad_())
            return t * 1

        with torch.enable_grad():
            drawn = self._all_drawn(0, scale)
            drawn |= {arg: tree_map_only(Tensor, begun, drawn[arg]) for arg in self.varied}
            returned, written = self._ran(0, drawn)
        results = [t for t in returned if t.requires_grad]
        gradients: Sequence[Tensor | None] = ()
        if results and leaves:
            fixed = torch.Generator().manual_seed(1)
            cotangents = [torch.randn(t.shape, generator=fixed, dtype=torch.float64).to(t) for t in results]
            gradients = torch.autograd.grad(results, leaves, cotangents, allow_unused=True)
        return _Run([t.detach() for t in returned], written, gradients)

    def _drawn(self, arg: fx.Node, scale: Callable[[Tensor], Tensor]) -> tuple[Any, Any]:
        """Random samples in place of a node's, and mixtures of them; the same whenever they are alike."""
        if arg in self.alike:
            return tuple(map(_copied, self.alike[arg]))  # pyright: ignore[reportReturnType]
        (first, structure), (second, other) = map(tree_flatten, self.values[arg])
        layouts = iter(self.proof.layouts[arg])
        pairs = [
            self._pair(a, b, next(layouts), scale, arg in self.proof.alike) if isinstance(a, Tensor) else (a, b)
            for a, b in zip(first, second, strict=True)
        ]
        return tree_unflatten([a for a, _ in pairs], structure), tree_unflatten([b for _, b in pairs], other)

    def _pair(
        self, first: Tensor, second: Tensor, layout: Layout | None, scale: Callable[[Tensor], Tensor], alike: bool
    ) -> tuple[Tensor, Tensor]:
        if not _is_inexact(first) or not first.numel():
            return first.detach().clone(), second.detach().clone()
        if layout is None:
            constant = self._constant(first)
            return constant, constant.clone()
        drawn = torch.randn(first.shape, generator=self.generator, dtype=torch.float64)
        drawn = scale(drawn)
        if first.is_complex():
            drawn = torch.complex(drawn, scale(torch.randn(first.shape, generator=self.generator, dtype=torch.float64)))
        if alike:
            rows = layout.rows(drawn)
            drawn = layout.like(rows[:1].expand(rows.shape).contiguous(), Form.of(drawn))
        drawn = _strided(drawn.to(first.device, self._precision(first)), first)
        return drawn, _strided(self.proof.mix(layout, drawn, second), second)

    def _constants(self, value: Any) -> Any:
        return tree_map_only(Tensor, self._constant, value)

    def _constant(self, t: Tensor) -> Tensor:
        """Other values in place of a parameter's or constant's: positive, as variances must be."""
        if not _is_inexact(t):
            return t.detach().clone()
        drawn = torch.rand(t.shape, generator=self.generator, dtype=torch.float64) + 0.5
        return _strided(drawn.to(t.device, self._precision(t)), t)

    def _precision(self, t: Tensor) -> torch.dtype:
        if self.dtype is None or not _is_inexact(t):
            return t.dtype
        return torch.complex128 if t.is_complex() else self.dtype


def _mixing(number: int, of: int) -> Tensor:
    """Random weights of mixtures, which sum to one."""
    weights = torch.randn(number, of, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return weights + (1 - weights.sum(1, keepdim=True)) / of


def _rows(layout: Layout, z: Tensor) -> Tensor:
    return layout.rows(z.to(torch.complex128 if z.is_complex() else torch.float64))


def _is_constructor(node: fx.Node) -> bool:
    """Whether an operation reads nothing of its tensors but their shapes: `x.new_zeros(...)`, `torch.ones_like(x)`."""
    name = name_of(node)
    return name.startswith("new_") or (name.endswith("_like") and not name.startswith("rand"))


def _is_inexact(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _copied(value: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.detach().clone(), value)


def _integers_changed(changed: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t if _is_inexact(t) else changed(t), value)


def _strided(values: Tensor, like: Tensor) -> Tensor:
    """The values with the strides of another tensor of their shape; entries that it has once are there once."""
    sizes = [1 if stride == 0 else length for length, stride in zip(like.shape, like.stride(), strict=True)]
    once = values[tuple(slice(0, size) for size in sizes)]
    try:
        made = torch.empty_strided(sizes, like.stride(), dtype=values.dtype, device=values.device)
        return made.copy_(once).expand(like.shape)
    except RuntimeError:  # entries overlap otherwise
        return values


def _close(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not _is_inexact(a):
        return torch.equal(a, b)
    if not a.numel():
        return True
    largest = max(b.abs().max().item(), scale.abs().max().item() if scale.numel() else 0.0, 1e-30)
    return bool((a - b).abs().max().item() <= _TOLERANCE.get(a.dtype, _ROUGH) * largest)
