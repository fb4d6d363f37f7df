"""Before training: what does the model run, is it affine between its non-linearities, and does collapsing it pay?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from .._call import Call
from .._conversion.where import Predicate
from .._errors import CollapseError
from .._rules.rule import LayerRule
from .affine import mix
from .boundary import Boundary, Seam
from .replay import Emitter, Recorder, Run, undisturbed

# How far a combination may be off, relative to the largest value: rounding over a few layers.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@dataclass(frozen=True)
class Costs:
    """What a first look at a model found.

    Attributes:
        forward: Floating-point operations of the collapsed part's forward pass, a sample.
        aggregate: Those of one row of all aggregates, a sample.
        outputs: C.
        seam: Where the collapsed part begins.
        positions: Samples in the output, (*samples, C), for each of the input's.
    """

    forward: float
    aggregate: float
    outputs: int
    seam: Seam = field(default_factory=Seam)
    positions: int = 1

    def collapse_pays(self, batch: int) -> bool:
        """Whether C + 1 samples down and their parameters' gradients, and the aggregates, cost less than N samples."""
        rows, samples = self.outputs + 1, batch * self.positions
        return 2 * self.forward * rows + self.aggregate * rows * samples < 2 * self.forward * samples

    def chain_pays(self, batch: int) -> bool:
        """Whether C samples down the chain, and a product a non-linearity, cost less than N samples down it."""
        rows, samples = self.outputs, batch * self.positions
        return self.forward * rows + self.aggregate * rows * samples < self.forward * samples


def look(model: nn.Module, inputs: tuple[Tensor, ...], selects: Predicate | None, layers: Sequence[LayerRule]) -> Costs:
    """Run a few samples and two combinations of them; what every non-linearity gets must be the combination of theirs.

    Args:
        model: The model.
        inputs: A batch.
        selects: Which modules' activations are collapsed; None for all.
        layers: The layer rules.

    Raises:
        CollapseError: Something is not affine, or the inputs or outputs have no shape that can be combined, or
            what is selected does not lie above what is not.
    """
    for x in inputs:
        if not isinstance(x, Tensor) or not x.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CollapseError(f"inputs must be floating tensors that can be combined, got {getattr(x, 'dtype', x)}")
    few = [x[:4].detach() for x in inputs]
    if len(few[0]) < 2:
        raise CollapseError("the first batch has one sample, and affine maps can only be told from two; give more")
    with undisturbed(model, few), torch.no_grad():
        trace = _traced(model, few, layers)
        seam = Seam() if selects is None else _seam(model, trace, selects)
        names = [str(step) for step in trace if step.name]
        return _verify(model, few, layers, seam, names)


@dataclass(frozen=True)
class _Step:
    """A step of a forward pass: a non-linearity, or a module begun.

    Attributes:
        path: The module's: the one that calls the non-linearity, or the one begun.
        name: The non-linearity's function's; empty for a module begun.
        is_activation: Whether it is an activation.
    """

    path: str
    name: str = ""
    is_activation: bool = False

    def __str__(self) -> str:
        return f"{self.name} at {self.path or 'the model'!r}"


class _Tracer(Run):
    """Notes a forward pass's steps."""

    def __init__(self, layers: Sequence[LayerRule]) -> None:
        super().__init__(Boundary(Seam(), False, False), layers)
        self.steps: list[_Step] = []
        self._running: list[str] = [""]

    def layer(self, call: Call, rule: LayerRule) -> Any:
        """Run and note it."""
        self.steps.append(_Step(self._running[-1], call.name))
        return call()

    def activation(self, call: Call) -> Any:
        """Run and note it."""
        self.steps.append(_Step(self._running[-1], call.name, is_activation=True))
        return call()

    def begin(self, path: str) -> None:
        """A module begins."""
        self._running.append(path)
        self.steps.append(_Step(path))

    def end(self) -> None:
        """It ends."""
        self._running.pop()


def _traced(model: nn.Module, inputs: list[Tensor], layers: Sequence[LayerRule]) -> list[_Step]:
    tracer = _Tracer(layers)
    handles: list[RemovableHandle] = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda module, args, path=path: tracer.begin(path)))
        handles.append(module.register_forward_hook(lambda module, args, out: tracer.end()))
    try:
        with tracer:
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return tracer.steps


