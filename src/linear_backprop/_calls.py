"""Running one call of an activation under a rule, in whichever form it was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ._activations import FORMS, Form, Function
from ._autograd import activate, transforms_active, unseen_by_modes
from ._errors import LinearBackpropError
from ._rules import BackwardRule, Exact, Linear, refuse_whole_model_rule, require_rule


def with_rule(function: Function, rule: BackwardRule = Linear()) -> Callable[..., Any]:  # noqa: B008
    """A function with the same values and the rule's backward pass.

    `with_rule(torch.tanh)(x)` is `torch.tanh(x)` to the bit. The first argument is the pre-activation;
    every other one is passed on. Any elementwise function will do, a user's own included; those of the
    catalogue keep their in-place forms and their randomness.

    Args:
        function: Maps a tensor of any shape and floating dtype to one of the same shape. Tensors that
            should receive gradients besides the first argument are to be passed as arguments, not
            closed over.
        rule: The backward rule.

    Raises:
        LinearBackpropError: `function` is a module (use `convert`) or cannot be called, or `rule` is not
            a rule or is for whole models. At the call: the function does not keep its input's shape.
    """
    require_rule(rule)
    refuse_whole_model_rule(rule, "with_rule")
    if isinstance(function, nn.Module):
        raise LinearBackpropError(f"with_rule takes a function, got the module {function}; use convert for modules")
    if not callable(function):
        raise LinearBackpropError(f"with_rule takes a function, got {function!r}")
    return RuledFunction(function, rule)


@dataclass(frozen=True)
class RuledFunction:
    """What `with_rule` returns: a value, like the rule in it."""

    function: Function
    rule: BackwardRule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's own result.

        Raises:
            LinearBackpropError: The pre-activation is not the first positional argument or `input`.
        """
        function = self.function
        if isinstance(function, partial) and not function.args:  # lest it hide `inplace` or tensors
            function, kwargs = function.func, {**function.keywords, **kwargs}
        if not args and "input" not in kwargs:
            raise LinearBackpropError(f"pass the pre-activation to {_name(function)} as its first positional argument")
        if function in FORMS or torch.compiler.is_compiling():
            return call(function, self.rule, args, kwargs)
        return _leaving_its_input_alone(function, self.rule, args, kwargs)

    def __repr__(self) -> str:
        return f"with_rule({_name(self.function)}, {self.rule!r})"


def _name(function: Function) -> str:
    return str(getattr(function, "__qualname__", function))


