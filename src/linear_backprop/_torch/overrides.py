"""What decides for itself what PyTorch's functions return for it: a tensor's subclass, or any other class.

Such a class has a `__torch_function__`, by PyTorch's protocol, and may know functions by identity.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import _get_overloaded_args

from .functions import Function


def deciding(values: Iterable[Any]) -> Sequence[Any]:
    """Those of a call's arguments whose classes decide, in the order in which PyTorch asks them; most often none."""
    others = [value for value in values if type(value) is not Tensor]
    return _get_overloaded_args(others) if others else ()


def answer(deciding: Sequence[Any], function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the classes make of a call, as PyTorch asks them: one after the other, until one gives an answer.

    Torch function modes are not asked: they see what the class calls.

    Raises:
        TypeError: None of them takes the function.
    """
    types = tuple(type(each) for each in deciding)
    for each in deciding:
        result = each.__torch_function__(function, types, args, kwargs)
        if result is not NotImplemented:
            return result
    raise TypeError(
        f"no implementation of {getattr(function, '__name__', function)} among the arguments' classes, "
        f"{', '.join(kind.__name__ for kind in types)}: each of their __torch_function__ returned NotImplemented"
    )
