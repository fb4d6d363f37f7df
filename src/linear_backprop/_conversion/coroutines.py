"""Coroutines under a rule: in its block whenever they run, and out of it whenever they wait."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

from .._errors import ConversionError
from .._torch.functions import Function
from .._torch.modes import context_decorator


def under_whenever_it_runs(function: Function, context: Callable[[], AbstractContextManager[Any]]) -> Function:
    """A function in a context whenever its code runs: a generator's and a coroutine's, too.

    Raises:
        ConversionError: It is an asynchronous generator.
    """
    if inspect.isasyncgenfunction(function):
        raise ConversionError(
            f"{function.__name__} is an asynchronous generator, which cannot be kept under a rule: make it a coroutine "
            f"or a generator"
        )
    if not inspect.iscoroutinefunction(function):
        return context_decorator(context, function)

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return await _Stepped(function(*args, **kwargs), context)

    return run


class _Stepped:
    """A coroutine, each of whose steps runs in a context of its own."""

    def __init__(self, coroutine: Any, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self.coroutine, self.context = coroutine, context

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.coroutine.__await__()
        step: Callable[[Any], Any] = steps.send
        given: Any = None
        while True:
            try:
                with self.context():
                    awaited = step(given)
            except StopIteration as end:
                return end.value
            try:
                step, given = steps.send, (yield awaited)
            except BaseException as error:  # cancelled, for one: the coroutine's own affair
                step, given = steps.throw, error
