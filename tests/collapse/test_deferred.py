"""Affine layers below an activation are not computed on the combined samples, unless somebody reads their values."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import linear_backprop as lb
from linear_backprop._call import Call
from linear_backprop._collapse.deferred import Deferral

CASES = [
    (F.linear, (5, 3), (4, 3), {}),
    (F.linear, (2, 5, 3), (4, 3), {}),
    (torch.conv1d, (2, 4, 9), (6, 2, 3), {"groups": 2, "stride": 2, "padding": 1}),
    (torch.conv2d, (2, 3, 8, 7), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    (torch.conv2d, (2, 3, 8, 8), (4, 3, 3, 3), {"padding": "same"}),
    (torch.conv3d, (2, 2, 4, 5, 6), (3, 2, 2, 2, 2), {"stride": 2}),
]


@pytest.mark.parametrize(("function", "shape", "weight_shape", "keywords"), CASES)
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_and_values_are_the_layer_s(function, shape, weight_shape, keywords, biased: bool):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(weight_shape, dtype=torch.float64)
    bias = torch.randn(weight_shape[0], dtype=torch.float64) if biased else None
    leaves = [z.requires_grad_() for z in (x, weight, bias) if z is not None]
    expected = function(x, weight, bias, **keywords)
    deferral = Deferral(of_parameters=True)
    got: Tensor = deferral.run(Call(function, (x, weight, bias), keywords))
    assert got.shape == expected.shape
    g = torch.randn_like(expected)
    # The same kernels, or the same sums in another order.
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, g), torch.autograd.grad(expected, leaves, g), rtol=1e-12, atol=1e-12
    )
    deferral.settle(Call(torch.add, (got,), {}))
    assert torch.equal(got, expected)


def test_parameters_get_no_gradient_where_none_is_wanted():
    x, weight = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    y = Deferral(of_parameters=False).run(Call(F.linear, (x, weight), {}))
    of_x, of_weight = torch.autograd.grad(y.sum(), [x, weight], allow_unused=True)
    assert of_x is not None and of_weight is None


class Products(TorchDispatchMode):
    """Counts the operations of matrix products: 2 for every multiplication and addition."""

    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.operations += 2 * result.numel() * args[-1].shape[0]
        return result


def test_the_combined_samples_cost_their_backward_pass_alone():
    """F N forward, 2 (C + 1) A N for the aggregates, and 2 F (C + 1), less the input's cotangent."""
    samples, width, classes = 64, 32, 4
    model = nn.Sequential(
        nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )
    x, target = torch.randn(samples, width), torch.randint(classes, (samples,))
    fast = lb.collapse(model)
    fast(x)
    with Products() as products:
        F.cross_entropy(fast(x), target).backward()
    forward = 2 * (2 * width * width + width * classes)
    rows, emitted = classes + 1, 3 * width
    expected = forward * samples + 2 * rows * emitted * samples + 2 * forward * rows - 2 * width * width * rows
    assert products.operations == expected


class Reads(nn.Module):
    """The pre-activations are read by others, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        h = torch.tanh(a)
        b = self.second(h)
        F.relu_(b)  # its result is b itself
        return self.head(b + 0.5 * a)


def test_what_is_read_is_computed():
    torch.manual_seed(0)
    model = Reads().double()
    x = torch.randn(40, 3, dtype=torch.float64)
    with lb.convert(model):
        expected = torch.autograd.grad(model(x).square().sum(), model.parameters())
    got = torch.autograd.grad(lb.collapse(model, check=True)(x).square().sum(), model.parameters())
    # float64 sums in another order.
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_whether_it_collapses():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    fast = lb.collapse(model)
    with pytest.raises(lb.LinearBackpropError, match="only once it has run on a batch"):
        fast.collapses(100)
    fast(torch.randn(4000, 3))
    assert fast.collapses(4000) and not fast.collapses(2)
    assert lb.collapse(nn.Sequential(nn.Linear(3, 2)), always=True)(torch.randn(2, 3)).shape == (2, 2)
