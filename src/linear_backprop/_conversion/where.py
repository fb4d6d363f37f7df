"""The selection of modules by path: `where`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

from torch import nn

from .._errors import LinearBackpropError, described, why_not_called_with

Predicate = Callable[[str, nn.Module], bool]
"""True for a path and a module that are to be selected."""


@dataclass(frozen=True)
class After:
    """Every module defined after the one at `path`; see `after`."""

    path: str


@dataclass(frozen=True, init=False, repr=False)
class Calls:
    """Single runs of the modules that a glob matches; see `calls`."""

    glob: str
    runs: frozenset[int]

    def __init__(self, glob: str, *runs: int) -> None:
        if not isinstance(glob, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LinearBackpropError(f'calls takes a glob first, as in calls("layer3.*.relu", 0, 1); got {glob!r}')
        wrong = [run for run in runs if isinstance(run, bool) or not isinstance(run, Integral) or run < 0]
        if wrong or not runs:
            raise LinearBackpropError(
                f"calls({glob!r}, ...) takes the numbers of runs, from 0 within one forward pass, as in "
                f"calls({glob!r}, 0, 1); got {', '.join(map(repr, wrong)) or 'none'}"
            )
        object.__setattr__(self, "glob", glob)
        object.__setattr__(self, "runs", frozenset(map(int, runs)))

    def __repr__(self) -> str:
        return f"calls({', '.join(map(repr, (self.glob, *sorted(self.runs))))})"


Where = str | Calls | Iterable[str | Calls] | Predicate | After | None
"""Whatever selects modules: a glob, `calls(glob, ...)`, several of these, a predicate of path and module,
`after(path)`, or None for all."""


def after(path: str) -> After:
    """Select what comes after the module at `path`, in the order in which the model defines its modules.

    The module itself is not selected, nor are those that contain it and what their own code calls. A module that has
    several paths is selected where any of them comes after. With `Linear` this is LinBP (Guo et al., 2020): linear from
    one layer on.

    Args:
        path: A module's path as `named_modules` gives it, such as "features.23"; "" selects all, what the model's own
            code calls included.

    Raises:
        LinearBackpropError: `path` is no text.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh())
        >>> [site.path for site in lb.convert(model, where=lb.after("1")).changed]
        ['3']
    """
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(f'after takes a module\'s path, as in after("features.23"); got {described(path)}')
    return After(path)


def calls(glob: str, *runs: int) -> Calls:
    """Select single runs of a module that the model runs several times, such as the one ReLU of a residual block.

    A run is one call of the module itself. Runs are counted from 0, for each module by itself, within one forward pass
    of the model that is converted, or of the part of it that is called; what activation checkpointing runs again has
    the numbers that it had. The other runs keep their true derivatives, or what an earlier conversion gave them.
    With `Linear` and the first two runs of each block's ReLU this is LinBP on ResNets as Guo et al. (2020) run it.
    `convert` takes it wherever it takes `where`, in lists of globs, too; `collapse` refuses it.

    Args:
        glob: A glob on modules' paths, such as "layer3.*.relu".
        runs: The numbers of the runs.

    Raises:
        LinearBackpropError: No run is given, or one that is not a number from 0 on.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), relu := nn.ReLU(), nn.Linear(2, 2), relu, nn.Linear(2, 2))
        >>> print(lb.convert(model, where=lb.calls("1", 1)))
        path  activation  backward pass
        1     ReLU        Linear(); run 1 alone
        1 changed, 0 left alone
    """
    return Calls(glob, *runs)


@dataclass(frozen=True)
class Selection:
    """What `where` selects in a model.

    Attributes:
        selects: A predicate of path and module.
        calls: The paths of the modules of which single runs are selected, by what selects them.
    """

    selects: Predicate
    calls: Mapping[Calls, frozenset[str]] = field(default_factory=dict[Calls, frozenset[str]])

    def runs(self, path: str) -> frozenset[int] | None:
        """The single runs of a module that are selected; None for all."""
        chosen = [calls.runs for calls, paths in self.calls.items() if path in paths]
        return frozenset[int]().union(*chosen) if chosen else None


def selection(where: Where, model: nn.Module) -> Selection:
    """What `where` selects.

    Raises:
        LinearBackpropError: `where` names nothing in the model, or is of no known kind.
    """
    if where is None:
        return Selection(lambda path, module: True)
    if isinstance(where, After):
        return Selection(_after(where.path, model))
    if isinstance(where, type):
        raise _by_class(where)
    if isinstance(where, nn.Module):
        raise _unknown(where)
    if callable(where):
        return Selection(_predicate(where, model))
    if isinstance(where, str | Calls):
        return _listed([where], model)
    if isinstance(where, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _listed(list(where), model)
    raise _unknown(where)


def _unknown(where: object) -> LinearBackpropError:
    return LinearBackpropError(
        f"where must be a glob on modules' paths, calls(glob, ...), a list of these, a predicate "
        f"(path, module) -> bool or after(path), got {described(where)}"
    )


def _by_class(given: type) -> LinearBackpropError:
    return LinearBackpropError(
        f"where={given.__name__} is a class; to select by class, give "
        f"where=lambda path, module: isinstance(module, {given.__name__})"
    )


def _predicate(where: Predicate, model: nn.Module) -> Predicate:
    """A module that has several paths is selected where the predicate is true of any."""
    if error := why_not_called_with(where, "path", nn.Identity()):
        raise LinearBackpropError(
            f"where is called with a path and a module, which {described(where)} does not take ({error}); give "
            f"where=lambda path, module: ..."
        )
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    return lambda path, module: any(_answer(where, each, module) for each in paths[module])


def _answer(where: Predicate, path: str, module: nn.Module) -> bool:
    answer: Any = where(path, module)
    try:
        return bool(answer)
    except (RuntimeError, TypeError, ValueError) as error:  # of a tensor or an array of several values
        raise LinearBackpropError(
            f"where must return True or False, got {described(answer)} for {path!r}; give "
            f"where=lambda path, module: isinstance(module, nn.ReLU)"
        ) from error


def _after(path: str, model: nn.Module) -> Predicate:
    """The model's own code comes after nothing but ""; of the paths that a module has, any may be the later one."""
    first, every = _paths(model)
    paths = [path for path, _ in every]
    if path not in paths:
        raise LinearBackpropError(f"after({path!r}): the model has no such module{_near(path, paths)}")
    below = path + "."
    later = {first[module] for p, module in every[paths.index(path) + 1 :] if not p.startswith(below)}
    return lambda p, module: not path or p in later


