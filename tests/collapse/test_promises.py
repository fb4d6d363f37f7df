"""Single sentences of the page on the collapsed pass that no other test holds."""

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
    def __init__(self):
        super().__init__()
        self.below, self.bound, self.above = nn.Linear(6, 8), nn.Parameter(torch.rand(8)), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(torch.clamp(self.below(x), max=self.bound))


def test_a_learned_bound_of_a_clamp_gets_its_gradient():
    assert_as_converted(Bounded().double(), torch.randn(N, 6, dtype=torch.float64))


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
