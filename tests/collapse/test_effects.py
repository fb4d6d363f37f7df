"""What a forward pass does besides its result: random numbers drawn, running statistics that count no version."""

import copy
from collections.abc import Callable

import pytest
import torch
from collapse.nets import Net, assert_refused, batch
from collapse.random_models import Reversed
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


class Normalized(nn.Module):
    """Two layers and batch normalization, and a body that reads them."""

    def __init__(self, body: "Callable[[Normalized, Tensor], Tensor]") -> None:
        super().__init__()
        self.a, self.o, self.norm = nn.Linear(6, 6), nn.Linear(6, 3), nn.BatchNorm1d(6)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def left_out(s: Normalized, x: Tensor) -> Tensor:
    s.norm(s.a(x))
    return s.o(torch.tanh(s.a(x)))


def dropped(s: Normalized, x: Tensor) -> Tensor:
    F.dropout(s.a.weight)
    F.dropout(s.a(x))
    return s.o(torch.tanh(s.a(x)))


def read_first(s: Normalized, x: Tensor) -> Tensor:
    return s.o(torch.tanh(s.norm(s.a(x * s.norm.get_buffer("running_var")))))


def bounded(s: Normalized, x: Tensor) -> Tensor:
    variance = s.norm.get_buffer("running_var")
    y = s.o(torch.tanh(s.a(x) - variance))
    variance.mul_(0.9).clamp_(min=0.5)
    return y


def mean_size(s: Normalized, x: Tensor) -> Tensor:
    h = s.a(x)
    s.norm.get_buffer("running_mean").copy_(h.detach().abs().mean(0).clamp(min=0.1))
    return s.o(torch.tanh(h))


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear(), lb.LocallyExact()])
@pytest.mark.parametrize(
    ("body", "layers"),
    [
        (left_out, ()),
        (dropped, ()),
        (bounded, ()),
        (mean_size, ()),
        (read_first, lb.LINEAR_LAYERS),
        (left_out, lb.LINEAR_LAYERS),
    ],
)
def test_effects_are_the_models(
    body: Callable[[Normalized, Tensor], Tensor],
    layers: tuple[lb.LayerRule, ...],
    rule: lb.Linear | lb.MeanLinear | lb.LocallyExact,
    always: bool,
):
    model = Normalized(body)
    twin = copy.deepcopy(model)
    lb.convert(twin, rule, layers=layers)

    def effects(run: nn.Module, of: Normalized) -> list[Tensor | None]:
        torch.manual_seed(0)
        for n in (20, 7):
            run(batch(n)).square().mean().backward()
        return [torch.get_rng_state(), *of.buffers(), *(p.grad for p in of.parameters())]

    found = effects(lb.collapse(model, rule, layers=layers, always=always), model)
    for each, expected in zip(found, effects(twin, twin), strict=True):
        torch.testing.assert_close(each, expected)


def test_statistics_read_after_they_change_are_refused():
    model = Normalized(lambda s, x: s.o(torch.tanh(s.norm(s.a(x)) * s.norm.get_buffer("running_var"))))
    with pytest.raises(lb.CollapseError, match="overwrites what"):
        lb.collapse(model, layers=lb.LINEAR_LAYERS, always=True)(batch())


def scaled_input(s: Normalized, x: Tensor) -> Tensor:
    x.mul_(s.o.weight[0])
    return s.o(torch.tanh(s.a(x)))


@pytest.mark.parametrize("requires_grad", [True, False])
def test_an_input_that_is_overwritten_has_no_gradient_from_outside(requires_grad: bool):
    """The write is outside autograd."""
    fast = lb.collapse(Normalized(scaled_input), always=True)
    source = batch().requires_grad_(requires_grad)
    fast(1 * source).sum().backward()
    x = 1 * source
    loss = fast(x).sum() + x.sum()
    with pytest.raises(lb.CollapseError, match=r"overwrote its input.*Give the model a clone"):
        loss.backward()
    x = 1 * source
    (fast(x.clone()).sum() + x.sum()).backward()


@pytest.mark.parametrize(
    "write",
    [
        lambda z, h: z[:, 1:].copy_(h[:, :-1]),
        lambda z, h: z.add_(h),
        lambda z, h: z.view(-1, 2, 4)[:, 0].copy_(h[:, :4]),
        lambda z, h: z.__setitem__((slice(None), slice(2)), h[:, :2]),
    ],
)
def test_functions_of_what_is_written_into_keep_their_backward_pass(write: Callable[[Tensor, Tensor], object]):
    def body(s: Net, x: Tensor) -> Tensor:
        h = torch.tanh(s.a(x))
        z = torch.zeros_like(h) + 0
        write(z, h)
        return s.o(torch.relu(z + Reversed.apply(z)))

    assert_refused(body, "its backward pass is not that of an affine map|cannot be captured|cannot be collapsed")
