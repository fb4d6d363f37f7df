"""A rule put on a block of code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .._call import Call
from .._catalogue.activations import ARITHMETIC, FORMS, UNCATALOGUED
from .._catalogue.not_elementwise import FUNCTIONS, left_alone
from .._rules.elementwise import Linear
from .._rules.layers import LAYER_FUNCTIONS, require_layers, rule_for
from .._rules.rule import BackwardRule, LayerRule, refuse_model_rule, require_rule
from .._torch.dynamo import let_enter, run_as_written, tell_modes_when_compiled, with_effects_outside
from .._torch.fast_paths import keep_fast_paths
from .._torch.functions import CALLED_BACK, Function, is_custom_operator
from .._torch.modes import TorchFunctionMode, function_modes, without
from .._torch.overrides import answer, deciding
from .coroutines import under_whenever_it_runs
from .run_call import is_differentiable, run_activation, run_layer

Observer = Callable[[Function], None]
P = ParamSpec("P")
T = TypeVar("T")

tell_modes_when_compiled({*FORMS, *LAYER_FUNCTIONS, *UNCATALOGUED, *FUNCTIONS})


class RuleMode(TorchFunctionMode):
    """A block in which whatever is called follows the rules; the innermost block decides.

    Args:
        rule: The backward rule of every catalogued activation.
        layers: The rules of layers.
        observe: Told of every function called whose backward pass is decided here.
        withheld: Further rules of layers that are not to govern here. The library's own, and those of the blocks
            further out, never do unless they are among `layers`.
        notices_arithmetic: True if `observe` is told of arithmetic, too.
    """

    def __init__(
        self,
        rule: BackwardRule,
        layers: tuple[LayerRule, ...] = (),
        observe: Observer | None = None,
        withheld: tuple[LayerRule, ...] = (),
        notices_arithmetic: bool = False,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.layers = layers
        self.observe = observe
        self.withheld = withheld
        self.notices_arithmetic = notices_arithmetic

    @run_as_written
    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, under its rule if it has one."""
        layer, compiling = rule_for(func, self.layers), torch.compiler.is_compiling()
        if layer is None and func not in FORMS and not self._keeps(func):
            if self.notices_arithmetic and not compiling and func in ARITHMETIC and self.observe is not None:
                self.observe(func)
            if func in CALLED_BACK:
                return self._call_with_callback(Call(func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))
        call = Call(func, args, kwargs or {})
        asked = any(kind is not Tensor for kind in types) and not compiling
        classes = deciding(tree_leaves((args, kwargs))) if asked else ()
        if self.observe is not None and (func not in FORMS or classes or is_differentiable(call.input)):
            if compiling:
                with_effects_outside(self.observe, func)
            else:
                self.observe(func)
        if classes:
            with self:  # they are given the function that was called, and what they call for it is seen here
                return answer(classes, func, call.args, call.kwargs)
        if layer is None and func in FORMS:
            return run_activation(call, self.rule)
        if layer is None and not compiling and not all(isinstance(mode, RuleMode) for mode in function_modes()):
            with without(RuleMode):
                return call()
        return run_layer(call, layer)  # unseen, too, by the modes further out

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function, run in the block whenever it is called; a generator or coroutine is in it whenever it runs."""
        return under_whenever_it_runs(function, lambda: self)

    def _call_with_callback(self, call: Call) -> Any:
        """A call that calls a function it is given, that one in the block, too, which PyTorch has left by then."""
        name = CALLED_BACK[call.function]
        if name in call.kwargs:
            return call.function(*call.args, **{**call.kwargs, name: self._around(call.kwargs[name])})
        return call.function(*map(self._around, call.args[:1]), *call.args[1:], **call.kwargs)

    def _around(self, function: Function | None) -> Function | None:
        if function is None:
            return None

        def run(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                let_enter(self)
            with self:
                return function(*args, **kwargs)

        return run

    def _keeps(self, func: Function) -> bool:
        """True if `func` keeps its own backward pass here, whatever rules lie further out."""
        if func in UNCATALOGUED or func in LAYER_FUNCTIONS or rule_for(func, self.withheld) is not None:
            return True
        for mode in function_modes():  # further out; written out, as in `rule_for`
            if isinstance(mode, RuleMode) and mode.layers and rule_for(func, mode.layers) is not None:
                return True
        if not torch.compiler.is_compiling() and is_custom_operator(func):
            return True
        return left_alone(FUNCTIONS.get(func), bool(self.layers or self.withheld)) is not None


keep_fast_paths(RuleMode)


def backward_rule(rule: BackwardRule = Linear(), layers: Iterable[LayerRule] = ()) -> RuleMode:  # noqa: B008
    """A context in which every elementwise activation follows the rule, whoever wrote the code.

    The forward pass is the one that counts: the backward pass may run outside the block. What `torch.utils.checkpoint`
    runs again in the backward pass, in either of its forms, follows the blocks that were around it the first time.
    That holds for compiled code, too; only a block that is begun inside a checkpointed function breaks the graph.
    A block belongs to the thread that enters it, as `torch.no_grad` does: a thread started inside it enters its own.

    It decorates functions, too: `@lb.backward_rule()`.

    Contexts nest, the innermost deciding, and `backward_rule(Exact())` is Backprop again. Module, functional,
    tensor-method and in-place forms are all seen; activations written out in arithmetic
    (`x * (x > 0)`), TorchScript and fused recurrent kernels are not.

    Args:
        rule: The backward rule of activations.
        layers: The rules of layers that are not elementwise, such as `LINEAR_LAYERS`; none by default.

    Raises:
        LinearBackpropError: `rule` is not a rule or is for whole models, or `layers` holds something else than
            layers' rules.

    Examples:
        >>> x = torch.tensor([-3.0, 3.0], requires_grad=True)
        >>> with lb.backward_rule(lb.Linear()):
        ...     loss = x.relu().sum()
        >>> loss.backward()
        >>> x.grad
        tensor([1., 1.])
    """
    require_rule(rule)
    refuse_model_rule(rule, "backward_rule")
    return RuleMode(rule, require_layers(layers))
