"""Classes that decide for themselves what PyTorch's functions return for them keep their say under a rule."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb


class Known(Tensor):
    """A subclass with functions of its own, by PyTorch's documented pattern."""

    table: ClassVar[dict[Callable[..., Any], Callable[..., Any]]] = {}

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in cls.table:
            return cls.table[func](*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})


class Strict(Known):
    """One that has no others."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return cls.table[func](*args, **(kwargs or {})) if func in cls.table else NotImplemented


class Wrapped:
    """No tensor at all."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func(*(each.tensor if isinstance(each, cls) else each for each in args), **(kwargs or {}))


class Labelled(Tensor):
    """A subclass with metadata."""


def ten_times(x: Tensor, inplace: bool = False) -> Tensor:
    return 10 * x.as_subclass(Tensor).relu()


Known.table = {F.relu: ten_times, torch.relu: ten_times}

IN_A_BLOCK = lb.backward_rule()(lambda function, x: function(x))


def converted(function: Callable[..., Any], x: Any) -> Any:
    class Model(nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x)

    with lb.convert(model := Model()):
        return model(x)


WAYS = {
    "with_rule": lambda function, x: lb.with_rule(function)(x),
    "block": IN_A_BLOCK,
    "blocks": lambda function, x: lb.backward_rule(lb.Clipped())(IN_A_BLOCK)(function, x),
    "converted": converted,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("function", [F.relu, torch.relu])
@pytest.mark.parametrize(
    ("make", "factor"), [(lambda x: x.as_subclass(Known), 10), (lambda x: x.as_subclass(Strict), 10), (Wrapped, 1)]
)
def test_a_class_keeps_its_own_activation_and_what_it_calls_follows_the_rule(way, function, make, factor: int):
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    h = way(function, make(x))
    assert torch.equal(h, factor * x.relu())
    assert torch.autograd.grad(h.sum(), x)[0].tolist() == [factor, factor]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", ["min", "max"])
def test_the_class_of_any_argument_decides(way, name: str):
    clamp = partial(torch.clamp, **{name: torch.ones(2).as_subclass(Labelled)})
    x = torch.tensor([0.0, 2.0], requires_grad=True)
    h = way(clamp, x)
    assert type(h) is Labelled
    assert torch.autograd.grad(h.as_subclass(Tensor).sum(), x)[0].tolist() == [1, 1]


LAYERS = [
    *(lambda x: F.batch_norm(x, None, None, training=True), lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3))),
    *(lambda x: F.layer_norm(x, (3,)), lambda x: F.max_pool1d(x, 2), lambda x: F.dropout(x, 0.5), F.dropout),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_under_a_rule_returns_the_class_of_its_input(layer):
    leaf = torch.randn(4, 3, requires_grad=True)
    with lb.backward_rule(layers=lb.LINEAR_LAYERS):
        torch.manual_seed(0)
        h = layer(leaf.as_subclass(Labelled))
        torch.manual_seed(0)
        plain = layer(leaf)
    assert type(h) is Labelled
    of_h, of_plain = (torch.autograd.grad(each.square().as_subclass(Tensor).sum(), leaf)[0] for each in (h, plain))
    assert torch.equal(of_h, of_plain)


def test_a_converted_model_is_traced_as_it_was():
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(torch.exp(x))

    with lb.convert(model := nn.Sequential(Model())):
        found = torch.fx.symbolic_trace(model)
    assert [node.target for node in found.graph.nodes if node.op == "call_function"] == [torch.exp, F.relu]
