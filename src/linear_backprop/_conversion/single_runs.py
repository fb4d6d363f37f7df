"""The patches for single runs of a module: those that are counted, and those in which they are counted."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from .._errors import LinearBackpropError
from .._torch.modules import is_compiled
from .classify import Found
from .entries import Entry
from .methods import Unbound, own_methods
from .passes import in_one_pass, next_run, runs_so_far
from .patch import Patch, Patches, patch_of
from .where import Calls, Selection
from .whole_model import OuterPatch


class CountedPatch(OuterPatch):
    """A module of which some runs follow the rule: its patch runs these; the others keep their derivatives.

    Args:
        module: The module.
        path: Its path in the model.
        patches: The patches of the conversion; the module's own is taken out of its place.
        runs: The numbers of the runs, within one forward pass, that follow the rule.
    """

    def __init__(self, module: nn.Module, path: str, patches: Patches, runs: frozenset[int]) -> None:
        super().__init__(module, patches)
        self.path, self.runs = path, runs
        self.otherwise = patch_of(module) or Patch(module, path, patches, selected=False)

    def entries(self) -> dict[str, Callable[..., Any]]:
        """Those of `forward` alone: a run is a run of it."""
        return Patch.entries(self)

    @property
    def inside(self) -> tuple[Patch, ...]:
        """The patches of either kind of runs."""
        return (*super().inside, self.otherwise)

    def of(self, module: nn.Module) -> CountedPatch:
        """The same patch of another module."""
        patch = super().of(module)
        assert isinstance(patch, CountedPatch)
        patch.otherwise = self.otherwise.of(module)
        return patch

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward`."""
        return self._next_run()(*args, **kwargs)

    def _next_run(self) -> Callable[..., Any]:
        """What runs now; an earlier conversion counts the runs that it is not asked for, too."""
        selected = next_run(self.patches, self) in self.runs
        earlier = self.otherwise
        otherwise = earlier._next_run() if isinstance(earlier, CountedPatch) else earlier.run
        return self.run_inner if selected else otherwise


class PassPatch(OuterPatch):
    """A module that contains counted ones: its own run is a forward pass, or a part of one.

    Args:
        module: The module.
        patches: The patches of the conversion; the module's own is taken out of its place.
        counting: The conversions that count runs in it: this one, or an earlier one whose patch this one's hides.
        selected: What selected the runs, to be checked once after the first pass; None for all but the model itself.
    """

    def __init__(
        self, module: nn.Module, patches: Patches, counting: tuple[Patches, ...], selected: Selection | None = None
    ) -> None:
        super().__init__(module, patches)
        self.counting = counting
        self._unchecked = None if selected is None else selected.calls

    def entries(self) -> dict[str, Callable[..., Any]]:
        """Those of the inner patch, and a pass for each way into the module's code."""
        cls = type(self.module)
        return {**super().entries(), **{name: Entry(self, Unbound(cls, name)) for name in own_methods(cls)}}

    def under_the_rule(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A method's result, in a pass."""
        inside = (function, *args) if self.inner is None else (self.inner.under_the_rule, function, *args)
        return self._in_passes(*inside, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's `forward`, in a pass."""
        if self._unchecked is None or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return self._in_passes(self.run_inner, *args, **kwargs)
        return self._in_passes(self._run_and_check, *args, **kwargs)

    def _in_passes(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for conversion in self.counting:
            function = partial(in_one_pass, conversion, function)
        return function(*args, **kwargs)

    def _run_and_check(self, *args: Any, **kwargs: Any) -> Any:
        result = self.run_inner(*args, **kwargs)
        unchecked, self._unchecked = self._unchecked or {}, None
        counts = runs_so_far(self.patches)
        # Not those that did not run, or of which a replica did.
        ran = {
            each.path: counts[each] for each in self.patches.placed if isinstance(each, CountedPatch) and each in counts
        }
        for calls, paths in unchecked.items():
            _warn_of_missing_runs(calls, {path: count for path, count in ran.items() if path in paths})
        return result


def put_single_runs(model: nn.Module, patches: Patches, selected: Selection, found: Iterable[Found]) -> None:
    """Put the patches by which single runs of modules are told apart, around those that are there.

    Args:
        model: The model.
        patches: The patches of the conversion.
        selected: What selected them.
        found: The modules of which single runs are selected.

    Raises:
        LinearBackpropError: A module in which runs are counted has a generator for a method.
    """
    counted: set[nn.Module] = set()
    for each in found:
        assert each.runs is not None
        patches.put(CountedPatch(each.module, each.path, patches, each.runs))
        counted.add(each.module)
    for path, module in model.named_modules():
        if not is_compiled(module) and not counted.isdisjoint(list(module.modules())[1:]):
            _refuse_generators(path, module)
            patches.put(PassPatch(module, patches, (patches,), None if path else selected))


def keep_counting(patches: Patches) -> None:
    """Let runs be counted on that an earlier conversion counts in modules to which this one gave patches."""
    for patch in list(patches.placed):
        earlier = patch.earlier
        while earlier is not None:
            if isinstance(earlier, PassPatch):
                patches.put(PassPatch(patch.module, patches, earlier.counting))
                break
            earlier = earlier.inner if isinstance(earlier, OuterPatch) else None


def _refuse_generators(path: str, module: nn.Module) -> None:
    for name in ("forward", *own_methods(type(module))):
        if inspect.isgeneratorfunction(getattr(type(module), name)):
            raise LinearBackpropError(
                f"calls(...) cannot count runs inside a generator, whose passes interleave: {name!r} of "
                f"{type(module).__name__} at {path or 'the model'} is one; select modules as a whole"
            )


def _warn_of_missing_runs(calls: Calls, ran: dict[str, int]) -> None:
    missing = sorted(run for run in calls.runs if run >= max(ran.values(), default=run + 1))
    if missing:
        counts = ", ".join(f"{path!r} {count} times" for path, count in list(ran.items())[:5])
        warnings.warn(
            f"{calls!r}: no run {', '.join(map(str, missing))} in the model's first forward pass; runs are counted "
            f"from 0, and there ran {counts}",
            stacklevel=2,
        )
