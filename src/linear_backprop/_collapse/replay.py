"""A forward pass, what its non-linearities did recorded, and again, with non-linearities that emit what they are given.

A non-linearity is an activation, or a layer under a layer rule. One whose map reproduces its values (batch
normalization with its statistics as constants) emits nothing: the map is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._call import Call
from .._catalogue.activations import FORMS
from .._conversion.run_call import run_activation
from .._errors import CollapseError
from .._rules.elementwise import Linear, MeanLinear
from .._rules.layers import rule_for
from .._rules.rule import BackwardRule, LayerRule
from .._torch import Function
from .boundary import Boundary, Seam, is_activation
from .deferred import Deferral


@dataclass(frozen=True)
class Recorded:
    """What one non-linearity did, but for its values.

    Attributes:
        name: Its function's.
        emits: Whether its values are to be emitted.
        constants: What its layer rule took from the batch.
        slope: What the chain multiplies cotangents with, broadcast; None for 1.
    """

    name: str
    emits: bool = True
    constants: tuple[Tensor, ...] = ()
    slope: Tensor | None = None


class Run(TorchFunctionMode):
    """One forward pass, above the boundary in the hands of three methods: `layer`, `activation` and `other`."""

    def __init__(self, boundary: Boundary, layers: Sequence[LayerRule]) -> None:
        super().__init__()
        self.boundary = boundary
        self.layers = layers

    def __enter__(self) -> Any:
        self.boundary.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self.boundary.__exit__(*exception)

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one call."""
        call = Call(func, args, kwargs or {})
        if self.boundary.is_below:
            return self.boundary.run(call)
        call = self.boundary.cross(call)
        rule = rule_for(func, self.layers)
        if rule is not None and rule.applies(call):
            return self.layer(call, rule)
        return self.activation(call) if is_activation(call.input, func) else self.other(call)

    def layer(self, call: Call, rule: LayerRule) -> Any:
        """A call that a layer rule governs."""
        return call()

    def activation(self, call: Call) -> Any:
        """An activation's call."""
        return call()

    def other(self, call: Call) -> Any:
        """Any other call."""
        return call()


