"""The collapsed backward pass: Linear Backprop at the cost of C samples, whatever the batch.

Legend: N samples, C outputs, g_n the C numbers that the loss sends back to sample n's outputs, z_n any
per-sample quantity (an input, an activation).

Under `Linear`, the map from g_n to the cotangent of any pre-activation is the same for every sample, so every
parameter's gradient depends on the samples only through the *aggregates* <z>_c = sum_n g_{n,c} z_n and
<1>_c = sum_n g_{n,c}: C samples in place of N. They could be sent through the model themselves if every bias
were multiplied by <1>_c. To run the model *as it is*, whatever affine code it consists of, each aggregate is
written with combinations whose weights sum to one, which affine maps keep:

    m = mean_n z_n,    z~_c = m + (<z>_c - <1>_c m) / s_c,    any s_c > 0
    <z>_c = s_c z~_c + (<1>_c - s_c) m

So the model runs on C + 1 samples, z~_1 ... z~_C and m. Its activations compute nothing: they emit the
combinations of their own recorded outputs and pass cotangents straight through. With the unit vectors e_c for
cotangents, weighted as in the second line, every gradient comes out as the full batch's.

With F operations a sample in the forward pass and A values emitted by the activations, Backprop takes about 3 F N,
the collapsed pass F N + 2 A (C + 1) N + 2 F (C + 1): the run on C + 1 samples computes no value that nobody reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._conversion.block import RuleMode
from .._conversion.convert import convert
from .._conversion.patch import is_converted
from .._conversion.where import Where, selector
from .._errors import CollapseError, LinearBackpropError
from .._rules.elementwise import Linear, MeanLinear
from .._rules.layers import require_layers
from .._rules.rule import LayerRule, require_rule
from .affine import refuse_what_is_not_affine
from .aggregates import Aggregates
from .collapsed_pass import Collapse, CollapsedPass
from .locally_exact import LocallyExact, run_locally
from .probe import Costs, look
from .replay import Recorder

CollapsibleRule = Linear | MeanLinear | LocallyExact


def collapse(
    model: nn.Module,
    rule: CollapsibleRule = Linear(),  # noqa: B008
    where: Where = None,
    layers: Iterable[LayerRule] = (),
    *,
    process_group: dist.ProcessGroup | None = None,
    always: bool = False,
    check: bool = False,
) -> Collapsed:
    """The same model with Linear Backprop's gradients at the cost of C samples.

    The result shares the model's parameters and buffers, and `state_dict` keys; outputs are the model's to the
    bit. `loss.backward()`, for any differentiable loss, gives every parameter, and the input if it requires
    grad, the gradient that `convert(model, rule, where, layers)` gives, up to rounding. Where the batch is so
    small, or the outputs so many, that the ordinary backward pass is cheaper, that is run, and said once.

    Between its activations the model may do whatever is affine with coefficients that do not depend on the
    sample: linear and convolutional layers of any kind, average pooling, reshaping, padding, upsampling, sums,
    concatenation, constant scaling, batch normalization in eval mode; max pooling, batch normalization and dropout
    with `layers=LINEAR_LAYERS`. Outputs have shape (N, C), or (..., C) where every position is treated alike.
    Forward hooks run once more, on the combined samples.

    With `LocallyExact` the chain alone is collapsed, and every layer's parameters see their own activation's
    derivative: two thirds of Backprop's matrix products.

    Args:
        model: The model; not converted.
        rule: `Linear()`, `MeanLinear()`, or `LocallyExact` with either chain.
        where: Which modules' activations follow the rule, as in `convert`; they must be the last ones to run. What
            lies below them keeps its true derivatives, and may be anything: this is partial collapse.
        layers: Rules for layers that are not elementwise, as in `convert`.
        process_group: The gradients become the mean over these workers, as under DDP, by sending the aggregates:
            C + 1 samples' activations in place of a gradient the size of the model.
        always: Collapse also where the ordinary backward pass would be cheaper.
        check: Verify at every step, not only the first, that what lies between activations is affine. Slow.

    Raises:
        CollapseError: A module's backward pass depends on the sample: here, or at the first call where only
            running the model can tell. Named are the module, the reason and what to do.
        LinearBackpropError: Another rule, or something in `layers` is not a layer's rule.
    """
    require_rule(rule)
    if not isinstance(rule, CollapsibleRule):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(
            f"collapse takes Linear(), MeanLinear() or LocallyExact(...), got {rule!r}; use convert for others"
        )
    return Collapsed(model, rule, where, require_layers(layers), process_group, always, check)


class Collapsed(nn.Module):
    """What `collapse` returns; see there."""

    def __init__(
        self,
        model: nn.Module,
        rule: CollapsibleRule,
        where: Where,
        layers: tuple[LayerRule, ...],
        process_group: dist.ProcessGroup | None,
        always: bool,
        check: bool,
    ) -> None:
        super().__init__()
        if is_converted(model):
            raise CollapseError("the model is converted, and collapse puts its own rule on it; remove() that first")
        self.rule, self.where, self.layers, self.check = rule, where, layers, check
        self.process_group, self.always = process_group, always
        # The very same dictionaries: what either of the two changes, both have.
        self.model: nn.Module
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self.__dict__["model"] = model
        self.pending: list[tuple[CollapsedPass, Aggregates]] | None = None
        self._selects = None if where is None else selector(where, model)
        self._costs: Costs | None = None
        self._said = False
        refuse_what_is_not_affine(model, self._selects, layers)

    def train(self, mode: bool = True) -> Self:
        """Set training mode on the model; what was verified is verified again."""
        self.model.train(mode)
        self.training = mode
        self._costs = None
        return self

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's own output.

        Raises:
            CollapseError: What lies between two activations is not affine, or an input is not a floating tensor.
        """
        if not torch.is_grad_enabled():
            return self.model(*inputs)
        if self._costs is None or self.check:
            refuse_what_is_not_affine(self.model, self._selects, self.layers)
            self._costs = look(self.model, inputs, self._selects, self.layers)
        collapses = self.collapses(len(inputs[0]))
        if isinstance(self.rule, LocallyExact):
            return run_locally(
                *(self.model, self.model, self.rule, inputs, {}, self.layers),
                *(self._costs.seam, not collapses, self.process_group),
            )
        if not collapses:
            return self._ordinary(inputs)
        recorder = Recorder(self.layers, self._costs.seam, self.rule)
        with recorder:
            y = self.model(*inputs)
        step, leaves = CollapsedPass.of(self, recorder, inputs), [*inputs, *recorder.boundary.crossed]
        values = [z.detach() for z in leaves] + recorder.emitted()
        return Collapse.apply(step, values, y.detach(), *leaves, *step.parameters)

    def collapses(self, samples: int) -> bool:
        """Whether a batch of so many samples is collapsed, or takes the ordinary backward pass; after a first call.

        Raises:
            LinearBackpropError: There was no call yet since the model was made or its training mode set.
        """
        if self._costs is None:
            raise LinearBackpropError("collapses() knows the model only once it has run on a batch; call it first")
        if self.always or self.pending is not None:
            return True
        if isinstance(self.rule, LocallyExact):
            return self._costs.chain_pays(samples)
        return self.process_group is not None or self._costs.collapse_pays(samples)

    @contextmanager
    def accumulate(self) -> Generator[None]:
        """Feed a batch in micro-batches: one backward pass of C samples at the end, exact for the whole.

            with fast.accumulate():
                for x, y in micro_batches:
                    (loss_fn(fast(x), y) * len(x) / whole).backward()
            optimizer.step()

        Inside, `backward()` only adds to the aggregates, of fixed size, and nothing of a micro-batch is kept;
        the gradients are added to `.grad` when the block ends without an exception. The parameters must not
        change inside. The input's own gradient is not to be had this way.

        Raises:
            LinearBackpropError: The block is inside another, no backward pass ran inside, or every micro-batch has
                a linear map of its own: under `LocallyExact`, `MeanLinear`, `ConstantStatistics` or `where`.
        """
        if not isinstance(self.rule, Linear) or self.where is not None:
            raise LinearBackpropError(
                "every micro-batch has its own derivatives under LocallyExact, MeanLinear or `where`: call backward() "
                "for each without accumulate(); their gradients add up"
            )
        if self.pending is not None:
            raise LinearBackpropError("accumulate() is already open; one block takes any number of micro-batches")
        self.pending = []
        try:
            yield
            if not self.pending:
                raise LinearBackpropError("no backward pass ran inside accumulate(); call loss.backward() in it")
            step, total = self.pending[0]
            outputs, cotangents, _ = step.replay(step.over_workers(total))
            torch.autograd.backward(outputs, cotangents)
        finally:
            self.pending = None

    def accumulate_pass(self, step: CollapsedPass, total: Aggregates) -> None:
        """Add one micro-batch's aggregates; for the backward pass, not for users."""
        assert self.pending is not None
        if any(each.constants for each in step.seen):
            raise LinearBackpropError(
                "every micro-batch has its own statistics under ConstantStatistics(): call backward() for each "
                "without accumulate(), or put batch normalization in eval mode"
            )
        self.pending[:] = [(step, self.pending[0][1] + total if self.pending else total)]

    def _ordinary(self, inputs: tuple[Tensor, ...]) -> Tensor:
        if not self._said:
            self._said = True
            warnings.warn(
                f"{len(inputs[0])} samples are too few for {self._costs and self._costs.outputs} outputs: the "
                f"ordinary backward pass is cheaper and is run, with the same gradients",
                stacklevel=3,
            )
        if self.where is None:
            with RuleMode(self.rule, layers=self.layers):
                return self.model(*inputs)
        with convert(self.model, self.rule, self.where, self.layers):
            return self.model(*inputs)