def _leaving_its_input_alone(
    function: Function, rule: BackwardRule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`call` for a user's own function, which autograd cannot keep from writing into its input."""
    tensors = [a for a in args[:1] if isinstance(a, Tensor) and not a.is_inference()]
    before = [a._version for a in tensors]
    result = call(function, rule, args, kwargs)
    if [a._version for a in tensors] != before:
        raise LinearBackpropError(
            f"{_name(function)} overwrites its input, which autograd cannot see under a rule; have it return a new "
            f"tensor. Only PyTorch's own in-place activations may overwrite theirs"
        )
    return result


Carrier = Callable[..., Tensor]


def call(
    function: Function,
    rule: BackwardRule,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    carrier: Carrier = activate,
) -> Any:
    """`function(*args, **kwargs)` under the rule.

    Args:
        function: An activation in any form.
        rule: The backward rule.
        args: As the function is called.
        kwargs: As the function is called.
        carrier: Makes h of f, the rule, a and the tensors f depends on; see `activate`.
    """
    a = args[0] if args else kwargs.get("input")
    if _speaks_for_itself(a):
        run = partial(_call_flat, function, rule, carrier)
        return type(a).__torch_function__(run, (type(a),), args, kwargs)
    form = FORMS.get(function) or Form(None, function)
    native = type(rule) is Exact or torch.compiler.is_exporting()  # `torch.export` drops autograd Functions
    if native or not _is_differentiable(a) or kwargs.get("out") is not None:
        with unseen_by_modes():
            return function(*args, **kwargs)
    rest, keywords = args[1:], {k: v for k, v in kwargs.items() if args or k != "input"}
    in_place = overwrites_input(form, rest, keywords)
    if in_place and _may_overwrite_unseen(rule, a, rest, keywords):
        with unseen_by_modes():
            function(a.detach(), *rest, **keywords)
        return a
    if form.inplace_position is not None:
        rest = rest[: form.inplace_position - 1]
        keywords = {k: v for k, v in keywords.items() if k != "inplace"}
    if not in_place:
        return _out_of_place(form, carrier, rule, a, rest, keywords)
    # The rule keeps what a was, `copy_` overwrites a, and PyTorch makes its usual checks of in-place writes.
    before = a.clone() if rule.uses_pre_activation else a
    return a.copy_(_out_of_place(form, carrier, rule, before, rest, keywords))


def overwrites_input(form: Form, rest: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Whether a call overwrites its first argument, given the others."""
    return form.always_in_place or bool(_argument("inplace", form.inplace_position, rest, keywords))


def _call_flat(function: Function, rule: BackwardRule, carrier: Carrier, *args: Any, **kwargs: Any) -> Any:
    return call(function, rule, args, kwargs, carrier)


def _speaks_for_itself(a: object) -> TypeGuard[Tensor]:
    """Whether a's class has a say in what PyTorch's functions return for it: its own class, most often."""
    if type(a) is Tensor or not isinstance(a, Tensor):
        return False
    plain = torch._C._disabled_torch_function_impl  # pyright: ignore[reportPrivateUsage]
    enabled = torch._C._is_torch_function_enabled()  # pyright: ignore[reportPrivateUsage]
    return enabled and type(a).__torch_function__ is not plain


def _is_differentiable(a: object) -> TypeGuard[Tensor]:
    return isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())


def _argument(name: str, position: int | None, rest: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """An argument after the first, by its position in the full list or by name; None if not given."""
    if position is not None and position <= len(rest):
        return rest[position - 1]
    return keywords.get(name)


def _may_overwrite_unseen(rule: BackwardRule, a: Tensor, rest: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Whether the in-place form may write without autograd recording anything.

    Under `Linear` the cotangent of h *is* that of a, so a may keep its place in the graph while its
    values change; the version counter, shared with `a.detach()`, still betrays the change to whoever
    had saved a. Leaves that require grad and views go the ordinary way, which refuses what must be
    refused, and so do tensor arguments, which have gradients of their own.
    """
    return (
        type(rule) is Linear
        and not torch.compiler.is_compiling()
        and not (a.is_leaf and a.requires_grad)
        and not a._is_view()  # pyright: ignore[reportPrivateUsage]
        and not any(isinstance(value, Tensor) for value in (*rest, *keywords.values()))
        and not transforms_active()
    )


def _out_of_place(
    form: Form, carrier: Carrier, rule: BackwardRule, a: Tensor, rest: tuple[Any, ...], keywords: dict[str, Any]
) -> Tensor:
    if _argument("training", form.training_position, rest, keywords):
        return carrier(_drawn, rule, a, *_draw(a, rest, keywords))
    named = [name for name, value in keywords.items() if _is_differentiable(value)]
    placed = [index for index, value in enumerate(rest) if _is_differentiable(value)]
    tensors = [rest[index] for index in placed] + [keywords[name] for name in named]
    if form.broadcasts:
        a = a.expand(torch.broadcast_shapes(a.shape, *(tensor.shape for tensor in tensors)))

    def f(z: Tensor, *parameters: Tensor) -> Tensor:
        arguments = list(rest)
        for index, parameter in zip(placed, parameters, strict=False):
            arguments[index] = parameter
        moved = dict(zip(named, parameters[len(placed) :], strict=True))
        return form.out_of_place(z, *arguments, **{**keywords, **moved})

    return carrier(f if rest or keywords else form.out_of_place, rule, a, *tensors)


def _draw(a: Tensor, rest: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The values of RReLU in training mode and the slopes it drew, with RReLU's own use of random numbers."""
    lower = 1 / 8 if (given := _argument("lower", 1, rest, keywords)) is None else given
    upper = 1 / 3 if (given := _argument("upper", 2, rest, keywords)) is None else given
    generator = _argument("generator", 4, rest, keywords)
    with unseen_by_modes():
        z = a.detach()
        # The other form, which writes the slopes in place, loses them when it is compiled.
        return torch.ops.aten.rrelu_with_noise_functional(z, torch.empty_like(z), lower, upper, True, generator)


def _drawn(a: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    """RReLU once its slopes are drawn: a function of a that can be evaluated and differentiated again."""
    # The forward pass, where autograd is off, has RReLU's own values: in half precision a * slopes is not to the bit.
    return a * slopes if torch.is_grad_enabled() else values.clone()
