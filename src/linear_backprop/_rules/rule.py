"""The three kinds of backward rule.

A layer is a = W h_below + b, h = f(a): `a` is the pre-activation, `h` the activation, `g` the cotangent that h
receives. A backward rule says what cotangent goes on to a. The forward pass never depends on it.

- `BackwardRule`: for elementwise activations, one at a time.
- `LayerRule`: for layers that are not elementwise. It names an affine map of a, the same for every sample, and the
  layer's backward pass becomes that map's: the paper's "all the non-linear components are cancelled and only linear
  gradients persist".
- `ModelRule`: for whole models, which it runs.

Rules are values: frozen dataclasses that compare, hash, pickle and print as they are built.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._call import Call
from .._errors import LinearBackpropError, described, function_name, require_number
from .._torch.functions import Function

Elementwise = Callable[[Tensor], Tensor]
"""A function of a tensor to one of the same shape, element by element: what a rule gets as f."""

Arguments = dict[str, Any]


class BackwardRule(abc.ABC):
    """The cotangent that goes to the pre-activation a when the activation h = f(a) receives g.

    To write one's own, subclass as a frozen dataclass and give `cotangent`. It then works wherever the library's own
    do, `rule_from_name("scaled")` included.

    Attributes:
        formula: The cotangent of a, for tables.
        source: The paper it is from.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Scaled(lb.BackwardRule):
        ...     formula = "factor g"
        ...     source = "an example"
        ...     factor: float = 0.5
        ...
        ...     def cotangent(self, g, a, f):
        ...         return self.factor * g
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> lb.with_rule(torch.relu, Scaled())(x).sum().backward()
        >>> x.grad
        tensor([0.5000, 0.5000])
    """

    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @abc.abstractmethod
    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """The cotangent of a.

        Written in differentiable PyTorch operations, it can be differentiated again, transformed by
        `torch.func` and compiled. It must be linear in g for forward-mode differentiation to agree
        with reverse mode.

        Args:
            g: The cotangent of h, any shape.
            a: The pre-activation, the shape of g.
            f: The activation: maps a tensor to one of the same shape, is deterministic and has no
                side effect.

        Returns:
            A tensor of the shape of g.
        """

    @property
    def uses_pre_activation(self) -> bool:
        """True if `cotangent` reads a or f; where not, it gets None for both and nothing is kept for it."""
        return True

    @property
    def takes_complex(self) -> bool:
        """True if a and g may be complex; where not, a complex pre-activation is refused in the forward pass."""
        return True


class ModelRule(BackwardRule):
    """A rule that needs to see the whole model, because no activation can follow it by itself.

    It is one for `convert` and `collapse`, and not for `with_rule` or `backward_rule`.
    """

    @abc.abstractmethod
    def bind(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        layers: Sequence[LayerRule],
        observe: Callable[[str, Function], None],
    ) -> Callable[..., Any]:
        """A model's forward pass with the rule's backward pass.

        Args:
            model: The model.
            forward: Runs it.
            layers: The rules of layers.
            observe: To be told of the functions that the model's modules call, with the modules' paths.
        """

    def cotangent(self, g: Tensor, a: Tensor, f: Elementwise) -> Tensor:
        """Refused: see above.

        Raises:
            LinearBackpropError: Always.
        """
        raise LinearBackpropError(f"{self!r} needs to see the whole model: use lb.convert or lb.collapse")


class LayerRule(abc.ABC):
    """An affine map whose backward pass a layer has in place of its own.

    To write one's own, subclass as a frozen dataclass, say which functions and modules it governs, and give the map.
    Its letters: a is what the layer gets, h what it makes of it, g the cotangent of h.

    Attributes:
        formula: The map, or its backward pass, for tables.
        source: The paper it is from.
        modules: The modules of `torch.nn` that it governs.
        modules_by_sample: Further ones, in which its map differs by sample, as `collapse` cannot have it.
        arguments: The functions that it governs, each with its arguments' names in order and their defaults (None for
            one that must be given). The first is the layer's input; `inplace` says whether it is overwritten, and
            is there for a function that always does it, too. More that the rule wants to know may follow.
        reproduces_forward: True if the map's values are the layer's own, up to rounding.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class StraightThroughSoftmax(lb.LayerRule):
        ...     formula = "g"
        ...     source = "an example"
        ...     modules = (nn.Softmax,)
        ...     arguments = {F.softmax: {"input": None, "dim": None}}
        ...
        ...     def linear_map(self, call, constants):
        ...         return call.input
        >>> x = torch.zeros(1, 2, requires_grad=True)
        >>> with lb.backward_rule(layers=[StraightThroughSoftmax()]):
        ...     F.softmax(x, dim=-1)[0, 0].backward()
        >>> x.grad
        tensor([[1., 0.]])
    """

    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    modules_by_sample: ClassVar[tuple[type[nn.Module], ...]] = ()
    arguments: ClassVar[dict[Function, Arguments]] = {}
    reproduces_forward: ClassVar[bool] = False

    @property
    def functions(self) -> frozenset[Function]:
        """Every callable that the rule governs; modules are reached through the function that they call."""
        return frozenset(self.arguments)

    def governs_module(self, module: nn.Module) -> bool:
        """True if the rule governs a module."""
        return isinstance(module, (*self.modules, *self.modules_by_sample))

    def governs(self, function: Function) -> bool:
        """True if the rule governs a function."""
        return function in self.arguments

    def bound(self, call: Call) -> Arguments:
        """Every argument of a call by its name in `arguments`."""
        return call.arguments(self.arguments[call.function])

    def overwrites_input(self, call: Call) -> bool:
        """True if the call overwrites its input."""
        return bool(self.bound(call).get("inplace", False))

    def applies(self, call: Call) -> bool:
        """True if this very call is to be changed; a call that is affine as it is has no need."""
        return True

    def constants(self, call: Call) -> tuple[Tensor, ...]:
        """The map's own tensors, taken from the batch and detached; none where it is the same for every batch."""
        return ()

    @abc.abstractmethod
    def linear_map(self, call: Call, constants: tuple[Tensor, ...]) -> Tensor:
        """The map, of the call's input, in differentiable PyTorch operations.

        Args:
            call: Of one of `functions`.
            constants: From `constants`.

        Returns:
            A tensor of the shape of h (of the values, where indices are returned beside them).
        """

    def transpose(self, call: Call) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The map's backward pass alone, where it needs no values of the map; None where it does.

        Returns:
            A function of g and of a tensor like a, whose values it does not read, to the cotangent of a. It runs in
            plain code only, neither compiled nor transformed.
        """
        return None

    def run(self, call: Call) -> tuple[Any, tuple[Tensor, ...]]:
        """The call's own result, without a graph, and its constants; to override where one kernel gives both."""
        constants = self.constants(call)
        with torch.no_grad():
            return call(), constants


