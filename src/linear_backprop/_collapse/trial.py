"""One operation, run by itself on random values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from .._torch import version_of
from .graph import tensors_of
from .layout import Form, Layout
from .sizes import LARGE
from .trace import random_state
from .values import (
    INTEGERS,
    SCALES,
    as_drawn,
    close,
    copied,
    integers_changed,
    is_inexact,
    large,
    mixed,
    mixing,
    not_a_number,
    reads_forms_alone,
    strided,
)

if TYPE_CHECKING:
    from .affine import Proof

Operation = Callable[[Mapping[fx.Node, Any]], Any]
Values = dict[fx.Node, Any]

NOT_AFFINE = "it is not affine in each sample"

_MOST_VALUES = 4_000_000  # of a tensor of many samples
_PRIME = 7
_FEW = 34


class Run(NamedTuple):
    """What an operation made of random samples.

    Attributes:
        results: What it returned, then what it overwrote.
        written: Where the latter keep their samples.
        gradients: Of the samples, for one and the same cotangents.
    """

    results: list[Tensor]
    written: list[Layout | None]
    gradients: Sequence[Tensor | None]

    def has_gradients_of(self, other: Run) -> bool:
        """Whether its backward pass is another's."""
        pairs = zip(self.gradients, other.gradients, strict=True)
        return all(a is b if a is None or b is None else close(a, b, b) for a, b in pairs)


