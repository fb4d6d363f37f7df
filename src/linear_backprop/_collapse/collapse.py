"""The collapsed backward pass: Linear Backprop at the cost of C samples, whatever the batch.

Legend: N samples, C outputs, g_n the C numbers that the loss sends back to sample n's outputs, z_n any
per-sample quantity (an input, an activation).

Under `Linear`, the map from g_n to the cotangent of any pre-activation is the same for every sample, so every
parameter's gradient depends on the samples only through the *aggregates* <z>_c = sum_n g_{n,c} z_n and
<1>_c = sum_n g_{n,c}: C samples in place of N. They could be sent through the model themselves if every bias
were multiplied by <1>_c. To run the model's graph *as it is*, whatever affine operations it consists of, each
aggregate is written with combinations whose weights sum to one, which affine maps keep:

    m any weighted mean of the z_n,    z~_c = m + (<z>_c - <1>_c m) / s_c,    any s_c > 0
    <z>_c = s_c z~_c + (<1>_c - s_c) m

So the graph runs on C + 1 samples, z~_1 ... z~_C and m. Its activations compute nothing: they emit the
combinations of their own noted outputs and pass cotangents straight through. With the unit vectors e_c for
cotangents, weighted as in the second line, every gradient comes out as the full batch's.

With F operations a sample in the forward pass and A values emitted by the activations, Backprop takes about 3 F N,
the collapsed pass F N + 2 A (C + 1) N + 2 F (C + 1): the run on C + 1 samples computes no value that nobody reads.

Legend of the folders beside this file: `captured` hands over a model's graph, `proof` finds what its operations are,
`plan` makes the graphs of a step of it, `step` runs them; `runner` is where they meet.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import fx, nn

from .._conversion.block import RuleMode
from .._conversion.patch import is_converted
from .._conversion.where import Where, selection
from .._errors import CollapseError, LinearBackpropError, require_module
from .._rules.elementwise import Linear, MeanLinear
from .._rules.layers import require_layers
from .._rules.rule import LayerRule, require_rule
from .._torch.dynamo import size_guards
from .._torch.modes import function_modes
from .._torch.modules import is_compiled
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
from .sharing import Sharing
from .step.accumulation import Accumulation
from .table import table_of

CollapsibleRule = Linear | MeanLinear | LocallyExact
_BEGUN = ("_captured", "_run", "_runner", "_accumulation")  # what every copy has of its own


def collapse(
    model: nn.Module,
    rule: CollapsibleRule = Linear(),  # noqa: B008
    where: Where = None,
    layers: Iterable[LayerRule] = (),
    *,
    process_group: dist.ProcessGroup | None = None,
    always: bool = False,
    check: bool = False,
    compile: bool = False,
) -> Collapsed:
    """The same model with Linear Backprop's gradients at the cost of C samples.

    The result shares the model's parameters and buffers, and `state_dict` keys; outputs are the model's to the
    bit. `loss.backward()`, for any differentiable loss, gives every parameter, and the input if it requires
    grad, the gradient that `convert(model, rule, where, layers)` gives, up to rounding. Where the batch is so
    small, or the outputs so many, that the ordinary backward pass is cheaper, that is run, and said once.

        fast = lb.collapse(model)
        loss_fn(fast(x), y).backward()
        print(fast)  # what emits, what was proved affine, what it costs

    Between its activations the model may do whatever is affine with coefficients that do not depend on the
    sample. That is proved of every operation by itself when the model's graph is first captured, and again when
    something that it was captured under changes: a mode, a module, a dtype, a shape.

    With `LocallyExact` the chain alone is collapsed, and every layer's parameters see their own activation's
    derivative: two thirds of Backprop's matrix products.

    Args:
        model: The model; not converted. One under `torch.compile` is collapsed as with `compile=True`.
        rule: `Linear()`, `MeanLinear()`, or `LocallyExact` with either chain.
        where: Which modules' activations follow the rule, as in `convert`; no other may depend on them. What
            lies below them keeps its true derivatives, and may be anything: this is partial collapse.
        layers: Rules for layers that are not elementwise, as in `convert`.
        process_group: The gradients become the mean over these workers, as under DDP, by sending the aggregates:
            C + 1 samples' activations in place of a gradient the size of the model.
        always: Collapse also where the ordinary backward pass would be cheaper.
        check: Verify at every step that the combinations come out of the model as those of its outputs: a few
            products more. It guards against rounding that went wrong, not against what is proved.
        compile: Compile the step's graphs with TorchInductor.

    Raises:
        LinearBackpropError: Another rule, something in `layers` is not a layer's rule, or `model` no module.
        CollapseError: The model is converted. At the call: its graph cannot be captured, or an operation in it is
            not affine in each sample. Named are the operation, its module, the line and what to do.
    """
    require_module(model, "collapse", "with_rule")
    require_rule(rule)
    if not isinstance(rule, CollapsibleRule):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(
            f"collapse takes Linear(), MeanLinear() or LocallyExact(...), got {rule!r}; use convert for others"
        )
    return Collapsed(
        model,
        rule,
        where,
        require_layers(layers),
        process_group=process_group,
        always=always,
        check=check,
        compile=compile,
    )


class Collapsed(Sharing):
    """What `collapse` returns; see there."""

    def __init__(
        self,
        model: nn.Module,
        rule: CollapsibleRule,
        where: Where,
        layers: tuple[LayerRule, ...],
        *,
        process_group: dist.ProcessGroup | None,
        always: bool,
        check: bool,
        compile: bool,
    ) -> None:
        super().__init__()
        _refuse_converted(model)
        if any(isinstance(module, Collapsed) for module in model.modules()):
            raise CollapseError("the model is collapsed, or a part of it is: collapse it once, as a whole")
        self._rule, self._where, self._layers = rule, where, layers
        self._process_group, self._always, self._check = process_group, always, check
        self._share(model)
        self._compiles = compile or is_compiled(model)
        selected = selection(where, self._target)
        if selected.calls:
            raise LinearBackpropError(
                f"collapse selects modules as a whole, got {', '.join(map(repr, selected.calls))}; use convert for "
                f"single runs of a module"
            )
        self._begin()

    def _begin(self) -> None:
        reason = "a collapsed model captures its own graph: use lb.collapse(model, compile=True)"
        self._captured = Captured(self._target, self._prepare, self._target, samples=True)
        self._run = torch.compiler.disable(self._forward, reason=reason)  # pyright: ignore[reportUnknownVariableType]
        self._runner: CollapsedRunner | LocalRunner | None = None
        self._accumulation: Accumulation | None = None
        self._said = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _BEGUN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    @property
    def _target(self) -> nn.Module:
        """The model; one under `torch.compile`, without it."""
        return getattr(self.uncollapsed, "_orig_mod", self.uncollapsed)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own output.

        Raises:
            CollapseError: Something that the model does cannot be collapsed; see `collapse`.
        """
        return self._run(*args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.uncollapsed(*args, **kwargs)
        if is_traced():
            raise CollapseError(
                "a collapsed model cannot be traced or exported; its model can, with the same outputs: fast.uncollapsed"
            )
        if transforms_active():
            raise CollapseError("a collapsed model does not run under torch.func or forward-mode AD: use lb.convert")
        if any(isinstance(mode, RuleMode) for mode in function_modes()):
            _refuse_converted(self.uncollapsed)
            raise CollapseError(
                "a collapsed model has a rule of its own and follows no other, neither a backward_rule block's nor an "
                "attribution's: give it the model, fast.uncollapsed"
            )
        return self._captured(*args, **kwargs)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of the model's parameters.

        Raises:
            LinearBackpropError: Inside `accumulate()`, after a backward pass: its gradients come when the block ends.
        """
        if self._accumulation is not None and self._accumulation.has_taken:
            raise LinearBackpropError(
                "zero_grad() inside accumulate() cannot take back the micro-batches before it, whose gradients are "
                "added when the block ends; call it before the block, or begin another block"
            )
        super().zero_grad(set_to_none)

    def collapses(self, samples: int) -> bool:
        """Whether a batch of so many samples is collapsed, or takes the ordinary backward pass; after a first call.

        Raises:
            LinearBackpropError: There was no call yet.
        """
        if self._runner is None:
            raise LinearBackpropError("collapses() knows the model only once it has run on a batch; call it first")
        return self._accumulation is not None or self._runner.collapses(samples)

    def __str__(self) -> str:
        """What the graph of the latest call consists of, what a step costs, and which path it takes."""
        if self._runner is None:
            return f"collapsed under {self._rule!r}: the model is captured at the first call; print it again after that"
        return table_of(self._runner)

    @contextmanager
    def accumulate(self) -> Generator[None]:
        """Feed a batch in micro-batches: one backward pass of C samples at the end, exact for the whole.

            with fast.accumulate():
                for x, y in micro_batches:
                    (loss_fn(fast(x), y) * len(x) / whole).backward()
            optimizer.step()

        Inside, `backward()` only adds to the aggregates, of fixed size, and nothing of a micro-batch is kept;
        the gradients are added to `.grad` when the block ends without an exception, so that `zero_grad()` belongs
        before the block and the optimizer's step after it. The parameters must not change inside. The input's own
        gradient is not to be had this way.

        Raises:
            LinearBackpropError: The block is inside another, no backward pass ran inside, an input takes a gradient,
                or every micro-batch has a linear map of its own: under `LocallyExact`, `MeanLinear`,
                `ConstantStatistics` or `where`.
        """
        if not isinstance(self._rule, Linear) or self._where is not None:
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

    def _prepare(self, module: fx.GraphModule, inputs: Sequence[Any], call: Invocation) -> Runner:
        """Analyse a captured graph."""
        _refuse_converted(self.uncollapsed)
        is_sample = [id(x) in call.given for x in inputs]
        of_samples = [n for n, x in zip(inputs_of(module.graph), inputs, strict=True) if id(x) in call.given]
        size = BatchSize(of_samples, call.batch, size_guards())
        trace = Trace(module, inputs, is_sample, size, Places(self._target))
        chain = self._rule.chain if isinstance(self._rule, LocallyExact) else self._rule
        by_unit = isinstance(chain, MeanLinear)
        selects = None if self._where is None else selection(self._where, self._target).selects
        analysis = Analysis(trace, size, Selection(self._target, selects, self._layers), positions=not by_unit)
        options = Options(self._process_group, always=self._always, check=self._check, compiled=self._compiles)
        if isinstance(self._rule, LocallyExact):
            runner = LocalRunner(analysis, self._rule, options)
        else:
            runner = CollapsedRunner(analysis, self._rule, options)

        def run(call: Invocation, inputs: Sequence[Any]) -> Sequence[Any]:
            self._runner = runner
            collapses = self._accumulation is not None or runner.collapses(call.batch)
            if not collapses and not self._said and not isinstance(self._rule, LocallyExact):
                self._said = True
                _say_that_it_is_ordinary(call.batch, runner.costs)
            return runner(inputs, collapses, self._accumulation)

        return run


def _say_that_it_is_ordinary(samples: int, costs: Costs) -> None:
    by_operations = replace(costs, fixed=0).collapse_pays(samples)
    reason = "too small a step" if by_operations else f"too few for {costs.outputs} outputs"
    warnings.warn(
        f"{samples} samples are {reason}: the ordinary backward pass is cheaper and is run, with the same gradients "
        f"(always=True collapses all the same)",
        stacklevel=2,
    )


def _refuse_converted(model: nn.Module) -> None:
    if is_converted(model):
        raise CollapseError("the model is converted, and collapse puts its own rule on it; remove() that first")