def require_rule(rule: object) -> None:
    """Refuse what is not a rule, a class given in place of its instance above all."""
    if isinstance(rule, BackwardRule):
        return
    if inspect.isclass(rule) and issubclass(rule, BackwardRule):
        raise LinearBackpropError(f"{rule.__name__} is a class; a rule is an instance: {rule.__name__}()")
    raise LinearBackpropError(f"expected a backward rule such as Linear(), got {described(rule)}")


def refuse_model_rule(rule: BackwardRule, where: str) -> None:
    """Refuse a rule that a function or a block of code cannot follow."""
    if isinstance(rule, ModelRule):
        raise LinearBackpropError(
            f"{where} cannot follow {rule!r}, which needs to see the whole model: use lb.convert or lb.collapse"
        )


def keep_numbers(rule: object, *names: str) -> None:
    """Have a frozen rule's settings of these names be plain floats, refusing what is no number."""
    for name in names:
        object.__setattr__(rule, name, require_number(getattr(rule, name), f"{type(rule).__name__}'s {name}"))


def require_elementwise(f: Callable[..., Any], a: Tensor, h: object, taker: str = "a backward rule") -> None:
    """Refuse a function that no rule can govern, by what it made of a.

    Args:
        f: The function.
        a: What it was given.
        h: What it made of it.
        taker: What takes the function.

    Raises:
        LinearBackpropError: h is no tensor, of another shape than a, or of a dtype that cannot be differentiated.
    """
    if not isinstance(h, Tensor):
        raise LinearBackpropError(
            f"{taker} needs a function that returns one tensor; {function_name(f)} returned a {type(h).__name__}: "
            f"wrap the part of it that is the activation"
        )
    if h.shape != a.shape:
        raise LinearBackpropError(
            f"{taker} needs a function that keeps its input's shape; "
            f"{function_name(f)} made {tuple(h.shape)} of {tuple(a.shape)}"
        )
    if not (h.is_floating_point() or h.is_complex()):
        raise LinearBackpropError(
            f"{taker} needs a function whose result can be differentiated; {function_name(f)} returned {h.dtype}: "
            f"have it return `.to(x.dtype)`"
        )


def require_complex(rule: BackwardRule, dtype: torch.dtype) -> None:
    """Refuse a rule that a complex pre-activation cannot follow."""
    if not rule.takes_complex:
        raise LinearBackpropError(
            f"{rule!r} takes no complex numbers, got a pre-activation of {dtype}; give a rule that does, such as "
            f"Linear(), or run the activation on real and imaginary parts"
        )
