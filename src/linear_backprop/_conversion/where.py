"""The selection of modules by path: `where`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from .._errors import LinearBackpropError, described

Predicate = Callable[[str, nn.Module], bool]
"""True for a path and a module that are to be selected."""


@dataclass(frozen=True)
class After:
    """Every module defined after the one at `path`; see `after`."""

    path: str


Where = str | Iterable[str] | Predicate | After | None
"""Whatever selects modules: a glob, several, a predicate of path and module, `after(path)`, or None for all."""


def after(path: str) -> After:
    """Select what comes after the module at `path`, in the order in which the model defines its modules.

    The module itself is not selected, nor are those that contain it. With `Linear` this is LinBP (Guo et al., 2020):
    linear from one layer on.

    Args:
        path: A module's path as `named_modules` gives it, such as "features.23".

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh())
        >>> [site.path for site in lb.convert(model, where=lb.after("1")).changed]
        ['3']
    """
    return After(path)


def selector(where: Where, model: nn.Module) -> Predicate:
    """`where` as a predicate of path and module.

    Raises:
        LinearBackpropError: `where` names nothing in the model, or is of no known kind.
    """
    if where is None:
        return lambda path, module: True
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    if isinstance(where, After):
        return _after(where.path, paths)
    if isinstance(where, str):
        return _globs([where], model)
    if isinstance(where, type):
        raise _by_class(where)
    if isinstance(where, nn.Module):
        raise _unknown(where)
    if callable(where):
        return _predicate(where)
    if isinstance(where, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _globs(list(where), model)
    raise _unknown(where)


def _unknown(where: object) -> LinearBackpropError:
    return LinearBackpropError(
        f"where must be a glob on modules' paths, a list of globs, a predicate (path, module) -> bool or after(path), "
        f"got {described(where)}"
    )


def _by_class(given: type) -> LinearBackpropError:
    return LinearBackpropError(
        f"where={given.__name__} is a class; to select by class, give "
        f"where=lambda path, module: isinstance(module, {given.__name__})"
    )


def _predicate(where: Predicate) -> Predicate:
    try:
        inspect.signature(where).bind("path", nn.Identity())
    except TypeError as error:
        raise LinearBackpropError(
            f"where is called with a path and a module, which {described(where)} does not take ({error}); give "
            f"where=lambda path, module: ..."
        ) from error
    except ValueError:  # a builtin that does not say what it takes
        pass
    return where


def _after(path: str, paths: list[str]) -> Predicate:
    if path not in paths:
        raise LinearBackpropError(f"after({path!r}): the model has no such module{_near(path, paths)}")
    below = path + "."
    later = {p for p in paths[paths.index(path) + 1 :] if not p.startswith(below)}
    return lambda path, module: path in later


def _globs(globs: list[object], model: nn.Module) -> Predicate:
    """A module that has several paths is selected by any of them, and known by its first."""
    first = {module: path for path, module in model.named_modules()}
    every = list(model.named_modules(remove_duplicate=False))
    selected: set[str] = set()
    for glob in globs:
        if not isinstance(glob, str):
            raise _by_class(glob) if isinstance(glob, type) else _unknown(glob)
        matching = {first[module] for path, module in every if fnmatchcase(path, glob)}
        if not matching:
            raise LinearBackpropError(
                f"where={glob!r} matches no module of the model{_near(glob, [path for path, _ in every])}"
            )
        selected |= matching
    return lambda path, module: path in selected


def _near(path: str, paths: list[str]) -> str:
    near = difflib.get_close_matches(path, paths, n=3, cutoff=0.3) or paths[1:4]
    return f"; its modules' paths are like {', '.join(map(repr, near))}" if near else ""