def _listed(listed: list[object], model: nn.Module) -> Selection:
    """A module that has several paths is selected by any of them, and known by its first."""
    first, every = _paths(model)
    whole: set[str] = set()
    single: dict[Calls, set[str]] = {}
    for each in listed:
        if not isinstance(each, str | Calls):
            raise _by_class(each) if isinstance(each, type) else _unknown(each)
        glob = each if isinstance(each, str) else each.glob
        matching = {first[module] for path, module in every if fnmatchcase(path, glob)}
        if not matching:
            raise LinearBackpropError(
                f"where={each!r} matches no module of the model{_near(glob, [path for path, _ in every])}"
            )
        if isinstance(each, str):
            whole |= matching
        else:
            single[each] = matching
    selected = whole.union(*single.values())
    calls = {each: frozenset(paths - whole) for each, paths in single.items()}
    return Selection(lambda path, module: path in selected, calls)


def _paths(model: nn.Module) -> tuple[dict[nn.Module, str], list[tuple[str, nn.Module]]]:
    """The first path of every module, by which it is known, and all paths with their modules."""
    every = list(model.named_modules(remove_duplicate=False))
    first: dict[nn.Module, str] = {}
    for path, module in every:
        first.setdefault(module, path)
    return first, every


def _near(path: str, paths: list[str]) -> str:
    near = difflib.get_close_matches(path, paths, n=3, cutoff=0.3) or paths[1:4]
    return f"; its modules' paths are like {', '.join(map(repr, near))}" if near else ""
