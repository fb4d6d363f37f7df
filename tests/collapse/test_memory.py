"""Tensors that share memory, and the order in which samples lie in it."""

from collections.abc import Callable

import pytest
import torch
from collapse.nets import Net, assert_right, batch, pair
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.view(len(x) * 2, 3).tanh().view(len(x), 6),
        lambda x: x.view(-1, 3).tanh().reshape(-1, 6),
        lambda x: x.view(-1).tanh().view(-1, 6),
        lambda x: x.as_strided((len(x), 3), (6, 2)).repeat(1, 2),
        lambda x: torch.ops.aten._unsafe_view(x, [len(x), 2, 3]).flatten(1),
        lambda x: x.unfold(1, 3, 1).flatten(1)[:, :6],
    ],
)
def test_views_of_the_input_are_those_that_the_model_takes(view: Callable[[Tensor], Tensor]):
    assert_right(lambda s, x: s.o(torch.relu(s.b(torch.tanh(s.a(view(x)))))))


@pytest.mark.parametrize("first", [20, 2])
def test_inputs_keep_the_order_of_their_dimensions_in_memory(first: int):
    def body(s: Net, x: Tensor) -> Tensor:  # (N, time, features) of which time lies first
        steps = x.transpose(0, 1).view(-1, 6)
        return s.o(torch.relu(s.a(steps)).view(4, len(x), 8).mean(0))

    def step(run: nn.Module, model: Net) -> None:
        for n in (first, 20):
            run(torch.randn(4, n, 6).transpose(0, 1)).square().mean().backward()

    assert_right(body, step)


def test_an_overwritten_argument_that_is_a_view_of_another_is_refused():
    class TwoArguments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, v: Tensor) -> Tensor:
            h = torch.relu(self.a(torch.cat([v, v], 1)))
            x.add_(1)
            return self.o(h)

    x = batch()
    with pytest.raises(lb.CollapseError, match="shares its memory with another"):
        lb.collapse(TwoArguments(), always=True)(x, x[:, :3])
    lb.collapse(TwoArguments(), always=True)(batch(), batch()[:, :3]).sum().backward()


@pytest.mark.parametrize("register", [nn.Module.register_buffer, nn.Module.__setattr__])
def test_an_overwritten_buffer_that_has_views_is_refused(register: Callable[[nn.Module, str, Tensor], None]):
    def body(s: Net, x: Tensor) -> Tensor:
        h = torch.relu(s.a(x - s.mean))
        with torch.no_grad():
            s.statistics.lerp_(torch.ones(2, 6), 0.5)
        return s.o(h)

    model, _ = pair(body)
    register(model, "statistics", torch.rand(2, 6))
    register(model, "mean", model.statistics[0])
    with pytest.raises(lb.CollapseError, match="shares its memory with another"):
        lb.collapse(model, always=True)(batch())


def copied(s: Net, x: Tensor) -> Tensor:
    h = torch.tanh(s.a(x.unflatten(1, (2, 3)).repeat(1, 1, 2)).transpose(1, 2))
    y = h.contiguous()
    y += 1
    return s.o((s.b(y.transpose(1, 2)) + h.transpose(1, 2)).mean(1))


def viewed(s: Net, x: Tensor) -> Tensor:
    h = torch.tanh(s.a(x.unflatten(1, (2, 3)).repeat(1, 1, 2)).transpose(1, 2))
    h.transpose(1, 2).reshape(-1, 8).mul_(3)
    return s.o(h.mean(2))


def by_strides(s: Net, x: Tensor) -> Tensor:
    h = torch.tanh(s.a(x).unflatten(1, (2, 4)).transpose(1, 2))
    return s.o(h.as_strided((len(x), 8), (8, 1)))


def merged(s: Net, x: Tensor) -> Tensor:
    h = torch.relu(s.a(x.unflatten(1, (2, 3)).repeat(1, 1, 2)).transpose(1, 2))
    return s.o(h.transpose(1, 2).view(-1, 8)).view(len(h), -1)


def of_volumes(s: Net, x: Tensor) -> Tensor:
    h = torch.tanh(s.a(x)).view(-1, 2, 1, 2, 2).to(memory_format=torch.channels_last_3d)
    return s.o(torch.relu(h).permute(0, 2, 3, 4, 1).reshape(-1, 8))


@pytest.mark.parametrize("body", [copied, viewed, by_strides, merged, of_volumes], ids=lambda body: body.__name__)
@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear(), lb.LocallyExact()], ids=repr)
def test_what_activations_make_lies_in_memory_as_in_the_model(body: Callable[[Net, Tensor], Tensor], rule: lb.Linear):
    if body is viewed and isinstance(rule, lb.LocallyExact):
        return  # tanh's derivative is of what was overwritten
    model, twin = pair(body)
    lb.convert(twin, rule)
    for run in (lb.collapse(model, rule, always=True), twin):
        run(batch()).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("body", [copied, viewed, merged], ids=lambda body: body.__name__)
def test_so_it_does_where_the_graphs_are_compiled(body: Callable[[Net, Tensor], Tensor]):
    model, twin = pair(body)
    lb.convert(twin)
    for run in (lb.collapse(model, always=True, compile=True), twin):
        run(batch()).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def less_one(s: Net, x: Tensor) -> Tensor:
    z = x.contiguous()
    z -= 1
    return s.o(torch.tanh(s.a(z) + s.a(x)))


@pytest.mark.parametrize(
    "given",
    [
        lambda: torch.randn(20, 10)[:, 2:8],
        lambda: torch.randn(20, 12)[:, ::2],
        lambda: torch.randn(40, 6)[::2],
        lambda: torch.randn(1, 6).expand(20, 6),
        lambda: torch.randn(20, 1).expand(20, 6),
        lambda: torch.randn(6, 20).t(),
        lambda: torch.randn(20, 6),
    ],
)
def test_inputs_with_gaps_in_memory(given: Callable[[], Tensor]):
    def step(run: nn.Module, model: Net) -> None:
        for x in (torch.randn(20, 6), given()):
            run(x).square().mean().backward()

    assert_right(less_one, step)


def test_arguments_that_share_memory_at_a_later_call_are_refused():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            h = torch.tanh(self.a(y))
            x.mul_(3)
            return h + x[:, :3]

    fast, x = lb.collapse(Two(), always=True), batch()
    fast(x, batch()).sum().backward()
    with pytest.raises(lb.CollapseError, match="shares its memory with another"):
        fast(x, x.view(20, 6))
