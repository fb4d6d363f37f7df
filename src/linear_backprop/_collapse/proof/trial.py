"""The trial of one operation: whether it is affine in each sample, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from ..._torch.functions import is_of_pytorch
from ..captured.graph import tensors_of
from ..captured.layout import Layout
from ..captured.sizes import LARGE
from ..captured.trace import random_state
from .experiment import Experiment, Operation, Run
from .values import (
    INTEGERS,
    NOT_FINITE,
    SCALES,
    Scale,
    as_drawn,
    close,
    is_inexact,
    large,
    mixed,
    mixing,
    reads_forms_alone,
    scaling,
)

if TYPE_CHECKING:
    from .affine import Proof

NOT_AFFINE = "it is not affine in each sample"
_OWN_BACKWARD = "its backward pass is not that of an affine map"

_MOST_VALUES = 4_000_000  # of a tensor of many samples
_PRIME = 7
_FEW = 34


@dataclass
class Trial:
    """One operation, run in one precision; None for the model's own."""

    proof: Proof
    node: fx.Node
    run: Operation
    dtype: torch.dtype | None
    chosen: list[Layout | None] = field(default_factory=list[Layout | None])

    def __post_init__(self) -> None:
        self.experiment = Experiment(self.proof, self.node, self.run, self.dtype)

    def fault(self) -> str:
        """Why it is not affine; empty if it is."""
        own = self.experiment
        if any(not is_inexact(t) for arg in own.varied for t in tensors_of(own.values[arg])):
            return "it reads integers of the samples, indices or a mask, which cannot be combined"
        with torch.random.fork_rng(list(own.devices)):
            fault = self._fault_at_scales() or self._fault_at_other_constants()
            if fault:
                return fault
            if not self._is_affine_for_other_integers():
                return "it is affine in each sample for some values of its integers only"
            if self.proof.is_thorough and not self._is_affine_for_many():
                return NOT_AFFINE
        self.proof.layouts[self.node] = self.chosen[: len(self.proof.pairs(self.node))]
        self._note_what_is_alike()
        return ""

    def _fault_at_scales(self) -> str:
        own = self.experiment
        shapes = [first.shape for first, _ in self.proof.pairs(self.node)]
        runs: list[Run] = []
        for scale in SCALES:
            before = random_state(own.devices)
            run, second = own.backward(scale), own.results(1, scale)[0]
            if before != random_state(own.devices):
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
        if not all(_have_equal_gradients(run, runs[0]) for run in runs):
            return "its backward pass depends on the sample"
        if not is_of_pytorch(self.node.target) and not self._is_linear_backward(runs[0]):
            return _OWN_BACKWARD
        if not all(self._keeps(scale, *runs[:2]) for scale in NOT_FINITE):
            return "it replaces what is infinite or not a number, which is all that is combined with it"
        return ""

    def _fault_at_other_constants(self) -> str:
        """Of an operator that is not PyTorch's own and may do anything: at its real constants, and their negatives."""
        own = self.experiment
        for sign in (1, -1) if own.others and not is_of_pytorch(self.node.target) else ():
            with own.at(own.real_constants(sign)):
                try:
                    made, _ = own.results(0, as_drawn)
                    fault = self._fault_at_scales() if all(t.isfinite().all() for t in made) else ""
                except Exception:  # not those
                    continue
            if fault:
                return f"{fault}, for some values of its parameters or constants"
        return ""

    def _is_linear_backward(self, run: Run) -> bool:
        """Whether the backward pass is that of an affine map.

        Of mixtures W z that receive g, the gradients are those of samples z that receive W^T g: the samples receive
        W^T times what the mixtures do, and everything else the same. And they grow as g does.
        """
        own, transposed = self.experiment, self.proof.weights.T
        mixtures, _ = own.results(1, as_drawn)
        received = [
            None if g is None or layout is None else torch.randn(t.shape, dtype=torch.float64).to(t)
            for g, layout, t in zip(run.cotangents, self.chosen, mixtures, strict=True)
        ]
        spread = [
            None if g is None or layout is None else mixed(transposed, layout, g, t).to(t.dtype)
            for g, layout, t in zip(received, self.chosen, run.results, strict=True)
        ]
        of_mixtures, of_samples = own.backward(as_drawn, 1, received), own.backward(as_drawn, 0, spread)
        pairs = list(zip(of_samples.of_others, of_mixtures.of_others, strict=True))
        for a, b, layout in zip(of_samples.gradients, of_mixtures.gradients, run.places, strict=True):
            if layout is not None:
                pairs.append((a, b if a is None or b is None else mixed(transposed, layout, b, a)))
        for size in scaling(self.dtype):
            resized = own.backward(as_drawn, 1, [None if g is None else size * g for g in received])
            for a, b in zip(resized.all_gradients, of_mixtures.all_gradients, strict=True):
                pairs.append((a, None if b is None else size * b))
        return all(a is b if a is None or b is None else close(a, b, b) for a, b in pairs)

    def _keeps(self, scale: Scale, run: Run, other: Run) -> bool:
        """Whether what is infinite or not a number in the samples reaches whatever depends on them."""
        results, _ = self.experiment.results(0, scale)
        return not any(
            is_inexact(c) and (c.shape != a.shape or c.isfinite()[a != b].any())
            for a, b, c in zip(run.results, other.results, results, strict=True)
        )

    def _is_affine_for_other_integers(self) -> bool:
        """Whether it stays affine when its integers and masks are others, those that it takes."""
        own = self.experiment
        if not own.has_integers:
            return True
        for changed in INTEGERS[: 1 if own.devices else None]:
            with own.of_other_integers(changed):
                try:
                    (first, written), (second, _) = own.results(0, as_drawn), own.results(1, as_drawn)
                except Exception:  # not those
                    continue
            if not self._fitting(first, second, written):
                return False
        return True

    def _is_affine_for_many(self) -> bool:
        """Whether it stays so for more samples than its numbers count: `roll(6, 0)` does nothing to 3 samples or 2.

        Numbers that are made of the number of samples are tried in batches of a few, the one at hand, and large ones.
        So are operators of the user's own, which can read that number off their arguments.
        """
        trace, own = self.proof.trace, self.experiment
        tensors = [t for arg in own.samples for t in tensors_of(own.values[arg][0])]
        if self.proof.positions or not all(is_inexact(t) and t.numel() for t in tensors):
            return True
        made = [first for first, _ in self.proof.pairs(self.node)]
        width = max((t.numel() for t in tensors + made), default=1) / trace.sizes[0]
        numbers = [abs(a) for a in tree_leaves((self.node.args, self.node.kwargs)) if type(a) is int]
        counts: list[int] = []
        if tensors and max(numbers, default=0) >= trace.sizes[1]:
            counts.append(min(max(numbers) + 3, max(int(_MOST_VALUES / width), _PRIME)))
        if any(trace.depends_on_size(arg) for arg in own.values) or not is_of_pytorch(self.node.target):
            many = (*range(2, _FEW), trace.size.batch + 1, *LARGE)
            counts += [n for n in many if n * width <= _MOST_VALUES / 20 and trace.size.allows(n)]
        return all(map(self._is_affine_for, counts))

    def _is_affine_for(self, count: int) -> bool:
        weights = mixing(count - 1, count)
        try:
            first, second = (self.experiment.results_of_many(w, count) for w in (None, weights))
        except Exception:
            return False
        for a, b, layout in zip(first, second, self.chosen, strict=False):
            if layout is not None and not is_inexact(a):
                continue
            if not close(b, a if layout is None else mixed(weights, layout, a, b), a):
                return False
        return True

    def _note_what_is_alike(self) -> None:
        trace, alike = self.proof.trace, self.proof.alike
        if not self.experiment.varied or reads_forms_alone(self.node, self.experiment.varied):
            alike.add(self.node)
        else:
            written = trace.overwrites.get(self.node, set[int]())
            alike.difference_update([node for node in alike if trace.storages(node) & written])

    def _fitting(self, first: list[Tensor], second: list[Tensor], written: list[Layout | None]) -> list[Layout | None]:
        """A layout for each result, one of what it reads if it may be; none at all if one of them has none."""
        varied = self.experiment.varied
        read = {layout for arg in self.experiment.samples for layout in self.proof.layouts[arg]}
        chosen: list[Layout | None] = []
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            if not is_inexact(a) and varied and not reads_forms_alone(self.node, varied):
                return []
            options = self.proof.fitting(a, b)
            own = index - (len(first) - len(written))
            if own >= 0:  # what it overwrites keeps its samples where they are
                options = [layout for layout in options if layout == written[own]]
            if not options:
                return []
            chosen.append(next((layout for layout in options if layout in read), options[0]))
        return chosen or [None]


def _have_equal_gradients(run: Run, other: Run) -> bool:
    """Whether two backward passes are one."""
    pairs = zip(run.gradients, other.gradients, strict=True)
    return all(a is b if a is None or b is None else close(a, b, b) for a, b in pairs)
