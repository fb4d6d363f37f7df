"""A rule for whatever code runs in a with-block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode

from ._activations import FORMS, LEFT_ALONE, Function
from ._autograd import unseen_by_modes
from ._calls import call
from ._rules import BackwardRule, Linear, require_rule


class RuleMode(TorchFunctionMode):
    """Every catalogued activation called inside the block follows the rule; the innermost block decides.

    Args:
        rule: The backward rule.
        observe: Told of every activation called, and of every non-linearity that cannot follow a rule.
    """

    def __init__(self, rule: BackwardRule, observe: Callable[[Function], None] | None = None) -> None:
        super().__init__()
        self.rule = rule
        self.observe = observe

    def __torch_function__(
        self,
        func: Function,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func`, under the rule if it is an activation."""
        if func not in FORMS and func not in LEFT_ALONE:
            return func(*args, **(kwargs or {}))
        if self.observe is not None:
            self.observe(func)
        if func in FORMS:
            return call(func, self.rule, args, kwargs or {})
        with unseen_by_modes():  # lest a mode further out observes it, too
            return func(*args, **(kwargs or {}))


def backward_rule(rule: BackwardRule = Linear()) -> RuleMode:  # noqa: B008
    """A context in which every elementwise activation follows the rule, whoever wrote the code.

    ::

        with lb.backward_rule(lb.Linear()):
            loss = model(x).sum()
        loss.backward()

    What counts is the forward pass: the backward pass may run outside the block. Activation checkpointing
    runs the forward pass again where PyTorch shows no block to it, and raises `CheckpointError`; give it
    `context_fn=lambda: (contextlib.nullcontext(), lb.backward_rule(rule))`, or use `convert`.

    Contexts nest, the innermost deciding, and `backward_rule(Exact())` is Backprop again. Module, functional,
    tensor-method and in-place forms are all seen; activations written out in arithmetic
    (`x * (x > 0)`), TorchScript and fused recurrent kernels are not.

    Raises:
        LinearBackpropError: `rule` is not a rule.
    """
    require_rule(rule)
    return RuleMode(rule)
