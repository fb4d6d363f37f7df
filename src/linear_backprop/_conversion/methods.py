"""The methods beside `forward` by which a module's code can be entered: `encode`, `training_step`, `decode`."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch import nn

from .._torch import Function
from .coroutines import under_whenever_it_runs

if TYPE_CHECKING:
    from .patch import Patch


_WAITING = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


class Method:
    """A method of a converted module, under the module's rule.

    Args:
        patch: The module's patch.
        name: The method's name.

    Attributes:
        own: What the user set in the method's place on the instance; None if nothing.
        waits: True for a generator or a coroutine, which runs whenever it is asked to go on.
    """

    def __init__(self, patch: Patch, name: str) -> None:
        before = vars(patch.module).get(name)
        method = getattr(type(patch.module), name)
        self.patch = patch
        self.own: Any = before.own if isinstance(before, Method) else before
        self.takes_module = isinstance(inspect.getattr_static(type(patch.module), name), FunctionType)
        function = method if self.own is None else self.own
        self.waits = any(is_kind(function) for is_kind in _WAITING)
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The method's own result."""
        if self.waits:
            return under_whenever_it_runs(self.function, lambda: self.patch.mode)(*args, **kwargs)
        return self.patch.under_the_rule(self.function, *args, **kwargs)

    @property
    def function(self) -> Function:
        """The method as the module would have it without a conversion."""
        if self.own is not None:
            return self.own
        module = self.patch.module
        method = getattr(type(module), self.__name__)
        return method.__get__(module) if self.takes_module else method

    @property
    def __wrapped__(self) -> Function:
        """The same, for whoever asks for the signature."""
        return self.function


def own_methods(cls: type[nn.Module]) -> list[str]:
    """The names of the methods that a class has and `nn.Module` has not."""
    names: dict[str, None] = {}
    for author in cls.__mro__:
        if author.__module__.partition(".")[0] != "torch":
            names |= {name: None for name, value in vars(author).items() if _is_entered(name, value)}
    return list(names)


def _is_entered(name: str, value: object) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    is_method = isinstance(value, FunctionType | staticmethod | classmethod)
    return is_method and not is_special and not hasattr(nn.Module, name)
