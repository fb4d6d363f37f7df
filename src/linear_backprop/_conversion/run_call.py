"""One call under a rule, in whichever form it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, update_wrapper
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .._autograd.activation import activate, activate_in_place
from .._autograd.straight_through import connect
from .._call import Call
from .._catalogue.activations import FORMS, Form
from .._rules.elementwise import Exact
from .._rules.rule import BackwardRule, LayerRule, require_complex
from .._torch.dynamo import run_as_written
from .._torch.functions import Function
from .._torch.modes import TorchFunctionMode, unseen_by_modes
from .._torch.overrides import answer, deciding
from .._torch.recording import in_plain_code, transforms_active
from .._torch.tensors import is_view

Carrier = Callable[..., Tensor]


def run_activation(call: Call, rule: BackwardRule, carrier: Carrier = activate) -> Any:
    """The result of an activation's call, its backward pass the rule's.

    Args:
        call: Of an activation in any form.
        rule: The backward rule.
        carrier: Makes h of f, the rule, a and the tensors f depends on; see `activate`.
    """
    a = call.input
    if classes := deciding((*call.args, *call.kwargs.values())):
        return _left_to(classes, call, rule, carrier)
    native = type(rule) is Exact or torch.compiler.is_exporting()  # `torch.export` drops autograd Functions
    if (
        native
        or (in_plain_code() and not torch.is_grad_enabled())
        or not is_differentiable(a)
        or call.kwargs.get("out") is not None
    ):
        return _run_natively(call)
    if a.is_complex() and (a.requires_grad or transforms_active()):
        require_complex(rule, a.dtype)
    form = FORMS.get(call.function) or Form(None, call.function)
    in_place = form.overwrites_input(call)
    if in_place and _may_forget(call, rule):
        return activate_in_place(lambda z: call.on(z)(), rule, a)
    call = _without_inplace(call, form)
    if not in_place:
        return _out_of_place(call, form, rule, carrier)
    # The rule keeps what a was, or the gradients of other tensors do; `copy_` overwrites a, and PyTorch makes its usual
    # checks of in-place writes.
    before = _copy_of(a) if rule.uses_pre_activation or _has_tensors(call) else a
    return a.copy_(_out_of_place(call.on(before), form, rule, carrier))


def run_layer(call: Call, rule: LayerRule | None) -> Any:
    """The result of a layer's call, its backward pass the rule's; its own where there is no rule, or no need."""
    if rule is None or not _is_to_change(call, rule):
        return _run_natively(call)
    return run_layer_with_constants(call, rule)[0]


def run_layer_with_constants(call: Call, rule: LayerRule) -> tuple[Any, tuple[Tensor, ...]]:
    """A call that the rule changes: its result, and the constants of its map."""
    with unseen_by_modes():
        if not rule.overwrites_input(call):
            result, constants = rule.run(call)
            return _connected(call, rule, result, constants), constants
        # The same form on a copy: out of place, it might use other random numbers.
        result, constants = rule.run(call.on(call.input.clone()))
        return call.input.copy_(_connected(call, rule, result, constants)), constants


def _run_natively(call: Call) -> Any:
    with unseen_by_modes():
        return call()


def _left_to(classes: Sequence[Any], call: Call, rule: BackwardRule, carrier: Carrier) -> Any:
    """What the arguments' classes make of the call; what they call for it follows the rule."""
    if call.function in FORMS and not torch.compiler.is_compiling():
        with _Following(rule, carrier):
            return answer(classes, call.function, call.args, call.kwargs)
    # A function that PyTorch tells no mode of, or, to Dynamo, a mode that would be told of itself.
    run = update_wrapper(partial(_run_flat, call.function, rule, carrier), call.function)  # they may ask for the name
    return answer(classes, run, call.args, call.kwargs)


