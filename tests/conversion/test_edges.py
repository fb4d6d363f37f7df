"""Code of a converted model that runs in steps, or whose `forward` is no plain function; kernels' own keywords."""

import asyncio

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb


def straight_through(run) -> bool:
    """Whether tanh at 3 passes a cotangent unchanged."""
    x = torch.full((4,), 3.0, requires_grad=True)
    run(x).sum().backward()
    return torch.equal(x.grad, torch.ones(4))


class Waiting(nn.Module):
    async def encode(self, x: Tensor, elsewhere: asyncio.Event | None = None) -> Tensor:
        if elsewhere is not None:
            elsewhere.set()
            await asyncio.sleep(0)
        return torch.tanh(x)

    async def stream(self, x: Tensor):
        yield torch.tanh(x)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def test_a_coroutine_follows_the_rule():
    model = Waiting()
    with lb.convert(model):
        assert straight_through(lambda x: asyncio.run(model.encode(x)))
    assert not straight_through(lambda x: asyncio.run(model.encode(x)))


def test_while_a_coroutine_waits_others_are_not_under_its_rule():
    model = Waiting()

    async def both(x: Tensor) -> tuple[Tensor, Tensor]:
        waits = asyncio.Event()
        task = asyncio.create_task(model.encode(x, waits))
        await waits.wait()
        return torch.tanh(x), await task

    with lb.convert(model):
        assert not straight_through(lambda x: asyncio.run(both(x))[0])
        assert straight_through(lambda x: asyncio.run(both(x))[1])


def test_a_decorated_coroutine_follows_the_rule_and_hands_errors_on():
    @lb.backward_rule()
    async def run(x: Tensor, fails: bool = False) -> Tensor:
        try:
            await asyncio.sleep(0)
            if fails:
                raise ValueError("its own")
        finally:
            x = torch.tanh(x)
        return x

    assert straight_through(lambda x: asyncio.run(run(x)))
    with pytest.raises(ValueError, match="its own"):
        asyncio.run(run(torch.ones(2), fails=True))


def test_an_asynchronous_generator_is_refused():
    model = Waiting()
    with lb.convert(model), pytest.raises(lb.ConversionError, match="asynchronous generator"):
        model.stream(torch.ones(2))


class Static(nn.Module):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x)


class OfClass(nn.Module):
    @classmethod
    def forward(cls, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Builtin(nn.Module):
    forward = torch.tanh


@pytest.mark.parametrize("make", [Static, OfClass, Builtin])
def test_forward_may_be_no_plain_function(make: type[nn.Module]):
    model = make()
    with lb.convert(model):
        assert straight_through(model)


def test_a_traced_model_is_converted():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Tanh()))
    with lb.convert(model):
        assert straight_through(model)


@pytest.mark.parametrize("kernel", [torch.ops.aten.tanh, torch.ops.aten.tanh.default])
def test_kernels_take_their_input_as_self(kernel):
    with lb.backward_rule():
        assert straight_through(lambda x: kernel(self=x))


def test_grad_enabled_within_inference_mode():
    class Force(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                x = x.clone().requires_grad_()
                return torch.autograd.grad(torch.tanh(x).sum(), x)[0]

    model = Force()
    with lb.convert(model), torch.inference_mode():
        assert torch.equal(model(torch.full((4,), 3.0)), torch.ones(4))


class Sharp(torch.Tensor):
    """A subclass whose softmax is another one."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.softmax:
            args = (args[0].as_subclass(torch.Tensor) * 2, *args[1:])
            return torch.softmax(*args, **(kwargs or {})).as_subclass(cls)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("function", [lambda x: torch.softmax(x, 0), torch.exp, lambda x: torch.layer_norm(x, (4,))])
def test_what_is_left_alone_is_left_to_the_class_of_the_tensor(function):
    x = torch.randn(4).as_subclass(Sharp)
    expected = function(x)
    with lb.backward_rule(), lb.backward_rule(lb.Clipped()):
        found = function(x)
    assert type(found) is Sharp
    assert torch.equal(found.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))


def test_nested_tensors_follow_the_rule():
    parts = [torch.full((2, 3), 3.0), torch.full((4, 3), 3.0)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)
    with lb.backward_rule():
        y = torch.tanh(x)
    y.values().sum().backward()
    assert torch.equal(x.grad.values(), torch.ones(6, 3))


@pytest.mark.parametrize("make", [nn.LazyBatchNorm1d, nn.LazyInstanceNorm1d])
def test_a_lazy_layer_is_classified_by_what_it_becomes(make: type[nn.Module]):
    model, x = nn.Sequential(make(), nn.Flatten(), nn.LazyLinear(4), nn.ReLU()), torch.randn(8, 4, 3).requires_grad_()
    lazily = lb.convert(model, layers=lb.LINEAR_LAYERS)
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    assert {(site.path, site.rule) for site in lazily.changed} == {("0", lb.ConstantStatistics()), ("3", lb.Linear())}
    lazily.remove()
    with lb.convert(model, layers=lb.LINEAR_LAYERS):
        assert torch.equal(gradient, torch.autograd.grad(model(x).square().sum(), x)[0])


NUMBERS = {
    "elu": lambda x, number: F.elu(x, number),
    "celu": lambda x, number: F.celu(x, alpha=number),
    "leaky_relu": lambda x, number: F.leaky_relu(x, number),
    "hardtanh": lambda x, number: F.hardtanh(x, -1.0, number),
    "softplus": lambda x, number: F.softplus(x, beta=number),
}


@pytest.mark.parametrize("function", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("rule", [lb.Linear(), lb.Ratio()])
def test_a_tensor_in_the_place_of_a_number_is_one(function, rule: lb.BackwardRule):
    x = torch.linspace(-2, 2, 5)

    @lb.backward_rule(rule)
    def loss(x: Tensor, number: float | Tensor) -> Tensor:
        return function(x, number).sum()

    expected = torch.func.grad(loss)(x, 0.5)
    leaf = x.clone().requires_grad_()
    assert torch.equal(torch.func.grad(loss)(x, torch.tensor(0.5)), expected)
    assert torch.equal(torch.autograd.grad(loss(leaf, torch.tensor(0.5)), leaf)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("name", ["min", "max"])
def test_bounds_of_any_dtype_broadcast(dtype: torch.dtype, name: str):
    x = torch.randn(3, requires_grad=True)
    with lb.backward_rule():
        h = torch.clamp(x, **{name: torch.zeros(2, 3, dtype=dtype)})
    assert torch.autograd.grad(h.sum(), x)[0].tolist() == [2, 2, 2]
