"""What a converted module's instance has in the place of its methods: the ways into its code, under its rule."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._rules.rule import ModelRule
from .._torch.functions import Function
from .coroutines import under_whenever_it_runs
from .methods import Unbound
from .recomputation import ran

if TYPE_CHECKING:
    from .patch import Patch

_WAITING = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


class Entry:
    """A way into a converted module's code.

    Args:
        patch: The module's patch.
        unbound: The method of the module's class.

    Attributes:
        own: What the user set in the method's place on the instance; None if nothing.
        waits: True for a generator or a coroutine under the rule, which runs whenever it is asked to go on.
    """

    def __init__(self, patch: Patch, unbound: Unbound) -> None:
        before = vars(patch.module).get(unbound.name)
        self.patch = patch
        self.own: Any = before.own if isinstance(before, Entry) else before
        self.unbound = unbound
        self.__name__ = unbound.name
        ruled_here = not isinstance(patch.rule, ModelRule)
        self.waits = ruled_here and any(is_kind(self.function) for is_kind in _WAITING)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The method's own result; once the conversion is removed, that of what the module would have there now."""
        if self.patch.patches.removed:
            return self._successor(*args, **kwargs)
        if not torch.compiler.is_compiling():
            ran(self)
        if self.waits:
            return under_whenever_it_runs(self.function, lambda: self.patch.mode)(*args, **kwargs)
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The method's own result, under the module's rule."""
        if self.own is not None:
            return self.patch.under_the_rule(self.own, *args, **kwargs)
        return self.patch.under_the_rule(self.unbound.call, self.patch.module, *args, **kwargs)

    def is_in_place(self) -> bool:
        """True as long as the module has it, and no later conversion's."""
        return vars(self.patch.module).get(self.__name__) is self

    @property
    def function(self) -> Function:
        """The method as the module would have it without a conversion."""
        return self.unbound.of(self.patch.module) if self.own is None else self.own

    @property
    def _successor(self) -> Function:
        """Another conversion's entry for the same method, or else the method itself."""
        now = vars(self.patch.module).get(self.__name__)
        return now if isinstance(now, Entry) and now.own is self.own else self.function

    def __getattr__(self, name: str) -> Any:
        """What the method has besides: a route, a mark, its qualified name.

        Not what copies ask for, and not `__func__`: whoever called that would run the method without its rule.
        """
        if name in ("patch", "own", "unbound") or (name.startswith("__") and name not in ("__self__", "__qualname__")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return getattr(self.function, name)

    @property
    def __wrapped__(self) -> Function:
        """The same, for whoever asks for the signature."""
        return self.function

    @property
    def __code__(self) -> CodeType:
        """The method's own, for whoever asks where it was written, as `torch.export` does."""
        return self.function.__code__


class ForwardEntry(Entry):
    """The way into a converted module by its `forward`.

    Args:
        patch: The module's patch.
    """

    def __init__(self, patch: Patch) -> None:
        super().__init__(patch, patch.forward)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward`, run by its patch."""
        return self.patch.run(*args, **kwargs)


def entry_of(module: nn.Module) -> ForwardEntry | None:
    """What a converted module has in the place of its `forward`; None if it is not converted."""
    entry = vars(module).get("forward")
    return entry if isinstance(entry, ForwardEntry) else None
