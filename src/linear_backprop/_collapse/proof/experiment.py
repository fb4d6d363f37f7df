"""One operation, run by itself on random values in the place of all that it reads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from ..._torch.functions import is_of_pytorch
from ..._torch.tensors import version_of
from ..captured.graph import tensors_of
from ..captured.layout import Form, Layout, strided
from .values import Scale, as_drawn, copied, for_all_alike, integers_changed, is_inexact

if TYPE_CHECKING:
    from .affine import Proof

Operation = Callable[[Mapping[fx.Node, Any]], Any]
Values = dict[fx.Node, Any]


class Run(NamedTuple):
    """What an operation made of random samples, forward and backward.

    Attributes:
        results: What it returned, then what it overwrote.
        written: Where the latter keep their samples.
        cotangents: What each of the results received; None for one that takes none.
        gradients: What each of the samples' tensors received for it.
        places: Where these keep their samples.
        of_others: What each of the other tensors that take gradients received.
    """

    results: list[Tensor]
    written: list[Layout | None]
    cotangents: Sequence[Tensor | None]
    gradients: Sequence[Tensor | None]
    places: list[Layout | None]
    of_others: Sequence[Tensor | None]

    @property
    def all_gradients(self) -> list[Tensor | None]:
        """All of them."""
        return [*self.gradients, *self.of_others]


class Experiment:
    """One operation on random values, in one precision.

    Args:
        proof: Knows where samples are kept.
        node: The operation's node.
        run: The operation.
        dtype: The precision; None for the model's own.

    Attributes:
        samples: The arguments that hold samples.
        varied: Those of them that are not the same for every sample.
        values: What was traced of all arguments.
        others: Random values of the other arguments, in the traced batch and in that of mixtures.
        devices: The CUDA devices that it runs on.
    """

    def __init__(self, proof: Proof, node: fx.Node, run: Operation, dtype: torch.dtype | None) -> None:
        self.proof, self.node, self.run, self.dtype = proof, node, run, dtype
        self.generator = torch.Generator().manual_seed(0)
        trace = proof.trace
        self.samples = [arg for arg in node.all_input_nodes if arg in trace.carries]
        self.varied = [arg for arg in self.samples if arg not in proof.alike]
        self.values = {arg: trace.values[arg] for arg in node.all_input_nodes}
        self._alike: dict[fx.Node, tuple[Any, Any]] = {}
        for arg in self.samples:
            if arg not in self.varied:
                self._alike[arg] = self._drawn(arg, as_drawn)
        self.devices = {t.device for pair in self.values.values() for t in tensors_of(pair) if t.is_cuda}
        self.others: dict[fx.Node, tuple[Any, Any]] = {}
        for arg, (first, second) in self.values.items():
            if arg not in trace.carries:
                constants = tree_map_only(Tensor, self._constant, first)
                self.others[arg] = (constants, constants) if first is second else (first, second)
        own = not is_of_pytorch(node.target)  # PyTorch's own gradients are derivatives
        learned = [arg for arg in self.others if any(t.requires_grad for t in tensors_of(self.values[arg]))]
        self._learned = learned if own else []

    @contextmanager
    def at(self, others: dict[fx.Node, tuple[Any, Any]]) -> Generator[None]:
        """A context in which the other arguments have these values."""
        given, self.others = self.others, others
        try:
            yield
        finally:
            self.others = given

    @property
    def has_integers(self) -> bool:
        """Whether it reads integers or masks, of which samples have none but those that are the same for all."""
        pairs = [*self.others.values(), *self._alike.values()]
        return any(not is_inexact(t) for first, _ in pairs for t in tensors_of(first))

    @contextmanager
    def of_other_integers(self, changed: Callable[[Tensor], Tensor]) -> Generator[None]:
        """A context in which its integers and masks are others."""
        alike = self._alike
        self._alike = {arg: self._alike_changed(arg, pair, changed) for arg, pair in alike.items()}
        others = {arg: tuple(integers_changed(changed, value) for value in pair) for arg, pair in self.others.items()}
        try:
            with self.at(others):  # pyright: ignore[reportArgumentType]
                yield
        finally:
            self._alike = alike

    def _alike_changed(self, arg: fx.Node, pair: tuple[Any, Any], changed: Callable[[Tensor], Tensor]) -> Any:
        def of_one(value: Any) -> Any:
            leaves, structure = tree_flatten(value)
            layouts = iter(self.proof.layouts[arg])
            placed = [(t, next(layouts)) if isinstance(t, Tensor) else (t, None) for t in leaves]
            made = [
                for_all_alike(changed, layout, t) if isinstance(t, Tensor) and not is_inexact(t) else t
                for t, layout in placed
            ]
            return tree_unflatten(made, structure)

        return tuple(map(of_one, pair))

    def real_constants(self, sign: int) -> dict[fx.Node, tuple[Any, Any]]:
        """The other arguments as they were traced, or their negatives."""

        def real(t: Tensor) -> Tensor:
            return sign * t.detach().to(self._precision(t)) if is_inexact(t) else t

        return {arg: tree_map_only(Tensor, real, self.values[arg]) for arg in self.others}

    def results(self, which: int, scale: Scale) -> tuple[list[Tensor], list[Layout | None]]:
        """What the operation makes of random samples (0) or of their mixtures (1); and what it overwrites of them."""
        with torch.no_grad():
            return self._ran(which, self._all_drawn(which, scale))

    def results_of_many(self, weights: Tensor | None, count: int) -> list[Tensor]:
        """What it makes of many samples, or of mixtures of them."""
        with torch.no_grad():
            return self._ran(0, self._many(weights, count))[0]

    def backward(self, scale: Scale, which: int = 0, cotangents: Sequence[Tensor | None] | None = None) -> Run:
        """A forward and a backward pass, by default from the same random cotangents each time."""
        leaves: list[Tensor] = []

        def begun(t: Tensor) -> Tensor:
            if not is_inexact(t):
                return t
            leaves.append(t.requires_grad_())
            return t * 1

        with torch.enable_grad():
            drawn = self._all_drawn(which, scale)
            drawn |= {arg: tree_map_only(Tensor, begun, drawn[arg]) for arg in self.varied}
            count = len(leaves)
            learned = {arg: tree_map_only(Tensor, begun, copied(self.others[arg][which])) for arg in self._learned}
            returned, written = self._ran(which, drawn | learned)
        if cotangents is None:
            fixed = torch.Generator().manual_seed(1)
            cotangents = [
                torch.randn(t.shape, generator=fixed, dtype=torch.float64).to(t) if t.requires_grad else None
                for t in returned
            ]
        pairs = [(t, g) for t, g in zip(returned, cotangents, strict=True) if g is not None and t.requires_grad]
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if pairs and leaves:
            results, received = zip(*pairs, strict=True)
            gradients = torch.autograd.grad(results, leaves, received, allow_unused=True)
        places = [
            layout
            for arg in self.varied
            for t, layout in zip(tensors_of(self.values[arg][0]), self.proof.layouts[arg], strict=True)
            if is_inexact(t)
        ]
        results = [t.detach() for t in returned]
        return Run(results, written, cotangents, gradients[:count], places, gradients[count:])

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

    def _all_drawn(self, which: int, scale: Scale) -> Values:
        self.generator.manual_seed(0)
        return {arg: self._drawn(arg, scale)[which] for arg in self.samples}

    def _drawn(self, arg: fx.Node, scale: Scale) -> tuple[Any, Any]:
        """Random samples in place of a node's, and mixtures of them; the same whenever they are alike."""
        if arg in self._alike:
            return tuple(map(copied, self._alike[arg]))  # pyright: ignore[reportReturnType]
        (first, structure), (second, other) = map(tree_flatten, self.values[arg])
        layouts = iter(self.proof.layouts[arg])
        pairs = [
            self._pair(a, b, next(layouts), scale, arg in self.proof.alike) if isinstance(a, Tensor) else (a, b)
            for a, b in zip(first, second, strict=True)
        ]
        return tree_unflatten([a for a, _ in pairs], structure), tree_unflatten([b for _, b in pairs], other)

    def _pair(
        self, first: Tensor, second: Tensor, layout: Layout | None, scale: Scale, alike: bool
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
        drawn = strided(drawn.to(first.device, self._precision(first)), first.stride())
        return drawn, strided(self.proof.mix(layout, drawn, second), second.stride())

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

    def _constant(self, t: Tensor) -> Tensor:
        """Other values in place of a parameter's or constant's: positive, as variances must be."""
        if not is_inexact(t):
            return t.detach().clone()
        drawn = torch.rand(t.shape, generator=self.generator, dtype=torch.float64) + 0.5
        return strided(drawn.to(t.device, self._precision(t)), t.stride())

    def _precision(self, t: Tensor) -> torch.dtype:
        if self.dtype is None or not is_inexact(t):
            return t.dtype
        return torch.complex128 if t.is_complex() else self.dtype
