"""Small models with a body of any kind, collapsed and converted beside each other."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb

Body = Callable[["Net", Tensor], Tensor]
Step = Callable[[nn.Module, "Net"], None]


class Net(nn.Module):
    """Three layers, a buffer and a counter, and a body that reads them."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("center", torch.ones(8))
        self.register_buffer("power", torch.tensor(1))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def batch(n: int = 20) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0))


def plain_step(run: nn.Module, model: Net) -> None:
    run(batch()).square().mean().backward()


def pair(body: Body) -> tuple[Net, Net]:
    torch.manual_seed(0)
    model = Net(body)
    return model, copy.deepcopy(model)


def found_and_expected(body: Body, step: Step) -> tuple[list[Tensor | None], list[Tensor | None]]:
    model, twin = pair(body)
    fast = lb.collapse(model, always=True)
    torch.manual_seed(1)
    step(fast, model)
    torch.manual_seed(1)
    with lb.convert(twin):
        step(twin, twin)
    return [p.grad for p in model.parameters()], [p.grad for p in twin.parameters()]


def assert_right(body: Body, step: Step = plain_step) -> None:
    for found, expected in zip(*found_and_expected(body, step), strict=True):
        if expected is None:
            assert found is None
        else:
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def assert_refused(body: Body, reason: str, step: Step = plain_step) -> None:
    model, _ = pair(body)
    with pytest.raises(lb.CollapseError, match=reason):
        step(lb.collapse(model, always=True), model)


def hidden(model: Net, x: Tensor) -> Tensor:
    return torch.tanh(model.a(x))