def _seam(model: nn.Module, trace: list[_Step], selects: Predicate) -> Seam:
    """Below what is selected, and above every activation that is not."""
    modules = dict(model.named_modules(remove_duplicate=False))
    activations = [step for step in trace if step.is_activation]
    chosen = [selects(step.path, modules[step.path]) for step in activations]
    if not any(chosen):
        raise CollapseError(f"`where` selects none of the activations: {', '.join(map(str, activations)) or 'none'}")
    below = chosen.index(True)
    if not all(chosen[below:]):
        late = activations[below + chosen[below:].index(False)]
        raise CollapseError(
            f"{late} is not selected, but runs after {activations[below]}, which is: collapse takes everything from "
            f"one activation on, so select it, too, or begin above it"
        )
    after_last = trace[trace.index(activations[below - 1]) + 1 :] if below else trace
    begun = next((step for step in after_last if step.name or selects(step.path, modules[step.path])), None)
    return Seam(below, modules[begun.path] if begun is not None and not begun.name else None)


def _verify(model: nn.Module, few: list[Tensor], layers: Sequence[LayerRule], seam: Seam, names: list[str]) -> Costs:
    before: list[Tensor] = []
    with _Watcher(layers, seam, before) as recorder, _Operations(recorder.boundary) as operations:
        y = model(*few)
    if not isinstance(y, Tensor) or y.dim() < 2:
        raise CollapseError(f"outputs must have shape (N, C) or (..., C), got {tuple(getattr(y, 'shape', ()))}")
    names = names[len(names) - len(before) :]
    leading = y.dim() - 1
    samples = y.shape[:-1].numel()
    for z, name in zip(before, names, strict=True):
        if z.shape[:leading] != y.shape[:-1]:
            raise CollapseError(
                f"the outputs have sample dimensions {tuple(y.shape[:-1])}, but {name} works on "
                f"{tuple(z.shape)}: samples are mixed or split on the way"
            )
    weights = torch.randn(2, samples, dtype=torch.promote_types(y.dtype, torch.float32), device=y.device)
    weights = weights + (1 - weights.sum(1, keepdim=True)) / samples

    def inspect(position: int, a: Tensor) -> None:
        last = position == len(names)
        _require_combination(a, mix(weights, y if last else before[position], leading), position, names)

    emitted = [mix(weights, h, leading) for h in recorder.emitted()]
    given = [mix(weights, z.detach(), leading) for z in recorder.boundary.crossed]
    combinations = [mix(weights, x, leading) for x in few]
    with Emitter(layers, recorder.seen, emitted, seam, given, inspect=inspect):
        combined = model(*combinations)
    inspect(len(names), combined)
    size = sum(h.numel() for h in emitted) / 2
    return Costs(operations.count / samples, 2 * size, y.shape[-1], seam, samples // len(few[0]))


def _require_combination(a: Tensor, expected: Tensor, position: int, names: list[str]) -> None:
    error = (a - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    if error < _TOLERANCE[a.dtype]:
        return
    below = f"{names[position - 1]} (non-linearity {position})" if position else "what comes first"
    above = "the output" if position == len(names) else f"{names[position]} (non-linearity {position + 1})"
    raise CollapseError(
        f"what lies between {below} and {above} is not affine in each sample: a combination of "
        f"samples came out {error.item():.1e} off (relative). Likely a normalization, pooling or product of "
        f"activations: replace it, put it in eval mode, give it a rule with `layers=`, or collapse only what lies "
        f"above it with `where=`"
    )


class _Watcher(Recorder):
    """A recorder that keeps what the non-linearities get, too."""

    def __init__(self, layers: Sequence[LayerRule], seam: Seam, before: list[Tensor]) -> None:
        super().__init__(layers, seam)
        self.before = before

    def layer(self, call: Call, rule: LayerRule) -> Any:
        """Keep its input."""
        self.before.append(call.input.clone())
        return super().layer(call, rule)

    def activation(self, call: Call) -> Tensor:
        """Keep its input."""
        self.before.append(call.input.clone())
        return super().activation(call)


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions above a boundary."""

    def __init__(self, boundary: Boundary) -> None:
        super().__init__()
        self.boundary = boundary
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry and not self.boundary.is_below:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result
