"""Attribution on transformers, in their own forms of activations, and what its warnings say of them."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop.attribution import Deconvolution, DeepLift, GuidedBackprop


def told(run) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return " ".join(str(each.message) for each in caught)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "quick_gelu", "gelu_python", "laplace", "relu2", "linear"])
@pytest.mark.parametrize(("method", "rule"), [(GuidedBackprop, lb.Guided()), (Deconvolution, lb.Deconvolution())])
def test_activations_of_transformers_follow_as_under_a_conversion(name: str, method, rule):
    activations = pytest.importorskip("transformers.activations")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), activations.ACT2FN[name], nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    model = model.double().eval()
    before = [sorted(vars(module)) for module in model.modules()]
    x = torch.randn(6, 4, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attributions = method(model).attribute(x, target=1)
        _, delta = DeepLift(model).attribute(x, target=1, return_convergence_delta=True)
    leaf = x.clone().requires_grad_()
    with lb.convert(model, rule):
        (expected,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    assert torch.equal(attributions, expected)
    assert delta.abs().max() < 1e-8
    assert before == [sorted(vars(module)) for module in model.modules()]


def test_threads_explain_one_transformer_at_once():
    activations = pytest.importorskip("transformers.activations")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), activations.ACT2FN["gelu_new"], nn.Linear(8, 2)).eval()
    x = torch.randn(6, 4)
    expected = GuidedBackprop(model).attribute(x, target=1)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: GuidedBackprop(model).attribute(x, target=1), range(200)))
    assert all(torch.equal(each, expected) for each in results)


class Gated(nn.Module):
    """A product of activations, whose sums are off, far from 0."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset
        self.below, self.above = nn.Linear(8, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.below(x)
        return self.above(h * torch.sigmoid(h) * h) * 100 + self.offset


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_wrong_sums_are_told_of_however_large_the_output(offset: float):
    torch.manual_seed(0)
    model, x = Gated(offset).eval(), torch.randn(4, 8)
    with pytest.warns(UserWarning, match="sums are off"):
        attributions, delta = DeepLift(model).attribute(x, return_convergence_delta=True)
    assert delta.abs().max() > 0.1 * attributions.sum(1).abs().max()


def test_one_large_sample_does_not_hide_the_others():
    torch.manual_seed(0)
    x = torch.cat([torch.full((1, 8), 1e4), torch.randn(3, 8)])
    explainer = DeepLift(LargeIsAffine(0.0).eval())
    assert "sums are off" in told(lambda: explainer.attribute(x))


class LargeIsAffine(Gated):
    """Affine for a sample that is large, a product for the others."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 100, 1e5 * x.sum(1, keepdim=True), super().forward(x))


class Encoder(nn.Module):
    """PyTorch's own transformer, of padded sequences."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padded).mean(1))


def test_delta_of_a_padded_transformer_is_that_of_what_is_differentiated():
    torch.manual_seed(0)
    model, x = Encoder().double().eval(), torch.randn(3, 6, 16, dtype=torch.float64)
    padded = torch.arange(6)[None] >= torch.tensor([3, 4, 6])[:, None]
    with pytest.warns(UserWarning, match=r"sums are off by .*multi_head_attention_forward.*layer_norm"):
        attributions, delta = DeepLift(model).attribute(
            x, target=0, additional_forward_args=padded, return_convergence_delta=True
        )
    difference = model(x, padded)[:, 0] - model(torch.zeros_like(x), padded)[:, 0]
    assert torch.allclose(delta, attributions.sum((1, 2)) - difference, atol=1e-12, rtol=0)


class ReluInArithmetic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a * (a > 0)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return g * (ctx.saved_tensors[0] > 0)


class Calling(nn.Module):
    """A linear layer and a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.below, self.function = nn.Linear(4, 3), function

    def forward(self, x: Tensor, *arguments: Tensor) -> Tensor:
        return self.function(self.below(x), *arguments)


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvolution])
def test_a_function_of_ones_own_is_named_whatever_it_computes_with(method):
    model = Calling(lambda a: F.relu(ReluInArithmetic.apply(a))).eval()
    assert "ReluInArithmetic (a torch.autograd.Function" in told(lambda: method(model).attribute(torch.randn(2, 4), 1))


def tables(a: Tensor) -> Tensor:
    with torch.no_grad():
        positions = torch.arange(3.0).cos().softmax(0)
    return F.relu(a) + positions


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvolution])
def test_tables_that_nothing_is_differentiated_through_are_not_named(method):
    assert told(lambda: method(Calling(tables).eval()).attribute(torch.randn(2, 4), 1)) == ""


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvolution])
@pytest.mark.parametrize("order", [(tables, lambda a: a.softmax(1)), (lambda a: a.softmax(1), tables)])
def test_but_the_same_function_is_where_something_is(method, order):
    model = Calling(lambda a: order[1](order[0](a))).eval()
    assert "softmax" in told(lambda: method(model).attribute(torch.randn(2, 4), 1))


@pytest.mark.parametrize("method", [DeepLift, GuidedBackprop, Deconvolution])
def test_further_arguments_may_be_made_in_inference_mode(method):
    model = Calling(lambda a, scale: F.relu(a * scale)).eval()
    x, scale = torch.randn(2, 4), torch.rand(3)
    expected = method(model).attribute(x, target=1, additional_forward_args=scale)
    with torch.inference_mode():
        there = method(model).attribute(x.clone(), target=1, additional_forward_args=scale.clone())
    assert torch.equal(there, expected)


def test_a_baseline_that_is_the_input_tells_nothing_of_the_batch():
    model, x = Calling(lambda a: F.relu(a - a.mean(0))).eval(), torch.randn(4, 4)
    explainer = DeepLift(model)
    assert told(lambda: explainer.attribute(x, baselines=x.clone(), target=1)) == ""
    assert "depends on the rest of the batch" in told(lambda: explainer.attribute(x, target=1))
