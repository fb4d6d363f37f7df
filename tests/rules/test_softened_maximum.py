"""Max pooling with a softmax's backward pass, window by window in NumPy."""

from typing import Any

import layer_references as references
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

RULE = lb.SoftenedMaximum()
SETTINGS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "dilation": 6},  # some windows lie outside the input altogether
    {"output_size": 3},
    {"output_size": 1},
]


def pooling(dims: int, setting: dict[str, Any], **more: Any):
    name = f"{'adaptive_' if 'output_size' in setting else ''}max_pool{dims}d"
    return lambda x: getattr(F, name)(x, **setting, **more)


def ruled(function, x: Tensor, rule: lb.LayerRule = RULE) -> tuple[Tensor, Tensor, Tensor]:
    with lb.backward_rule(lb.Exact(), layers=[rule]):
        leaf = x.clone().requires_grad_()
        h = function(leaf)
    values = h[0] if isinstance(h, tuple) else h
    g = torch.linspace(-1, 2, values.numel()).to(values.dtype).view_as(values)
    return torch.autograd.grad(values, leaf, g)[0], g, values


def windows_of(length: int, setting: dict[str, Any]) -> list[list[int]]:
    if "output_size" in setting:
        return references.adaptive_windows(length, setting["output_size"])
    full = {"stride": setting["kernel_size"], "padding": 0, "dilation": 1, "ceil_mode": False, **setting}
    return references.pooling_windows(
        length, full["kernel_size"], full["stride"], full["padding"], full["dilation"], full["ceil_mode"]
    )


