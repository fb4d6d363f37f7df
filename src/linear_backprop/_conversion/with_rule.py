"""A rule put on a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from .._call import Call
from .._catalogue.activations import FORMS
from .._catalogue.not_elementwise import refuse_known
from .._errors import LinearBackpropError, described, function_name
from .._rules.elementwise import Linear
from .._rules.rule import BackwardRule, refuse_model_rule, require_rule
from .._torch.functions import Function
from .._torch.recording import in_plain_code
from .._torch.tensors import version_of
from .run_call import run_activation

P = ParamSpec("P")
T = TypeVar("T")


def with_rule(function: Callable[P, T], rule: BackwardRule = Linear()) -> Callable[P, T]:  # noqa: B008
    """A function with the same values and the rule's backward pass.

    `with_rule(torch.tanh)(x)` is `torch.tanh(x)` to the bit. The first argument is the pre-activation;
    every other one is passed on. Any elementwise function will do, a user's own included; those of the
    catalogue keep their in-place forms and their randomness.

    Args:
        function: Maps a tensor of any shape and floating dtype to one of the same shape. Tensors that
            should receive gradients besides the first argument are to be passed as arguments; those that
            it holds itself, as a lambda or a bound method may, are refused at the call in plain code.
        rule: The backward rule.

    Raises:
        LinearBackpropError: `function` is a module (use `convert`) or cannot be called, or `rule` is not
            a rule or is for whole models, or `function` is known not to be elementwise, as softmax. At the call: the
            function does not keep its input's shape, returns something else than one tensor of a floating dtype, or
            holds a tensor that takes a gradient.

    Examples:
        >>> sign = lb.with_rule(torch.sign, lb.Clipped())
        >>> x = torch.tensor([-3.0, 0.5], requires_grad=True)
        >>> sign(x).sum().backward()
        >>> x.grad
        tensor([0., 1.])
    """
    require_rule(rule)
    refuse_model_rule(rule, "with_rule")
    if isinstance(function, nn.Module):
        raise LinearBackpropError(f"with_rule takes a function, got {described(function)}; use convert for modules")
    if not callable(function) or isinstance(function, type):
        raise LinearBackpropError(f"with_rule takes a function such as torch.relu, got {described(function)}")
    refuse_known(function, "with_rule")
    return RuledFunction(function, rule)


@dataclass(frozen=True)
class RuledFunction:
    """The function that `with_rule` returns: a value, like the rule in it."""

    function: Function
    rule: BackwardRule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's own result.

        Raises:
            LinearBackpropError: The pre-activation is not the first positional argument or `input`.
        """
        function = self.function
        bound: tuple[Any, ...] = ()
        if isinstance(function, partial):  # lest it hide `inplace` or tensors
            function, bound, kwargs = function.func, function.args, {**function.keywords, **kwargs}
        if not args and (bound or Call(function, args, kwargs).input is None):
            raise LinearBackpropError(
                f"pass the pre-activation to {function_name(function)} as its first positional argument"
            )
        if bound:
            function, args = _after(len(bound), function), (args[0], *bound, *args[1:])
        call = Call(function, args, kwargs)
        if function in FORMS or torch.compiler.is_compiling():
            return run_activation(call, self.rule)
        if torch.is_grad_enabled():
            call = Call(_holding_nothing(function), args, kwargs)
        return _leaving_its_input_alone(call, self.rule)

    def __repr__(self) -> str:
        return f"with_rule({function_name(self.function)}, {self.rule!r})"


def _after(count: int, function: Function) -> Function:
    """A function whose argument after the first `count` comes first."""

    def moved(a: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args[:count], a, *args[count:], **kwargs)

    return update_wrapper(moved, function)


def _holding_nothing(function: Function) -> Function:
    """A user's own function, refused where its result takes gradients to what is not among its arguments.

    Under a rule, which runs it with grad disabled, they would be lost.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or not in_plain_code():
            return function(*args, **kwargs)
        with torch.enable_grad():
            result = function(*map(_detached, args), **{name: _detached(value) for name, value in kwargs.items()})
        if isinstance(result, Tensor) and result.requires_grad:
            raise LinearBackpropError(
                f"{function_name(function)} takes a gradient to a tensor that it holds, which would be lost under a "
                f"rule; pass the tensor as an argument, with_rule(torch.prelu)(x, weight), or detach it"
            )
        return result

    run.__name__ = run.__qualname__ = function_name(function)  # of an object that is called, which has neither
    return update_wrapper(run, function)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _leaving_its_input_alone(call: Call, rule: BackwardRule) -> Any:
    """A call of a user's own function, which autograd cannot keep from writing into its input."""
    tensors = [a for a in call.args[:1] if isinstance(a, Tensor) and not a.is_inference()]
    before = [version_of(a) for a in tensors]
    result = run_activation(call, rule)
    if [version_of(a) for a in tensors] != before:
        raise LinearBackpropError(
            f"{function_name(call.function)} overwrites its input, which autograd cannot see under a rule; have it "
            f"return a new tensor. Only PyTorch's own in-place activations may overwrite theirs"
        )
    return result
