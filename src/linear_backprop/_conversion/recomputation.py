"""What activation checkpointing runs again: under what it ran under the first time, or not at all.

The blocks around it are entered again. Conversions cannot be: their patches are in the model, which other threads may
run. So a checkpointed function remembers the entries by which it ran converted modules, and refuses to run by others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from .._errors import ConversionError
from .._torch.functions import Function
from .._torch.modes import function_modes, without
from .._torch.recording import wrap_recomputed
from .block import RuleMode
from .passes import running_from, snapshot

if TYPE_CHECKING:
    from .entries import Entry

Watcher = Callable[["Entry"], None]


class _Watching(threading.local):
    """Those who are told of the entries by which the thread runs converted modules."""

    def __init__(self) -> None:
        self.first_runs: list[tuple[Callable[[], bool], Watcher]] = []
        self.again: list[Watcher] = []


_watching = _Watching()


def ran(entry: Entry) -> None:
    """Tell the checkpointed functions under way in this thread that a converted module runs."""
    if not is_checkpointed():
        return
    for _, watcher in _watching.first_runs:
        watcher(entry)
    for watcher in _watching.again:
        watcher(entry)


def is_checkpointed() -> bool:
    """True inside a function that activation checkpointing runs twice."""
    _forget_what_is_over()
    return bool(_watching.first_runs or _watching.again)


def _forget_what_is_over() -> None:
    if _watching.first_runs:
        _watching.first_runs = [each for each in _watching.first_runs if each[0]()]


class Checkpointed:
    """A function that activation checkpointing runs, and runs again in the backward pass.

    Args:
        function: The function.
        is_first_run: True as long as its first run is under way.
    """

    def __init__(self, function: Function, is_first_run: Callable[[], bool]) -> None:
        self.function = function
        self.modes = [mode for mode in function_modes() if isinstance(mode, RuleMode)]
        self.passes = snapshot()
        self.entries: set[Entry] = set()
        _forget_what_is_over()  # where nothing is converted, nobody else does
        _watching.first_runs.append((is_first_run, self.entries.add))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it again: under the blocks that were around it, and no others, the runs of modules counted on.

        Raises:
            ConversionError: It runs a module under another conversion than the first time, or under none.
        """
        for entry in self.entries:
            if not entry.is_in_place():
                raise _changed(entry)
        with ExitStack() as stack:
            stack.enter_context(without(RuleMode))
            stack.enter_context(running_from(self.passes))
            stack.enter_context(_watched(self._require_the_same))
            for mode in self.modes:
                stack.enter_context(mode)
            return self.function(*args, **kwargs)

    def _require_the_same(self, entry: Entry) -> None:
        if entry not in self.entries:
            raise _changed(entry)


@contextmanager
def _watched(watcher: Watcher) -> Generator[None]:
    _watching.again.append(watcher)
    try:
        yield
    finally:
        _watching.again.remove(watcher)


def _changed(entry: Entry) -> ConversionError:
    patch = entry.patch
    return ConversionError(
        f"the backward pass runs module {patch.path!r} ({type(patch.module).__name__}) again, for activation "
        f"checkpointing, under another conversion than in the forward pass; call backward() before convert(), before "
        f"remove() and before the end of `with lb.convert(...)`"
    )


wrap_recomputed(Checkpointed)
