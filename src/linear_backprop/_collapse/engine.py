"""What runs in the place of a collapsed model: its captured graph, on the path that the batch takes."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from .._conversion.block import RuleMode
from .._conversion.patch import is_converted
from .._conversion.where import Where, selection
from .._errors import CollapseError, LinearBackpropError
from .._rules.elementwise import Linear, MeanLinear
from .._rules.rule import LayerRule
from .._torch.dynamo import size_guards
from .._torch.modes import function_modes
from .._torch.recording import is_traced, transforms_active
from .captured.capture import Captured, Invocation, Runner
from .captured.graph import Places, inputs_of
from .captured.sizes import BatchSize
from .captured.trace import Trace
from .locally_exact import LocallyExact
from .plan.analysis import Analysis
from .plan.costs import Costs
from .plan.nonlinearity import Selection
from .runner import CollapsedRunner, LocalRunner, Options
from .step.accumulation import Accumulation

CollapsibleRule = Linear | MeanLinear | LocallyExact


@dataclass(frozen=True)
class Settings:
    """What a model is collapsed with; `rule`, `where` and `layers` as in `collapse`."""

    rule: CollapsibleRule
    where: Where
    layers: tuple[LayerRule, ...]
    options: Options


class Engine:
    """A model, collapsed. Every copy of it has an engine of its own.

    Args:
        model: The model.
        settings: What it is collapsed with.

    Attributes:
        runner: Of the latest call; None before the first.
        run: From the arguments of the model's `forward` to what it returns.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.runner: CollapsedRunner | LocalRunner | None = None
        self._model, self._settings = model, settings
        self._target: nn.Module = getattr(model, "_orig_mod", model)  # without torch.compile
        selected = selection(settings.where, self._target)
        if selected.calls:
            raise LinearBackpropError(
                f"collapse selects modules as a whole, got {', '.join(map(repr, selected.calls))}; use convert for "
                f"single runs of a module"
            )
        self._captured = Captured(self._target, self._prepare, self._target, samples=True)
        reason = "a collapsed model captures its own graph: use lb.collapse(model, compile=True)"
        self.run = torch.compiler.disable(self._run, reason=reason)  # pyright: ignore[reportUnknownVariableType]
        self._accumulation: Accumulation | None = None
        self._said = False

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._without_gradients(args, kwargs)
        if is_traced():
            raise CollapseError(
                "a collapsed model cannot be traced or exported; its model can, with the same outputs: fast.uncollapsed"
            )
        if transforms_active():
            raise CollapseError("a collapsed model does not run under torch.func or forward-mode AD: use lb.convert")
        if any(isinstance(mode, RuleMode) for mode in function_modes()):
            refuse_converted(self._model)
            raise CollapseError(
                "a collapsed model has a rule of its own and follows no other, neither a backward_rule block's nor an "
                "attribution's: give it the model, fast.uncollapsed"
            )
        return self._captured(*args, **kwargs)

    def _without_gradients(self, args: Any, kwargs: Any) -> Any:
        result = self._model(*args, **kwargs)
        given = {id(leaf) for leaf in tree_leaves((args, kwargs))}
        for y in tree_leaves(result):
            if isinstance(y, Tensor) and y.grad_fn is not None and id(y) not in given:
                raise CollapseError(
                    "the model enables gradients inside torch.no_grad(), and its output takes some there, under no "
                    "rule: call the collapsed model with gradients enabled, or use lb.convert"
                )
        return result

    def collapses(self, samples: int) -> bool:
        """Whether a batch of so many samples is collapsed; as in `Collapsed`."""
        if self.runner is None:
            raise LinearBackpropError("collapses() knows the model only once it has run on a batch; call it first")
        return self._accumulation is not None or self.runner.collapses(samples)

    @contextmanager
    def accumulate(self) -> Generator[None]:
        """A block in which a batch is fed in micro-batches; as in `Collapsed`."""
        if not isinstance(self._settings.rule, Linear) or self._settings.where is not None:
            raise LinearBackpropError(
                "every micro-batch has its own derivatives under LocallyExact, MeanLinear or `where`: call backward() "
                "for each without accumulate(); their gradients add up"
            )
        if self._accumulation is not None:
            raise LinearBackpropError("accumulate() is already open; one block takes any number of micro-batches")
        self._accumulation = opened = Accumulation()
        try:
            yield
            opened.finish()
        finally:
            opened.is_open = False
            self._accumulation = None

    def require_nothing_taken(self) -> None:
        """Check that no gradients are on their way that could not be taken back.

        Raises:
            LinearBackpropError: An `accumulate()` block has some.
        """
        if self._accumulation is not None and self._accumulation.has_taken:
            raise LinearBackpropError(
                "zero_grad() inside accumulate() cannot take back the micro-batches before it, whose gradients are "
                "added when the block ends; call it before the block, or begin another block"
            )

    def _prepare(self, module: fx.GraphModule, inputs: Sequence[Any], call: Invocation) -> Runner:
        """Analyse a captured graph."""
        refuse_converted(self._model)
        runner = self._runner_of(module, inputs, call)

        def run(call: Invocation, inputs: Sequence[Any]) -> Sequence[Any]:
            self.runner = runner
            collapses = self._accumulation is not None or runner.collapses(call.batch)
            if not collapses and not self._said and not isinstance(runner, LocalRunner):
                self._said = True
                _say_that_it_is_ordinary(call.batch, runner.costs)
            return runner(inputs, collapses, self._accumulation)

        return run

    def _runner_of(
        self, module: fx.GraphModule, inputs: Sequence[Any], call: Invocation
    ) -> CollapsedRunner | LocalRunner:
        rule, where = self._settings.rule, self._settings.where
        is_sample = [id(x) in call.samples for x in inputs]
        size = BatchSize(list(compress(inputs_of(module.graph), is_sample)), call.batch, size_guards())
        trace = Trace(module, inputs, is_sample, size, Places(self._target))
        by_unit = isinstance(rule.chain if isinstance(rule, LocallyExact) else rule, MeanLinear)
        selects = None if where is None else selection(where, self._target).selects
        selected = Selection(self._target, selects, self._settings.layers)
        analysis = Analysis(trace, size, selected, positions=not by_unit)
        if isinstance(rule, LocallyExact):
            arguments = set(compress(inputs_of(module.graph), [id(x) in call.given for x in inputs]))
            return LocalRunner(analysis, rule, self._settings.options, arguments)
        return CollapsedRunner(analysis, rule, self._settings.options)


def _say_that_it_is_ordinary(samples: int, costs: Costs) -> None:
    by_operations = replace(costs, fixed=0).collapse_pays(samples)
    reason = "too small a step" if by_operations else f"too few for {costs.outputs} outputs"
    warnings.warn(
        f"{samples} samples are {reason}: the ordinary backward pass is cheaper and is run, with the same gradients "
        f"(always=True collapses all the same)",
        stacklevel=2,
    )


def refuse_converted(model: nn.Module) -> None:
    """Refuse a model that is under another rule.

    Raises:
        CollapseError: It is converted.
    """
    if is_converted(model):
        raise CollapseError("the model is converted, and collapse puts its own rule on it; remove() that first")
