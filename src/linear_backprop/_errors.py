"""The library's errors: each says what was wrong, what was given, and what to do."""

import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from torch import nn

_LONGEST = 80


class LinearBackpropError(ValueError):
    """Anything the library refuses; the base of its other errors."""

    __module__ = "linear_backprop"  # where users find it


class ConversionError(LinearBackpropError):
    """A model that cannot be converted, or a conversion that cannot be removed."""

    __module__ = "linear_backprop"  # where users find it


class CollapseError(LinearBackpropError):
    """A model whose backward pass depends on the sample and so cannot be collapsed."""

    __module__ = "linear_backprop"  # where users find it


def described(value: object) -> str:
    """A value in a message: as it prints where that is short, else its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    printed = repr(value)
    return printed if len(printed) <= _LONGEST and "\n" not in printed else f"a value of type {type(value).__name__}"


def function_name(function: object) -> str:
    """A function's name in a message; of an object that is called, which has none, how it prints."""
    return str(getattr(function, "__qualname__", function))


def require_module(model: object, taker: str, instead: str) -> None:
    """Refuse what is not a module, a class given in place of its instance above all.

    Args:
        model: What was given.
        taker: The function that takes it.
        instead: What does the same to a function.
    """
    if isinstance(model, nn.Module):
        return
    remedy = "give the model, an nn.Module"
    if isinstance(model, type) and issubclass(model, nn.Module):
        remedy = f"make one: {model.__name__}(...)"
    elif callable(model):
        remedy = f"for a function use {instead}"
    raise LinearBackpropError(f"{taker} takes a module, got {described(model)}; {remedy}")


def require_number(value: object, what: str) -> float:
    """A real number as a plain float; a bool is none, nor is a tensor, whose value may change."""
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:  # of an int or a fraction
            pass
    raise LinearBackpropError(
        f"{what} must be a number, got {described(value)}; give one such as 0.5, of a tensor its .item()"
    )


def require_whole_number(value: object, what: str) -> int:
    """A whole number as a plain int; a bool is none, nor is 1.0."""
    if not isinstance(value, bool) and isinstance(value, Integral):
        return int(value)
    raise LinearBackpropError(f"{what} must be a whole number, got {described(value)}; give one such as 1")


def why_not_called_with(function: Callable[..., Any], *arguments: object) -> TypeError | None:
    """Why a function does not take these arguments; None if it does, or is a builtin that does not say."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return error
    except ValueError:
        return None
    return None
