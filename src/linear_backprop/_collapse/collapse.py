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
`plan` makes the graphs of a step of it, `step` runs them; `runner` is where they meet, and `engine` has one for each
graph that the model was captured as.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch.distributed as dist
from torch import nn

from .._conversion.where import Where
from .._errors import CollapseError, LinearBackpropError, require_module
from .._rules.elementwise import Linear
from .._rules.layers import require_layers
from .._rules.rule import LayerRule, require_rule
from .._torch.modules import is_compiled
from .engine import CollapsibleRule, Engine, Settings, refuse_converted
from .runner import Options
from .sharing import Sharing
from .table import table_of


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
    options = Options(process_group, always=always, check=check, compiled=compile or is_compiled(model))
    return Collapsed(model, Settings(rule, where, require_layers(layers), options))


class Collapsed(Sharing):
    """What `collapse` returns; see there."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__()
        refuse_converted(model)
        if any(isinstance(module, Collapsed) for module in model.modules()):
            raise CollapseError("the model is collapsed, or a part of it is: collapse it once, as a whole")
        self._share(model)
        self._settings = settings
        self._engine = Engine(model, settings)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._engine = Engine(self.uncollapsed, self._settings)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own output.

        Raises:
            CollapseError: Something that the model does cannot be collapsed; see `collapse`.
        """
        return self._engine.run(*args, **kwargs)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of the model's parameters.

        Raises:
            LinearBackpropError: Inside `accumulate()`, after a backward pass: its gradients come when the block ends.
        """
        self._engine.require_nothing_taken()
        super().zero_grad(set_to_none)

    def collapses(self, samples: int) -> bool:
        """Whether a batch of so many samples is collapsed, or takes the ordinary backward pass; after a first call.

        Raises:
            LinearBackpropError: There was no call yet.
        """
        return self._engine.collapses(samples)

    def __str__(self) -> str:
        """What the graph of the latest call consists of, what a step costs, and which path it takes."""
        if (runner := self._engine.runner) is None:
            rule = self._settings.rule
            return f"collapsed under {rule!r}: the model is captured at the first call; print it again after that"
        return table_of(runner)

    def accumulate(self) -> AbstractContextManager[None]:
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
        return self._engine.accumulate()
