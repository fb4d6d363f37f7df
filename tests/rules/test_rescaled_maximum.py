"""Max pooling under DeepLIFT, window by window in NumPy."""

from typing import Any

import layer_references as references
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

RULE = lb.RescaledMaximum()
# One setting for each number of dimensions: windows apart, overlapping, dilated beyond the edge, adaptive.
SETTINGS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2, "ceil_mode": True},
    {"output_size": 3},
]


def pooling(dims: int, setting: dict[str, Any]):
    name = f"{'adaptive_' if 'output_size' in setting else ''}max_pool{dims}d"
    return lambda x: getattr(F, name)(x, **setting)


def ruled(function, pairs: Tensor, rule: lb.LayerRule = RULE) -> tuple[Tensor, Tensor]:
    with lb.backward_rule(lb.Exact(), layers=[rule]):
        leaf = pairs.clone().requires_grad_()
        h = function(leaf)
    g = torch.linspace(-1, 2, h.numel(), dtype=h.dtype).view_as(h)
    return torch.autograd.grad(h, leaf, g)[0], g


def windows_of(length: int, setting: dict[str, Any]) -> list[list[int]]:
    if "output_size" in setting:
        return references.adaptive_windows(length, setting["output_size"])
    full = {"stride": setting["kernel_size"], "padding": 0, "dilation": 1, "ceil_mode": False, **setting}
    return references.pooling_windows(
        length, full["kernel_size"], full["stride"], full["padding"], full["dilation"], full["ceil_mode"]
    )


def multiplied(x: np.ndarray, x0: np.ndarray, g: np.ndarray, windows: list[list[list[int]]]) -> np.ndarray:
    """The cotangent of one channel of one input, window by window."""
    cotangent = np.zeros_like(x)
    for box, each in zip(references.boxes(windows), g.ravel(), strict=True):
        top, top0 = max(box, key=lambda p: x[p]), max(box, key=lambda p: x0[p])
        p = top if x[top] >= x0[top0] else top0
        cotangent[p] += each * (x[top] - x0[top0]) / (x[p] - x0[p])
    return cotangent


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_cotangent_is_the_reference_s_and_sums_to_the_difference(dims: int, setting: dict[str, Any]):
    pairs = torch.randn(4, 2, *(6, 5, 5)[:dims], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    function = pooling(dims, setting)
    got, g = ruled(function, pairs)
    windows = [windows_of(length, setting) for length in pairs.shape[2:]]
    for half in (0, 2):
        for sample in (0, 1):
            for channel in (0, 1):
                x, x0 = pairs[sample, channel].numpy(), pairs[sample + 2, channel].numpy()
                expected = multiplied(x, x0, g[sample + half, channel].numpy(), windows)
                np.testing.assert_allclose(got[sample + half, channel].numpy(), expected, rtol=1e-10, atol=1e-13)
    h = function(pairs)
    sent = (got[:2] * (pairs[:2] - pairs[2:])).sum()
    torch.testing.assert_close(sent, (g[:2] * (h[:2] - h[2:])).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [F.max_pool2d, torch.max_pool2d, nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_indices_are_the_function_s_own(form, dtype: torch.dtype):
    pairs, arguments = torch.randn(4, 2, 7, 7).to(dtype), () if isinstance(form, nn.Module) else (3, 2)
    with lb.backward_rule(layers=[RULE]):
        h = form(pairs.clone().requires_grad_(), *arguments)
        values, indices = F.max_pool2d(pairs.clone().requires_grad_(), 3, 2, return_indices=True)
    assert torch.equal(h, form(pairs, *arguments))
    assert torch.equal(indices, F.max_pool2d(pairs, 3, 2, return_indices=True)[1])
    assert h.dtype == values.dtype == dtype


@pytest.mark.parametrize("function", RULE.arguments, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_every_function_returns_what_it_returned(function):
    given = RULE.arguments[function]
    pairs = torch.randn(4, 2, *(6, 5, 5)[: given["dims"]], requires_grad=True)
    arguments = (3,) if "output_size" in given else (3, 2)
    with lb.backward_rule(layers=[RULE]):
        got = function(pairs, *arguments)
    expected = function(pairs, *arguments)
    assert type(got) is type(expected)
    for a, b in zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]:
        assert torch.equal(a, b) and a.dtype == b.dtype


def test_equal_pairs_ties_infinities_and_nan():
    x = torch.tensor([1.0, 1.0, -torch.inf, -torch.inf, torch.inf, 0.0, torch.nan, 0.0], dtype=torch.float64)
    got, _ = ruled(lambda z: F.max_pool1d(z, 2), torch.stack([x, x])[:, None])
    ones = torch.tensor([1.0, 0, 0, 0, 1, 0, 1, 0])  # PyTorch's own choice; a window of -inf alone sends nothing
    g = torch.linspace(-1, 2, 8).view(2, 1, 4).repeat_interleave(2, -1)
    torch.testing.assert_close(got.float(), ones * g)


def test_a_pair_closer_than_epsilon_keeps_its_own_maximum():
    x = torch.tensor([[[1.0, 1.0 + 1e-7]], [[1.0 + 1e-7, 1.0]]], dtype=torch.float64)
    got, g = ruled(lambda z: F.max_pool1d(z, 2), x)
    assert got.flatten().tolist() == [0.0, g[0].item(), g[1].item(), 0.0]


def test_a_batch_without_halves_is_refused():
    with lb.backward_rule(layers=[RULE]), pytest.raises(lb.LinearBackpropError, match="put the batch first"):
        F.max_pool1d(torch.randn(3, 1, 4, requires_grad=True), 2)


def test_it_compiles_and_differentiates_again():
    torch.compiler.reset()
    pairs = torch.randn(4, 2, 6, 6, dtype=torch.float64)

    def block(x: Tensor) -> Tensor:
        with lb.backward_rule(layers=[RULE]):
            return F.max_pool2d(x, 3, 2)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(ruled(compiled, pairs)[0], ruled(block, pairs)[0], rtol=1e-12, atol=1e-14)


def test_it_is_a_value():
    assert eval(repr(RULE), vars(lb)) == RULE != lb.RescaledMaximum(1e-3)
    assert RULE.formula and RULE.source
    with pytest.raises(lb.LinearBackpropError, match="RescaledMaximum's epsilon must be 0 or more"):
        lb.RescaledMaximum(-1.0)