class _Following(TorchFunctionMode):
    """A context in which activations follow a rule, by their carrier."""

    def __init__(self, rule: BackwardRule, carrier: Carrier) -> None:
        super().__init__()
        self.rule, self.carrier = rule, carrier

    @run_as_written
    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, under the rule if it is an activation."""
        call = Call(func, args, kwargs or {})
        return run_activation(call, self.rule, self.carrier) if func in FORMS else call()


def _run_flat(function: Function, rule: BackwardRule, carrier: Carrier, *args: Any, **kwargs: Any) -> Any:
    return run_activation(Call(function, args, kwargs), rule, carrier)


def is_differentiable(a: object) -> TypeGuard[Tensor]:
    """True for a tensor that can have a gradient."""
    return isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())


def _without_inplace(call: Call, form: Form) -> Call:
    if form.inplace_position is None:
        return call
    keywords = {name: value for name, value in call.kwargs.items() if name != "inplace"}
    return Call(call.function, call.args[: form.inplace_position], keywords)


def _may_forget(call: Call, rule: BackwardRule) -> bool:
    """True if the in-place form may overwrite a for good, one node in its place.

    Leaves that require grad and views go the other way, on which PyTorch refuses what must be refused, and so do
    tensor arguments, which have gradients of their own.
    """
    a = call.input
    return (
        not rule.uses_pre_activation
        and in_plain_code()
        and not (a.is_leaf and a.requires_grad)
        and not is_view(a)
        and not _has_tensors(call)
    )


def _copy_of(a: Tensor) -> Tensor:
    """A copy with the same strides: on others, some of PyTorch's kernels round differently."""
    copied = a.clone()
    if copied.stride() == a.stride() or not in_plain_code():
        return copied
    return torch.empty_strided(a.size(), a.stride(), dtype=a.dtype, device=a.device).copy_(a)


def _has_tensors(call: Call) -> bool:
    """Whether the activation depends on tensors besides a."""
    return any(isinstance(value, Tensor) for value in (*call.rest, *call.keywords.values()))


def _out_of_place(call: Call, form: Form, rule: BackwardRule, carrier: Carrier) -> Tensor:
    if call.argument("training", form.training_position):
        return carrier(_drawn, rule, call.input, *_draw(call))
    a, rest, keywords = call.input, call.rest, call.keywords
    numbers = not form.takes_tensors  # to which PyTorch converts tensors: nothing is differentiated by them
    named = [name for name, value in keywords.items() if is_differentiable(value) and not numbers]
    placed = [index for index, value in enumerate(rest) if is_differentiable(value) and not numbers]
    tensors = [rest[index] for index in placed] + [keywords[name] for name in named]
    if form.broadcasts:
        others = (value.shape for value in (*rest, *keywords.values()) if isinstance(value, Tensor))
        a = a.expand(torch.broadcast_shapes(a.shape, *others))

    def f(z: Tensor, *parameters: Tensor) -> Tensor:
        arguments = list(rest)
        for index, parameter in zip(placed, parameters, strict=False):
            arguments[index] = parameter
        moved = dict(zip(named, parameters[len(placed) :], strict=True))
        return form.out_of_place(z, *arguments, **{**keywords, **moved})

    return carrier(f if rest or keywords else form.out_of_place, rule, a, *tensors)


def _draw(call: Call) -> tuple[Tensor, Tensor]:
    """The values of RReLU in training mode and the slopes it drew, with RReLU's own use of random numbers."""
    lower = 1 / 8 if (given := call.argument("lower", 1)) is None else given
    upper = 1 / 3 if (given := call.argument("upper", 2)) is None else given
    generator = call.argument("generator", 4)
    with unseen_by_modes():
        z = call.input.detach().contiguous()  # as RReLU's own result is; the kernel draws the slopes in that order
        # The other form, which writes the slopes in place, loses them when it is compiled.
        return torch.ops.aten.rrelu_with_noise_functional(z, torch.empty_like(z), lower, upper, True, generator)


def _drawn(a: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    """RReLU once its slopes are drawn: a function of a that can be evaluated and differentiated again."""
    # The forward pass, where autograd is off, has RReLU's own values: in half precision a * slopes is not to the bit.
    return a * slopes if torch.is_grad_enabled() else values.clone()


def _is_to_change(call: Call, rule: LayerRule) -> bool:
    differentiable = isinstance(call.input, Tensor) and call.input.is_floating_point()
    # `torch.export` drops autograd Functions.
    seen = (torch.is_grad_enabled() or transforms_active()) and not torch.compiler.is_exporting()
    return differentiable and seen and rule.applies(call)


def _connected(call: Call, rule: LayerRule, result: Any, constants: tuple[Tensor, ...]) -> Any:
    if isinstance(result, tuple):  # values and indices
        return (connect(call, rule, result[0], constants), *result[1:])
    return connect(call, rule, result, constants)
