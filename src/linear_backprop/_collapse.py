"""The collapsed backward pass: Linear Backprop at the cost of C samples, whatever the batch.

Legend: N samples, C outputs, g_n the C numbers that the loss sends back to sample n's outputs, z_n any
per-sample quantity (an input, an activation).

Under `Linear`, the map from g_n to the cotangent of any pre-activation is the same for every sample, so every
parameter's gradient depends on the samples only through the *aggregates* <z>_c = sum_n g_{n,c} z_n and
<1>_c = sum_n g_{n,c}: C samples in place of N. They could be sent through the model themselves if every bias
were multiplied by <1>_c. To run the model *as it is*, whatever affine code it consists of, each aggregate is
written with combinations whose weights sum to one, which affine maps keep:

    m = mean_n z_n,    z~_c = m + (<z>_c - <1>_c m) / s_c,    s_c = sum_n |g_{n,c}|
    <z>_c = s_c z~_c + (<1>_c - s_c) m

So the model runs on C + 1 samples, z~_1 ... z~_C and m. Its activations compute nothing: they emit the
combinations of their own recorded outputs and pass cotangents straight through. With the unit vectors e_c for
cotangents, weighted as in the second line, every gradient comes out as the full batch's.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ._affine import mix, refuse_what_is_not_affine
from ._convert import is_converted
from ._errors import CollapseError, LinearBackpropError
from ._local import run_locally
from ._mode import RuleMode
from ._probe import Costs, verify
from ._replay import Emitter, Recorder
from ._rules import Linear, LocallyExact, require_rule


def collapse(model: nn.Module, rule: Linear | LocallyExact = Linear(), *, check: bool = False) -> Collapsed:  # noqa: B008
    """The same model with Linear Backprop's gradients at the cost of C samples.

    The result shares the model's parameters and buffers, and `state_dict` keys; outputs are the model's to the
    bit. `loss.backward()`, for any differentiable loss, gives every parameter, and the input if it requires
    grad, the gradient that `convert(model, Linear())` gives, up to rounding. Where the batch is so small, or the
    outputs so many, that the ordinary backward pass is cheaper, that is run, and said once.

    Between its activations the model may do whatever is affine with coefficients that do not depend on the
    sample: linear and convolutional layers of any kind, average pooling, reshaping, padding, upsampling, sums,
    concatenation, constant scaling, batch normalization in eval mode. Outputs have shape (N, C), or (..., C)
    where every position is treated alike.

    With `LocallyExact` the chain alone is collapsed, and every layer's parameters see their own activation's
    derivative: two thirds of Backprop's matrix products.

    Args:
        model: The model; not converted.
        rule: `Linear()`, or `LocallyExact` with either chain.
        check: Verify at every step, not only the first, that what lies between activations is affine. Slow.

    Raises:
        CollapseError: A module's backward pass depends on the sample: here, or at the first call where only
            running the model can tell. Named are the module, the reason and what to do.
        LinearBackpropError: Another rule.
    """
    require_rule(rule)
    if not isinstance(rule, Linear | LocallyExact):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LinearBackpropError(f"collapse takes Linear() or LocallyExact(...), got {rule!r}; use convert for others")
    return Collapsed(model, rule, check)


class Collapsed(nn.Module):
    """What `collapse` returns; see there."""

    def __init__(self, model: nn.Module, rule: Linear | LocallyExact, check: bool) -> None:
        super().__init__()
        if is_converted(model):
            raise CollapseError("the model is converted, and collapse puts its own rule on it; remove() that first")
        refuse_what_is_not_affine(model)
        # The very same dictionaries: what either of the two changes, both have.
        self.model: nn.Module
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self.__dict__["model"] = model
        self.rule = rule
        self.check = check
        self._costs: Costs | None = None
        self.pending: list[_Aggregates] | None = None
        self._said = False

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
            refuse_what_is_not_affine(self.model)
            self._costs = verify(self.model, inputs)
        if isinstance(self.rule, LocallyExact):
            return run_locally(self.model, self.rule, inputs)
        if not self._costs.collapse_pays(inputs[0].shape[0]) and self.pending is None:
            return self._ordinary(inputs)
        recorder = Recorder()
        with torch.no_grad(), recorder:
            y = self.model(*inputs)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        step = _Step(self, [x.detach() for x in inputs], recorder, parameters, [p._version for p in parameters])
        return _Collapse.apply(step, y, *inputs, *parameters)

    @contextmanager
    def accumulate(self) -> Generator[None]:
        """Feed a batch in micro-batches: one backward pass of C samples at the end, exact for the whole.

        ::

            with fast.accumulate():
                for x, y in micro_batches:
                    (loss_fn(fast(x), y) * len(x) / whole).backward()
            optimizer.step()

        Inside, `backward()` only adds to the aggregates, of fixed size, and nothing of a micro-batch is kept;
        the gradients are added to `.grad` when the block ends without an exception. The parameters must not
        change inside. The input's own gradient is not to be had this way.

        Raises:
            LinearBackpropError: The block is inside another, or no backward pass ran inside.
        """
        if isinstance(self.rule, LocallyExact):
            raise LinearBackpropError(
                "under LocallyExact every micro-batch makes its own gradients; call backward() without accumulate()"
            )
        if self.pending is not None:
            raise LinearBackpropError("accumulate() is already open; one block takes any number of micro-batches")
        self.pending = []
        try:
            yield
            if not self.pending:
                raise LinearBackpropError("no backward pass ran inside accumulate(); call loss.backward() in it")
            outputs, cotangents, _ = self.replay(self.pending[0])
            torch.autograd.backward(outputs, cotangents)
        finally:
            self.pending = None

    def replay(self, total: _Aggregates) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the model on the C + 1 combinations: outputs, the cotangents for them, and the inputs."""
        combinations = total.combinations()
        inputs = [z.requires_grad_() for z in combinations[: total.inputs]]
        with torch.enable_grad(), Emitter(combinations[total.inputs :]):
            outputs = self.model(*inputs)
        return outputs, total.cotangents().view_as(outputs).to(outputs.dtype), inputs

    def _ordinary(self, inputs: tuple[Tensor, ...]) -> Tensor:
        if not self._said:
            self._said = True
            warnings.warn(
                f"{inputs[0].shape[0]} samples are too few for {self._costs and self._costs.outputs} outputs: the "
                f"ordinary Linear backward pass is cheaper and is run, with the same gradients",
                stacklevel=3,
            )
        with RuleMode(Linear()):
            return self.model(*inputs)


