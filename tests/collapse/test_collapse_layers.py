"""Collapse with rules for layers equals `convert` with the same: max pooling, batch normalization, dropout."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

N, C = 60, 3
# float64 sums in another order.
RTOL = 1e-10


class Drawn(nn.Module):
    """A network on 12x12 images of 4 channels, of layers as hypothesis draws them."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.layer(kind) for kind in kinds)
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in kinds)
        self.head = nn.Linear(4, C)

    @staticmethod
    def layer(kind: str) -> nn.Module:
        return {
            "max": lambda: nn.MaxPool2d(2, ceil_mode=True),
            "overlapping max": lambda: nn.MaxPool2d(3, stride=1, padding=1),
            "dilated max": lambda: nn.MaxPool2d(2, stride=1, dilation=2, padding=1),
            "adaptive max": lambda: nn.AdaptiveMaxPool2d((3, 2)),
            "norm": lambda: nn.BatchNorm2d(4),
            "plain norm": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
            "dropout": lambda: nn.Dropout(0.4),
            "dropout in place": lambda: nn.Dropout(0.4, inplace=True),
            "channel dropout": lambda: nn.Dropout2d(0.4),
        }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        for layer, convolution in zip(self.layers, self.convolutions, strict=True):
            x = torch.tanh(layer(convolution(x)) + 0.1)
        return self.head(x.mean((2, 3)))


KINDS = st.lists(
    st.sampled_from(
        [
            *("max", "overlapping max", "dilated max", "adaptive max", "norm", "plain norm"),
            *("dropout", "dropout in place", "channel dropout"),
        ]
    ),
    min_size=1,
    max_size=3,
)


def gradients(model: nn.Module, run, x: Tensor, target: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    y = run(x)
    return [y.detach(), *torch.autograd.grad(F.cross_entropy(y, target), [x, *model.parameters()])]


@settings(max_examples=30, deadline=None)
@given(kinds=KINDS, seed=st.integers(0, 100), rule=st.sampled_from([lb.Linear(), lb.MeanLinear()]))
def test_any_layers(kinds: list[str], seed: int, rule: lb.BackwardRule):
    torch.manual_seed(seed)
    model = Drawn(kinds).double()
    x, target = torch.randn(N, 4, 12, 12, dtype=torch.float64), torch.randint(C, (N,))
    twin = copy.deepcopy(model)
    lb.convert(twin, rule, layers=lb.LINEAR_LAYERS)
    expected = gradients(twin, twin, x, target)
    fast = lb.collapse(model, rule, layers=lb.LINEAR_LAYERS, always=True)
    got = gradients(model, fast, x, target)
    assert torch.equal(got[0], expected[0])
    scale = max(g.abs().max().item() for g in expected[1:])
    torch.testing.assert_close(got, expected, rtol=RTOL, atol=RTOL * scale)
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()), rtol=0, atol=0)


@pytest.mark.parametrize("chain", [lb.Linear(), lb.MeanLinear()], ids=repr)
def test_locally_exact_with_layers(chain: lb.BackwardRule):
    """Collapsed, and by `convert`, which sends the batch itself down the chain."""
    torch.manual_seed(0)
    model = Drawn(["norm", "max", "dropout"]).double()
    x, target = torch.randn(N, 4, 12, 12, dtype=torch.float64), torch.randint(C, (N,))
    twin = copy.deepcopy(model)
    lb.convert(twin, lb.LocallyExact(chain), layers=lb.LINEAR_LAYERS)
    expected = gradients(twin, twin, x, target)
    got = gradients(model, lb.collapse(model, lb.LocallyExact(chain), layers=lb.LINEAR_LAYERS), x, target)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got, expected, rtol=RTOL, atol=1e-14)


def test_one_rule_governs_its_own_layers_alone():
    model = Drawn(["max", "norm"])
    with pytest.raises(lb.CollapseError, match=r"BatchNorm2d at 'layers.1' cannot be collapsed"):
        lb.collapse(model, layers=[lb.AveragedMaximum()], always=True)(torch.randn(N, 4, 12, 12))
    lb.collapse(model.eval(), layers=[lb.AveragedMaximum()], always=True)(torch.randn(N, 4, 12, 12))


def test_micro_batches():
    torch.manual_seed(0)
    x, target = torch.randn(N, 4, 12, 12, dtype=torch.float64), torch.randint(C, (N,))
    model = Drawn(["max", "norm"]).double().eval()
    twin = copy.deepcopy(model)
    lb.convert(twin, layers=lb.LINEAR_LAYERS)
    expected = torch.autograd.grad(F.cross_entropy(twin(x), target), twin.parameters())
    fast = lb.collapse(model, layers=lb.LINEAR_LAYERS)
    with fast.accumulate():
        for part, labels in zip(x.split(20), target.split(20), strict=True):
            (F.cross_entropy(fast(part), labels, reduction="sum") / N).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], list(expected), rtol=RTOL, atol=1e-13)
    fast.train()
    with pytest.raises(lb.LinearBackpropError, match="its own statistics under ConstantStatistics"), fast.accumulate():
        fast(x).sum().backward()


def test_indices_are_refused():
    class Unpooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, C)

        def forward(self, x: Tensor) -> Tensor:
            h, _ = F.max_pool2d(self.convolution(x), 2, return_indices=True)
            return self.head(h.mean((2, 3)))

    with pytest.raises(lb.CollapseError, match="returns indices"):
        lb.collapse(Unpooled(), layers=lb.LINEAR_LAYERS)(torch.randn(N, 4, 12, 12))
