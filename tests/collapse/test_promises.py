"""Single sentences of the page on the collapsed pass that no other test holds."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

N, CLASSES = 40, 3


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, CLASSES)).double()


def gradients(model: nn.Module, *x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(*x).square().mean(), list(model.parameters())))


def assert_as_converted(model: nn.Module, *x: Tensor) -> None:
    found = gradients(lb.collapse(model, always=True), *x)
    with lb.convert(model):
        expected = gradients(model, *x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)  # rounding, in float64


def test_every_weight_s_gradient_has_a_rank_of_c_at_most():
    model, x = net(), torch.randn(N, 6, dtype=torch.float64)
    ranks = [int(torch.linalg.matrix_rank(g)) for g in gradients(lb.collapse(model, always=True), x) if g.dim() == 2]
    assert ranks == [CLASSES] * 3
    assert int(torch.linalg.matrix_rank(gradients(model, x)[2])) > CLASSES  # Backprop's, of 12 x 12


def test_a_batch_of_one_sample():
    assert_as_converted(net(), torch.randn(1, 6, dtype=torch.float64))


class Bounded(nn.Module):
    """An activation with a tensor of its own between two layers, at every position alike."""

    def __init__(self, shape: tuple[int, ...], call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.own, self.call = nn.Parameter(torch.linspace(-1, 0.5, math.prod(shape)).view(shape)), call

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.call(self.below(x), self.own))


@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear(), lb.LocallyExact()], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda z, own: torch.clamp(z, max=own),
        lambda z, own: torch.clamp_(z * 1, min=own),
        lambda z, own: torch.clamp(torch.relu(z), min=own - own.detach()),  # ties
        lambda z, own: torch.clamp(z, own - 1, own),
    ],
)
@pytest.mark.parametrize("shape", [(8,), (5, 1), (1,), (5, 8)])
@pytest.mark.parametrize("positions", [True, False])
def test_tensors_of_an_activation_s_own_get_their_gradients(rule: lb.BackwardRule, call, shape, positions: bool):
    def loss(y: Tensor) -> Tensor:
        return y.square().sum() if positions else y.mean(1).square().sum()

    model = Bounded(shape, call).double()
    twin = copy.deepcopy(model)
    lb.convert(twin, rule)
    x = torch.randn(N, 5, 6, dtype=torch.float64)
    for run in (lb.collapse(model, rule, always=True), twin):
        loss(run(x)).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(N, 5, 6), (N, 5, 2, 6)])
def test_slopes_of_positions_get_their_gradients(shape: tuple[int, ...]):
    model = nn.Sequential(nn.Linear(6, 8), nn.PReLU(5), nn.Linear(8, CLASSES)).double()
    assert_as_converted(model, torch.randn(shape, dtype=torch.float64))


class Spread(nn.Module):
    """A bound with more dimensions than what it bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.register_buffer("bound", torch.linspace(-1, 1, 5)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        z = self.below(torch.cat([x, x.flip(1)]))
        return self.above(torch.clamp(z, min=self.bound).mean(0))


def test_a_bound_may_make_more_of_every_sample():
    assert_as_converted(Spread().double(), torch.randn(N, 6, dtype=torch.float64))


class Two(nn.Module):
    def __init__(self, combine):
        super().__init__()
        self.combine, self.below, self.above = combine, nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.above(self.combine(torch.tanh(self.below(x)), y))


def test_every_argument_as_long_as_the_batch_is_samples():
    x, y = torch.randn(N, 6, dtype=torch.float64), torch.randn(N, 8, dtype=torch.float64)
    assert_as_converted(Two(torch.add).double(), x, y)
    with pytest.raises(lb.CollapseError, match="mul at 'the model' cannot be collapsed: it is not affine"):
        lb.collapse(Two(torch.mul).double())(x, y)
    assert_as_converted(Two(torch.mul).double(), x, y[0])  # a constant, the same for every sample


def test_the_order_of_keywords_does_not_matter():
    fast, x, y = lb.collapse(Two(torch.mul).double(), always=True), torch.randn(N, 6).double(), torch.randn(8).double()
    for given in ({"x": x, "y": y}, {"y": y, "x": x}):
        fast(**given).sum().backward()


@dataclass
class Pair:
    x: Tensor
    y: Tensor


class Named(OrderedDict[str, Tensor]):
    """As the outputs of `transformers` are."""

    x, y = property(lambda self: self["x"]), property(lambda self: self["y"])


@pytest.mark.parametrize("pair", [Pair, lambda x, y: Named(x=x, y=y)], ids=["dataclass", "mapping"])
@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()], ids=repr)
def test_arguments_may_be_in_dataclasses_and_mappings(pair: Callable[[Tensor, Tensor], Any], rule: lb.BackwardRule):
    class OfPair(Two):
        def forward(self, both: Any) -> Tensor:
            return super().forward(both.x, both.y)

    x, y = torch.randn(N, 6, dtype=torch.float64), torch.randn(N, 8, dtype=torch.float64, requires_grad=True)
    model, plain = OfPair(torch.add).double(), Two(torch.add).double()
    plain.load_state_dict(model.state_dict())
    with lb.convert(plain, rule):
        expected = torch.autograd.grad(plain(x, y).square().mean(), [y, *plain.parameters()])
    fast = lb.collapse(model, rule, always=True)
    found = torch.autograd.grad(fast(pair(x, y)).square().mean(), [y, *model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_nothing_is_captured_without_grad():
    fast = lb.collapse(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, CLASSES)))
    with torch.no_grad():
        assert fast(torch.randn(N, 6)).shape == (N, CLASSES)
    assert "captured at the first call" in str(fast)
    with pytest.raises(lb.CollapseError, match="LayerNorm at '1'"):
        fast(torch.randn(N, 6))
    assert all(parameter.grad is None for parameter in fast.parameters())


class Enabling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.net(x)


def test_gradients_that_a_model_enables_by_itself_are_refused():
    fast, x = lb.collapse(Enabling(), always=True), torch.randn(N, 6, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(lb.CollapseError, match="enables gradients inside"):
        fast(x)
    assert fast(x).requires_grad


def test_the_proof_leaves_the_random_number_generator_as_it_was():
    model, x = net(), torch.randn(N, 6, dtype=torch.float64)
    before = torch.get_rng_state()
    lb.collapse(model, always=True)(x).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return 2 * g


def printed(h: Tensor) -> Tensor:
    print("here")
    return h


def watched(h: Tensor) -> Tensor:
    h.retain_grad()
    return h


@pytest.mark.parametrize(
    "between",
    [
        printed,
        watched,
        lambda h: h if h.sum() > 0 else -h,
        lambda h: h.reshape(N, 2, 4).flatten(1),
        Twice.apply,
        lambda h: torch.func.vmap(torch.neg)(h),
    ],
    ids=["print", "retain_grad", "a branch on values", "a fixed batch size", "autograd.Function", "torch.func"],
)
def test_what_dynamo_cannot_follow_is_refused_at_its_line(between):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.above = nn.Linear(6, 8), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.above(torch.relu(between(self.below(x))))

    with pytest.raises(lb.CollapseError, match=r"test_promises\.py:\d+"):
        lb.collapse(Model())(torch.randn(N, 6))


def test_statistics_of_each_worker_are_refused():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
        fast = lb.collapse(model, layers=lb.LINEAR_LAYERS, process_group=dist.group.WORLD)
        with pytest.raises(lb.CollapseError, match="process_group"):
            F.cross_entropy(fast(torch.randn(N, 6)), torch.randint(CLASSES, (N,))).backward()
    finally:
        dist.destroy_process_group()