class Recorder(Run):
    """Runs the model as it is, the upper part without a graph.

    Args:
        layers: The layer rules.
        seam: Where the upper part begins.
        chain: What cotangents are multiplied with on their way down.
    """

    def __init__(self, layers: Sequence[LayerRule], seam: Seam, chain: Linear | MeanLinear = Linear()) -> None:  # noqa: B008
        super().__init__(Boundary(seam, grad_below=True, grad_above=False), layers)
        self.chain = chain
        self.seen: list[Recorded] = []
        self._made: list[tuple[Tensor, int | None]] = []

    def layer(self, call: Call, rule: LayerRule) -> Any:
        """Run and note it."""
        result, constants = rule.run(call)
        self._note(Recorded(call.name, not rule.reproduces_forward, constants), result)
        return result

    def activation(self, call: Call) -> Tensor:
        """Run and note it, with its mean slope where the chain wants one."""
        chain = self.chain
        if isinstance(chain, Linear):
            result, slope = call(), None
        else:
            slopes: list[Tensor] = []

            def carrier(f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
                slopes.append(chain.slope(a, lambda z: f(z, *parameters)))
                return f(a, *parameters)

            result = run_activation(call, chain, carrier)
            slope = slopes[0]
        self._note(Recorded(call.name, slope=slope), result)
        return result

    def _note(self, recorded: Recorded, result: Any) -> None:
        if isinstance(result, tuple):
            raise CollapseError(
                f"{recorded.name} returns indices, which depend on the sample: call it without return_indices"
            )
        self.seen.append(recorded)
        if recorded.emits:
            # Compiled code has no versions to tell; the first look at the model runs eagerly.
            self._made.append((result, None if torch.compiler.is_compiling() else result._version))

    def emitted(self) -> list[Tensor]:
        """The values that are to be emitted, which nothing may have overwritten since."""
        names = [each.name for each in self.seen if each.emits]
        for (h, version), name in zip(self._made, names, strict=True):
            if version is not None and h._version != version:
                raise CollapseError(
                    f"the output of {name} was overwritten in place later in the model's forward, before its "
                    f"aggregate was taken; write that operation out of place"
                )
        return [h for h, _ in self._made]


class Emitter(Run):
    """Runs the upper part with non-linearities that emit what they are given, in order, and pass cotangents through.

    Args:
        layers: The layer rules.
        seen: What the non-linearities did in the run that is replayed.
        emitted: What those that emit something are to emit.
        seam: Where the upper part begins.
        given: What crosses the boundary.
        of_parameters: Whether parameters are to get gradients, or only what is given and emitted.
        inspect: Told of every non-linearity's position and input. Everything is computed then, even what
            serves no gradient.
    """

    def __init__(
        self,
        layers: Sequence[LayerRule],
        seen: Sequence[Recorded],
        emitted: Sequence[Tensor],
        seam: Seam,
        given: list[Tensor],
        *,
        of_parameters: bool = True,
        inspect: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        super().__init__(Boundary(seam, grad_below=False, grad_above=inspect is None, given=given), layers)
        self.seen = seen
        self.inspect = inspect
        self.outputs: list[Tensor] = []
        self._position = 0
        self._to_emit = iter(emitted)
        self._deferral = Deferral(of_parameters)

    def layer(self, call: Call, rule: LayerRule) -> Any:
        """Apply the map, or emit."""
        recorded = self._next(call)
        self._deferral.settle(call)
        a = rule.linear_map(call, recorded.constants)
        return self._put(call, a, recorded, rule.overwrites_input(call))

    def activation(self, call: Call) -> Any:
        """Emit."""
        recorded = self._next(call)
        return self._put(call, call.input, recorded, FORMS[call.function].overwrites_input(call))

    def other(self, call: Call) -> Any:
        """Run it, or put it off."""
        return self._deferral.run(call)

    def _next(self, call: Call) -> Recorded:
        if self._position == len(self.seen):
            raise _differently(call)
        self._position += 1
        if self.inspect is not None:
            self.inspect(self._position - 1, call.input)
        return self.seen[self._position - 1]

    def _put(self, call: Call, a: Tensor, recorded: Recorded, in_place: bool) -> Tensor:
        h = self._emit(call, a, recorded.slope) if recorded.emits else a
        if not in_place:
            return h
        self._deferral.forget(call.input)
        return call.input.copy_(h)

    def _emit(self, call: Call, a: Tensor, slope: Tensor | None) -> Tensor:
        h = next(self._to_emit)
        if h.shape != a.shape:
            raise _differently(call)
        emitted: Tensor = Emit.apply(a, h.to(a.dtype), slope)
        self.outputs.append(emitted)
        return emitted


class Emit(torch.autograd.Function):
    """h in the place of f(a); a receives h's cotangent, times the slope."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, h: Tensor, slope: Tensor | None) -> Tensor:
        ctx.slope = slope
        return h.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return g if ctx.slope is None else g * ctx.slope, None, None


@contextmanager
def undisturbed(model: nn.Module, drawing: Sequence[Tensor] = ()) -> Generator[None]:
    """Run a model again, eagerly and without a trace: what its forward pass writes into buffers is undone.

    Args:
        model: The model.
        drawing: Tensors on whose devices random numbers may be used; their generators are put back, too.
    """
    buffers = [(module, *named) for module in model.modules() for named in module.named_buffers(recurse=False)]
    devices = {tensor.device for tensor in drawing if tensor.device.type == "cuda"}
    try:
        for module, name, buffer in buffers:
            setattr(module, name, buffer.clone())
        fork = torch.random.fork_rng(list(devices), enabled=len(drawing) > 0)
        with fork, torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


def autocast_as_now(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes contexts in which autocast is what it is now."""
    dtype, enabled = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
    return lambda: torch.autocast(device_type, dtype, enabled)


def _differently(call: Call) -> CollapseError:
    return CollapseError(
        f"{call.name} ran differently on the combined samples than on the batch: the model's forward "
        f"depends on the batch's size or values; make its shapes follow x.shape[0]"
    )