@dataclass
class Trial:
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
                self.alike[arg] = self._drawn(arg, as_drawn)
        self.devices = {t.device for pair in self.values.values() for t in tensors_of(pair) if t.is_cuda}
        self.chosen: list[Layout | None] = []
        self.others: dict[fx.Node, tuple[Any, Any]] = {}
        for arg, (first, second) in self.values.items():
            if arg not in trace.carries:
                constants = self._constants(first)
                self.others[arg] = (constants, constants) if first is second else (first, second)

    def fault(self) -> str:
        """Why it is not affine; empty if it is."""
        if any(not is_inexact(t) for arg in self.varied for t in tensors_of(self.values[arg])):
            return "it reads integers of the samples, indices or a mask, which cannot be combined"
        with torch.random.fork_rng(list(self.devices)):
            fault = self._fault_at_scales()
            if fault:
                return fault
            if not self._is_affine_for_other_integers():
                return "it is affine in each sample for some values of its integers only"
            if not self._is_affine_for_many():
                return NOT_AFFINE
        self.proof.layouts[self.node] = self.chosen[: len(self.proof.pairs(self.node))]
        self._note_what_is_alike()
        return ""

    def _fault_at_scales(self) -> str:
        shapes = [first.shape for first, _ in self.proof.pairs(self.node)]
        runs: list[Run] = []
        for scale in SCALES:
            before = random_state(self.devices)
            run, second = self._run_backward(scale), self._results(1, scale)[0]
            if before != random_state(self.devices):
                return "it is random, and draws other numbers for every sample"
            if [t.shape for t in run.results[: len(shapes)]] != shapes:
                return "its shapes depend on the values"
            if scale is large and any(t.dtype == torch.float16 for t in run.results):
                continue
            found = self._fitting(run.results, second, run.written)
            if not found or (runs and found != self.chosen):
                return NOT_AFFINE
            self.chosen = found
            runs.append(run)
        if not all(run.has_gradients_of(runs[0]) for run in runs):
            return "its backward pass depends on the sample"
        if not self._keeps_what_is_not_a_number(*runs[:2]):
            return "it replaces what is not a number, which is all that is combined with it"
        return ""

    def _keeps_what_is_not_a_number(self, run: Run, other: Run) -> bool:
        """Whether a NaN in the samples reaches whatever depends on them."""
        results, _ = self._results(0, not_a_number)
        return not any(
            is_inexact(c) and (c.shape != a.shape or (~c.isnan())[a != b].any())
            for a, b, c in zip(run.results, other.results, results, strict=True)
        )

    def _is_affine_for_other_integers(self) -> bool:
        """Whether it stays affine when its integers and masks are others, those that it takes."""
        given = self.others
        if not any(not is_inexact(t) for pair in given.values() for t in tensors_of(pair[0])):
            return True
        try:
            for changed in INTEGERS[: 1 if self.devices else None]:
                change = partial(integers_changed, changed)
                self.others = {arg: tuple(map(change, pair)) for arg, pair in given.items()}  # pyright: ignore
                try:
                    (first, written), (second, _) = self._results(0, as_drawn), self._results(1, as_drawn)
                except Exception:  # not those
                    continue
                if not self._fitting(first, second, written):
                    return False
        finally:
            self.others = given
        return True

    def _is_affine_for_many(self) -> bool:
        """Whether it stays so for more samples than its numbers count: `roll(6, 0)` does nothing to 3 samples or 2.

        Numbers that are made of the number of samples are tried in batches of a few, the one at hand, and large ones.
        """
        trace = self.proof.trace
        tensors = [t for arg in self.samples for t in tensors_of(self.values[arg][0])]
        if self.proof.positions or not all(is_inexact(t) and t.numel() for t in tensors):
            return True
        width = max((t.numel() for t in tensors), default=1) / trace.sizes[0]
        numbers = [abs(a) for a in tree_leaves((self.node.args, self.node.kwargs)) if type(a) is int]
        counts: list[int] = []
        if tensors and max(numbers, default=0) >= trace.sizes[1]:
            counts.append(min(max(numbers) + 3, max(int(_MOST_VALUES / width), _PRIME)))
        if any(trace.depends_on_size(arg) for arg in self.values):
            many = (*range(2, _FEW), trace.size.batch + 1, *LARGE)
            counts += [n for n in many if n * width <= _MOST_VALUES / 20 and trace.size.allows(n)]
        return all(map(self._is_affine_for, counts))

    def _is_affine_for(self, count: int) -> bool:
        weights = mixing(count - 1, count)
        try:
            first, second = self._many_results(None, count), self._many_results(weights, count)
        except Exception:
            return False
        for a, b, layout in zip(first, second, self.chosen, strict=False):
            if layout is not None and not is_inexact(a):
                continue
            if not close(b, a if layout is None else mixed(weights, layout, a, b), a):
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
        if not self.samples:  # the very constants may meet the number
            values |= {arg: a for arg, (a, _) in self.values.items() if isinstance(a, Tensor)}

        def of_number(a: Any, b: Any) -> Any:
            if isinstance(a, tuple):  # a shape
                return type(a)(map(of_number, a, b))  # pyright: ignore
            return b + (a - b) * (number - fewer) // (more - fewer)

        numbers = {arg: pair for arg, pair in self.values.items() if self.proof.trace.depends_on_size(arg)}
        return values | {arg: of_number(*pair) for arg, pair in numbers.items()}

    def _note_what_is_alike(self) -> None:
        trace, alike = self.proof.trace, self.proof.alike
        if not self.varied or reads_forms_alone(self.node, self.varied):
            alike.add(self.node)
        else:
            written = trace.overwrites.get(self.node, set[int]())
            alike.difference_update([node for node in alike if trace.storages(node) & written])

    def _fitting(self, first: list[Tensor], second: list[Tensor], written: list[Layout | None]) -> list[Layout | None]:
        """A layout for each result; none at all if one of them has none."""
        chosen: list[Layout | None] = []
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            if not is_inexact(a) and self.varied and not reads_forms_alone(self.node, self.varied):
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
        others = {arg: copied(pair[which]) for arg, pair in self.others.items() if arg not in samples}
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

    def _run_backward(self, scale: Callable[[Tensor], Tensor]) -> Run:
        leaves: list[Tensor] = []

        def begun(t: Tensor) -> Tensor:
            if not is_inexact(t):
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
        return Run([t.detach() for t in returned], written, gradients)

    def _drawn(self, arg: fx.Node, scale: Callable[[Tensor], Tensor]) -> tuple[Any, Any]:
        """Random samples in place of a node's, and mixtures of them; the same whenever they are alike."""
        if arg in self.alike:
            return tuple(map(copied, self.alike[arg]))  # pyright: ignore[reportReturnType]
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
        if not is_inexact(first) or not first.numel():
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
        drawn = strided(drawn.to(first.device, self._precision(first)), first)
        return drawn, strided(self.proof.mix(layout, drawn, second), second)

    def _constants(self, value: Any) -> Any:
        return tree_map_only(Tensor, self._constant, value)

    def _constant(self, t: Tensor) -> Tensor:
        """Other values in place of a parameter's or constant's: positive, as variances must be."""
        if not is_inexact(t):
            return t.detach().clone()
        drawn = torch.rand(t.shape, generator=self.generator, dtype=torch.float64) + 0.5
        return strided(drawn.to(t.device, self._precision(t)), t)

    def _precision(self, t: Tensor) -> torch.dtype:
        if self.dtype is None or not is_inexact(t):
            return t.dtype
        return torch.complex128 if t.is_complex() else self.dtype
