"""Before training: is what lies between a model's activations affine, and does collapsing it pay?"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ._activations import Function
from ._affine import mix
from ._errors import CollapseError
from ._replay import Emitter, Recorder, pre_activation

# How far a combination may be off, relative to the largest value: rounding over a few layers.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@dataclass(frozen=True)
class Costs:
    """Floating-point operations a sample: of the forward pass, and of one row of all aggregates."""

    forward: float
    aggregate: float
    outputs: int

    def collapse_pays(self, samples: int) -> bool:
        """Whether C + 1 samples forward and backward, and the aggregates, cost less than N samples backward."""
        rows = self.outputs + 1
        return 3 * self.forward * rows + self.aggregate * rows * samples < 2 * self.forward * samples


def verify(model: nn.Module, inputs: tuple[Tensor, ...]) -> Costs:
    """Run a few samples and two combinations of them; every pre-activation must be the combination of theirs.

    Raises:
        CollapseError: One is not, or the inputs or outputs have no shape that can be combined.
    """
    for x in inputs:
        if not isinstance(x, Tensor) or not x.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CollapseError(f"inputs must be floating tensors that can be combined, got {getattr(x, 'dtype', x)}")
    few = [x[:4].detach() for x in inputs]
    if len(few[0]) < 2:
        raise CollapseError("the first batch has one sample, and affine maps can only be told from two; give more")
    before: list[Tensor] = []
    with _eagerly(few), _Watcher(before) as recorder, _Operations() as operations:
        y = model(*few)
    if y.dim() < 2:
        raise CollapseError(f"outputs must have shape (N, C) or (..., C), got {tuple(y.shape)}")
    leading = y.dim() - 1
    samples = y.shape[:-1].numel()
    names = [func.__name__ for _, _, func in recorder.seen]
    weights = torch.randn(2, samples, dtype=y.dtype, device=y.device)
    weights = weights + (1 - weights.sum(1, keepdim=True)) / samples
    for z, name in zip(before, names, strict=True):
        if z.shape[:leading] != y.shape[:-1]:
            raise CollapseError(
                f"the outputs have sample dimensions {tuple(y.shape[:-1])}, but {name} works on "
                f"{tuple(z.shape)}: samples are mixed or split on the way"
            )

    def inspect(position: int, a: Tensor) -> None:
        last = position == len(names)
        expected = mix(weights, y if last else before[position], leading)
        error = (a - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
        if not error < _TOLERANCE[a.dtype]:
            below = f"{names[position - 1]} (activation {position})" if position else "the input"
            above = "the output" if last else f"{names[position]} (activation {position + 1})"
            raise CollapseError(
                f"what lies between {below} and {above} is not affine in each sample: a combination of "
                f"samples came out {error.item():.1e} off (relative). Likely a "
                f"normalization, pooling or product of activations: replace it, put it in eval mode, or collapse only "
                f"what lies above it"
            )

    emitted = [mix(weights, h, leading) for h in recorder.activations()]
    with _eagerly(few), Emitter(emitted, inspect=inspect):
        combined = model(*[mix(weights, x, leading) for x in few])
    inspect(len(names), combined)
    size = sum(h.numel() for h in emitted) / 2
    return Costs(operations.count / samples, 2 * size, y.shape[-1])


class _Watcher(Recorder):
    """A recorder that keeps the pre-activations, too."""

    def __init__(self, before: list[Tensor]) -> None:
        super().__init__()
        self.before = before

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        a = pre_activation(func, args, kwargs)
        if a is not None:
            self.before.append(a.clone())
        return super().__torch_function__(func, types, args, kwargs)


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


@contextmanager
def _eagerly(inputs: list[Tensor]) -> Generator[None]:
    """A trial run that leaves no trace: no graph, no random number used, nothing compiled for its sizes."""
    devices = [device for device in {x.device for x in inputs} if device.type == "cuda"]
    with torch.no_grad(), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
        yield