@dataclass(frozen=True)
class _Step:
    """One forward pass, kept until its backward pass."""

    collapsed: Collapsed
    inputs: list[Tensor]
    recorder: Recorder
    parameters: list[nn.Parameter]
    versions: list[int]

    def aggregate(self, g: Tensor) -> _Aggregates:
        """The aggregates of this pass, given the outputs' cotangent."""
        if [p._version for p in self.parameters] != self.versions:
            raise RuntimeError(
                "a parameter was modified by an inplace operation between the forward and the backward pass, "
                "and the collapsed backward pass needs the parameters of the forward pass; step the optimizer later"
            )
        return _Aggregates.of(g, self.inputs, self.recorder.activations())


class _Collapse(torch.autograd.Function):
    """Outputs forward; backward, the gradients of inputs and parameters from the aggregates."""

    @staticmethod
    def forward(ctx: Any, step: _Step, y: Tensor, *leaves: Tensor) -> Tensor:
        ctx.step = step
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        step: _Step = ctx.step
        total = step.aggregate(g)
        if (pending := step.collapsed.pending) is not None:
            pending[:] = [pending[0] + total] if pending else [total]
            return (None,) * len(ctx.needs_input_grad)
        outputs, cotangents, inputs = step.collapsed.replay(total)
        found = torch.autograd.grad(outputs, [*inputs, *step.parameters], cotangents, allow_unused=True)
        of_inputs = [
            total.spread(row, g).view_as(x) if wanted else None
            for row, x, wanted in zip(found, step.inputs, ctx.needs_input_grad[2:], strict=False)
        ]
        return None, None, *of_inputs, *found[len(step.inputs) :]


@dataclass(frozen=True)
class _Aggregates:
    """Sums over samples, of fixed size.

    Attributes:
        sums: For every z, the inputs first: <z>_1 ... <z>_C and the plain sum, shape (C + 1, *features), in
            float32 at least.
        ones: <1>_c, shape (C,).
        scale: s_c, shape (C,).
        count: N.
        inputs: How many inputs the model has.
    """

    sums: list[Tensor]
    ones: Tensor
    scale: Tensor
    count: int
    inputs: int

    @staticmethod
    def of(g: Tensor, inputs: list[Tensor], activations: list[Tensor]) -> _Aggregates:
        """The aggregates of one batch, given g of shape (*samples, C) and z of shape (*samples, *features)."""
        leading = g.dim() - 1
        g = g.reshape(-1, g.shape[-1]).to(torch.promote_types(g.dtype, torch.float32))
        scale = g.abs().sum(0)
        # Weights of size one, so that the products stay in range in half precision; scaled back in full.
        weights = torch.cat([g / _nonzero(scale), torch.full_like(g[:, :1], 1 / len(g))], dim=1).T
        back = torch.cat([scale, torch.full_like(scale[:1], len(g))])
        products = [mix(weights, z, leading) for z in (*inputs, *activations)]
        sums = [p.to(torch.promote_types(p.dtype, torch.float32)) * _column(back, p) for p in products]
        return _Aggregates(sums, g.sum(0), scale, len(g), len(inputs))

    def __add__(self, other: _Aggregates) -> _Aggregates:
        sums = [ours + theirs for ours, theirs in zip(self.sums, other.sums, strict=True)]
        return _Aggregates(
            sums, self.ones + other.ones, self.scale + other.scale, self.count + other.count, self.inputs
        )

    def combinations(self) -> list[Tensor]:
        """For every z, z~_1 ... z~_C and m: shape (C + 1, *features)."""
        return [self._combine(z) for z in self.sums]

    def _combine(self, z: Tensor) -> Tensor:
        mean = z[-1:] / self.count
        centred = z[:-1] - _column(self.ones, z) * mean
        return torch.cat([mean + centred / _column(_nonzero(self.scale), z), mean])

    def cotangents(self) -> Tensor:
        """What the C + 1 outputs receive: s_c e_c each, and sum_c (<1>_c - s_c) e_c for the mean."""
        return torch.cat([self.scale.diag(), (self.ones - self.scale)[None]])

    def spread(self, rows: Tensor, g: Tensor) -> Tensor:
        """Each sample's own cotangent, sum_c g_{n,c} P_c, from the rows s_c P_c of the combinations."""
        weights = g.reshape(-1, g.shape[-1]) / _nonzero(self.scale).to(g.dtype)
        return weights @ rows[:-1].flatten(1).to(g.dtype)


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1, scale)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))