def shared_out(x: np.ndarray, g: np.ndarray, windows: list[list[list[int]]], temperature: float) -> np.ndarray:
    """The cotangent of one channel of one sample."""
    cotangent = np.zeros_like(x)
    for box, each in zip(references.boxes(windows), g.ravel(), strict=True):
        powers = [np.exp(temperature * (x[p] - max(x[q] for q in box))) for p in box]
        for p, power in zip(box, powers, strict=True):
            cotangent[p] += each * power / sum(powers)
    return cotangent


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("temperature", [10.0, 0.3])
def test_g_is_shared_out_by_a_softmax_over_each_window(dims: int, setting: dict[str, Any], temperature: float):
    x = torch.randn(2, 2, *(6, 7, 5)[:dims], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    function = pooling(dims, setting)
    got, g, h = ruled(function, x, lb.SoftenedMaximum(temperature))
    assert torch.equal(h, function(x))
    windows = [windows_of(length, setting) for length in x.shape[2:]]
    for sample in range(2):
        for channel in range(2):
            expected = shared_out(x[sample, channel].numpy(), g[sample, channel].numpy(), windows, temperature)
            np.testing.assert_allclose(got[sample, channel].numpy(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kernel", [(2, 3), (3, 1)])
def test_windows_of_other_sizes_along_each_dimension(kernel: tuple[int, int]):
    x = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    got, g, _ = ruled(lambda z: F.max_pool2d(z, kernel, (1, 2), (0, kernel[1] // 2)), x)
    windows = [
        references.pooling_windows(6, kernel[0], 1, 0, 1, False),
        references.pooling_windows(7, kernel[1], 2, kernel[1] // 2, 1, False),
    ]
    np.testing.assert_allclose(got[0, 0], shared_out(x[0, 0].numpy(), g[0, 0].numpy(), windows, 10.0), rtol=1e-10)


def test_adaptive_sizes_that_are_none_are_the_input_s():
    x = torch.randn(2, 3, 5, 6)
    got, _, _ = ruled(lambda z: F.adaptive_max_pool2d(z, (None, 2)), x)
    expected, _, _ = ruled(lambda z: F.max_pool2d(z, (1, 3)), x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("function", RULE.arguments, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_every_function_returns_what_it_returned(function):
    given = RULE.arguments[function]
    x = torch.randn(4, 2, *(6, 5, 5)[: given["dims"]], requires_grad=True)
    arguments = (3,) if "output_size" in given else (3, 2)
    with lb.backward_rule(layers=[RULE]):
        got = function(x, *arguments)
    expected = function(x, *arguments)
    assert type(got) is type(expected)
    for a, b in zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]:
        assert torch.equal(a, b) and a.dtype == b.dtype


@pytest.mark.parametrize(
    "module", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2)]
)
def test_modules_follow_it_where_they_are_converted(module: nn.Module):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected, _, _ = ruled(module, x)
    with lb.convert(module, layers=[RULE]):
        h = module(leaf := x.clone().requires_grad_())
    values = h[0] if isinstance(h, tuple) else h
    g = torch.linspace(-1, 2, values.numel()).double().view_as(values)
    torch.testing.assert_close(torch.autograd.grad(values, leaf, g)[0], expected)


def test_an_unbatched_input():
    x = torch.randn(3, 8, 8)
    assert torch.equal(ruled(lambda z: F.max_pool2d(z, 2), x)[0], ruled(lambda z: F.max_pool2d(z, 2), x[None])[0][0])


def test_ties_infinities_and_nan():
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([1.0, 1.0, inf, 0.0, inf, inf, -inf, 0.0, -inf, -inf, nan, 0.0], dtype=torch.float64)
    got, g, _ = ruled(lambda z: F.max_pool1d(z, 2), x[None, None])
    shares = torch.tensor([0.5, 0.5, 1, 0, 0.5, 0.5, 0, 1, 0.5, 0.5, nan, nan], dtype=torch.float64)
    torch.testing.assert_close(got[0, 0], shares * g[0, 0].repeat_interleave(2), equal_nan=True)
    padded, _, _ = ruled(lambda z: F.max_pool1d(z, 2, padding=1), torch.tensor([[[inf, 0.0, -inf]]]))
    assert padded[0, 0].tolist() == [-1.0, 2.0, 0.0]


def test_large_values_and_temperatures_do_not_overflow():
    x = torch.tensor([[[1e30, -1e30, 3e4, 2.9e4]]])
    for temperature in (1e30, torch.inf):
        got, g, _ = ruled(lambda z: F.max_pool1d(z, 2), x, lb.SoftenedMaximum(temperature))
        assert got[0, 0].tolist() == [g[0, 0, 0], 0, g[0, 0, 1], 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype):
    x = torch.randn(2, 3, 8, 8).to(dtype)
    got, _, h = ruled(lambda z: F.max_pool2d(z, 3, 2), x)
    expected, _, _ = ruled(lambda z: F.max_pool2d(z, 3, 2), x.double())
    assert got.dtype == h.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=0.03, atol=0.03)  # 8 bits, four windows at most


def test_it_compiles_and_differentiates_again():
    torch.compiler.reset()
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)

    def block(x: Tensor) -> Tensor:
        with lb.backward_rule(layers=[RULE]):
            return F.max_pool2d(x, 3, 2)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(ruled(compiled, x)[0], ruled(block, x)[0], rtol=1e-12, atol=1e-14)
    g = torch.ones(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    (once,) = torch.autograd.grad(block(leaf := x.requires_grad_()), leaf, g, create_graph=True)
    (of_g,) = torch.autograd.grad(once.sum(), g)
    torch.testing.assert_close(of_g, torch.ones_like(g))  # the shares of a window sum to 1


def test_it_is_a_value_and_collapse_refuses_it():
    assert eval(repr(RULE), vars(lb)) == RULE == lb.SoftenedMaximum(10.0) != lb.SoftenedMaximum(1.0)
    assert RULE.formula and RULE.source
    for temperature in (0.0, -1.0, torch.nan):
        with pytest.raises(lb.LinearBackpropError, match="SoftenedMaximum's temperature must be above 0"):
            lb.SoftenedMaximum(temperature)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.MaxPool1d(2))
    with pytest.raises(lb.CollapseError, match="MaxPool1d at '2' cannot be collapsed"):
        lb.collapse(model, layers=[RULE], always=True)(torch.randn(9, 1, 8)).sum().backward()
