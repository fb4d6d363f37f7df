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

from ._activations import FORMS, Function
from ._boundary import Boundary, Seam, is_activation
from ._calls import call, overwrites_input
from ._deferred import Deferral
from ._errors import CollapseError
from ._layer_rule import LayerRule
from ._layers import rule_for
from ._rules import BackwardRule, Linear, MeanLinear


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


def governing(
    layers: Sequence[LayerRule], function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> LayerRule | None:
    """The layer rule that a call follows; None where it follows none."""
    layer = rule_for(function, layers)
    return layer if layer is not None and layer.applies(function, args, kwargs) else None


def pre_activation(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The pre-activation that a call works on; None where it is no activation's."""
    a: Any = args[0] if args else kwargs.get("input")
    return a if is_activation(a, function) else None


class Run(TorchFunctionMode):
    """One forward pass, its calls below the boundary as they are; what happens above is the subclass's `above`."""

    def __init__(self, boundary: Boundary) -> None:
        super().__init__()
        self.boundary = boundary

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
        kwargs = kwargs or {}
        if self.boundary.is_below:
            return self.boundary.run(func, args, kwargs)
        return self.above(func, *self.boundary.cross(args, kwargs))

    def above(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the upper part."""
        raise NotImplementedError


class Recorder(Run):
    """Runs the model as it is, the upper part without a graph.

    Args:
        layers: The layer rules.
        seam: Where the upper part begins.
        chain: What cotangents are multiplied with on their way down.
    """

    def __init__(self, layers: Sequence[LayerRule], seam: Seam, chain: Linear | MeanLinear = Linear()) -> None:  # noqa: B008
        super().__init__(Boundary(seam, grad_below=True, grad_above=False))
        self.layers = layers
        self.chain = chain
        self.seen: list[Recorded] = []
        self._made: list[tuple[Tensor, int | None]] = []

    def above(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call, and note it if it is a non-linearity's."""
        layer = governing(self.layers, function, args, kwargs)
        if layer is not None:
            result, constants = layer.run(function, args, kwargs)
            self._note(Recorded(function.__name__, not layer.reproduces_forward, constants), result)
            return result
        if pre_activation(function, args, kwargs) is None:
            return function(*args, **kwargs)
        result, slope = self._activate(function, args, kwargs)
        self._note(Recorded(function.__name__, slope=slope), result)
        return result

    def _activate(
        self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        chain = self.chain
        if isinstance(chain, Linear):
            return function(*args, **kwargs), None
        slopes: list[Tensor] = []

        def carrier(f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
            slopes.append(chain.slope(a, lambda z: f(z, *parameters)))
            return f(a, *parameters)

        return call(function, chain, args, kwargs, carrier), slopes[0]

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
        super().__init__(Boundary(seam, grad_below=False, grad_above=inspect is None, given=given))
        self.layers = layers
        self.seen = seen
        self.inspect = inspect
        self.outputs: list[Tensor] = []
        self._position = 0
        self._to_emit = iter(emitted)
        self._deferral = Deferral(of_parameters)

    def above(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call, or emit."""
        layer = governing(self.layers, function, args, kwargs)
        a = pre_activation(function, args, kwargs)
        if layer is None and a is None:
            return self._deferral.run(function, args, kwargs)
        recorded = self._next(function)
        before: Tensor = args[0] if args else kwargs["input"]
        if self.inspect is not None:
            self.inspect(self._position - 1, before)
        if layer is not None:
            self._deferral.settle(args, kwargs)
            a = layer.linear_map(recorded.constants, function, args, kwargs)
            in_place = layer.bound(function, args, kwargs).get("inplace", False)
        else:
            in_place = overwrites_input(FORMS[function], args[1:], kwargs)
        assert a is not None
        h = a if not recorded.emits else self._emit(function, a, recorded.slope)
        if in_place:
            self._deferral.forget(before)
            return before.copy_(h)
        return h

    def _next(self, function: Function) -> Recorded:
        if self._position == len(self.seen):
            raise _differently(function)
        self._position += 1
        return self.seen[self._position - 1]

    def _emit(self, function: Function, a: Tensor, slope: Tensor | None) -> Tensor:
        h = next(self._to_emit)
        if h.shape != a.shape:
            raise _differently(function)
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


def graph_is_kept() -> bool:
    """Whether the backward pass under way was asked to keep the graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore


def autocast_as_now(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes contexts in which autocast is what it is now."""
    dtype, enabled = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
    return lambda: torch.autocast(device_type, dtype, enabled)


def _differently(function: Function) -> CollapseError:
    return CollapseError(
        f"{function.__name__} ran differently on the combined samples than on the batch: the model's forward "
        f"depends on the batch's size or values; make its shapes follow x.shape[0]"
    )
