"""The methods by which a module's code can be entered: `forward`, `encode`, `training_step`, `decode`."""

from __future__ import annotations

import functools
import inspect
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import nn

from .._torch.functions import Function
from .._torch.modules import PYTORCHS_CALL

# Those that cannot be called before they are bound to a module.
_UNBOUND = (staticmethod, classmethod, functools.partialmethod, functools.singledispatchmethod)


class Unbound:
    """A method of a class, to be bound to its modules whatever they have in its place.

    Args:
        cls: The class.
        name: The method's name.
    """

    def __init__(self, cls: type[nn.Module], name: str) -> None:
        static = inspect.getattr_static(cls, name)
        self.name = name
        self.takes_module = isinstance(static, FunctionType | functools.partialmethod)
        self.is_bound = isinstance(static, staticmethod | classmethod | BuiltinFunctionType)

    def of(self, module: nn.Module) -> Function:
        """The module's method."""
        cls = type(module)
        if self.takes_module:
            return getattr(cls, self.name).__get__(module)
        if self.is_bound:
            return getattr(cls, self.name)
        return inspect.getattr_static(cls, self.name).__get__(module, cls)

    def call(self, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        """What the module's method returns.

        Not through a bound method: where a graph breaks, Dynamo takes one for whatever its module has by its name.
        """
        if self.takes_module:
            return getattr(type(module), self.name)(module, *args, **kwargs)
        return self.of(module)(*args, **kwargs)


def own_methods(cls: type[nn.Module]) -> list[str]:
    """The names of the methods that a class has and `nn.Module` has not, or for something else."""
    names: dict[str, None] = {}
    for author in cls.__mro__:
        if author is not object and author.__module__.partition(".")[0] != "torch":
            names |= {name: None for name, value in vars(author).items() if _is_entered(name, value)}
    return list(names)


def overrides_call(cls: type[nn.Module]) -> bool:
    """True where calling a module runs code of its class's own before `forward`."""
    if cls.__call__ is PYTORCHS_CALL:
        return False
    author = next(author for author in cls.__mro__ if "__call__" in vars(author))
    written_in = str(getattr(vars(author)["__call__"], "__module__", None) or author.__module__)
    return written_in.partition(".")[0] != "torch"


def _is_entered(name: str, value: object) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    return _is_method(value) and not is_special and not _is_of_every_module(name, value)


def _is_method(value: object) -> bool:
    """True for what is bound to an instance and may be replaced on it: a function, or one behind a cache."""
    binds = hasattr(type(value), "__get__") and not hasattr(type(value), "__set__")
    return binds and (callable(value) or isinstance(value, _UNBOUND))


def _is_of_every_module(name: str, value: object) -> bool:
    """True for a method of `nn.Module` that is overridden; one that takes other arguments has only the name of it."""
    of_module = getattr(nn.Module, name, None)
    if of_module is None or name == "forward" or name.startswith("_") or not isinstance(value, FunctionType):
        return of_module is not None
    return list(inspect.signature(value).parameters) == list(inspect.signature(of_module).parameters)
