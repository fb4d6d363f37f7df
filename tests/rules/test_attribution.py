"""The rules of attribution: cotangents of both signs, kinks, pairs that are equal, and zennit's own rules."""

import numpy as np
import pytest
import references
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

zennit = pytest.importorskip("zennit_rules", exc_type=ImportError).rules

A = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0, torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
SMOOTH = ["tanh", "gelu", "silu", "mish", "softplus", "sigmoid", "elu"]


def cotangent(rule: lb.BackwardRule, function, a: Tensor, g: Tensor) -> Tensor:
    leaf = a.clone().requires_grad_()
    return torch.autograd.grad(lb.with_rule(function, rule)(leaf), leaf, g)[0]


@pytest.mark.parametrize("function", [torch.relu, F.gelu, torch.tanh])
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0, torch.nan])
def test_guided_and_deconvolution_follow_the_signs(function, sign: float):
    g = torch.full_like(A, 2.0 * sign)
    kept = 2.0 if sign == 1 else 0.0
    assert cotangent(lb.Guided(), function, A, g).tolist() == [kept * (a > 0) for a in A.tolist()]
    assert cotangent(lb.Deconvolution(), function, A, g).tolist() == [kept] * len(A)


@pytest.mark.parametrize("name", SMOOTH)
def test_ratio_conserves_and_takes_the_derivative_at_zero(name: str):
    f, derivative = references.ACTIVATIONS[name]
    a = torch.tensor([-3.0, -1e-3, 0.0, 2.0], dtype=torch.float64)
    got = cotangent(lb.Ratio(), getattr(F, name), a, torch.ones_like(a)).numpy()
    np.testing.assert_allclose((got * a.numpy())[[0, 1, 3]], f(a.numpy())[[0, 1, 3]], rtol=1e-12)
    np.testing.assert_allclose(got[2], derivative(np.zeros(1))[0], rtol=1e-12)


def test_ratio_at_a_kink_infinities_and_nan():
    got = cotangent(lb.Ratio(), torch.relu, A, torch.ones_like(A))
    np.testing.assert_array_equal(got.numpy(), [0, 0, 0, 1, 1, np.nan, np.nan, 0])


@pytest.mark.parametrize("name", SMOOTH)
def test_rescale_of_a_pair_that_is_equal_or_closer_than_epsilon_is_the_derivative(name: str):
    inputs = torch.tensor([0.7, 0.7, 0.7, 0.7], dtype=torch.float64)
    baselines = inputs - torch.tensor([0.0, 0.9e-6, 1.1e-6, 1e-2], dtype=torch.float64)
    pairs = torch.cat([inputs, baselines])
    f, derivative = references.ACTIVATIONS[name]
    got = cotangent(lb.Rescale(), getattr(F, name), pairs, torch.ones_like(pairs)).view(2, 4).numpy()
    np.testing.assert_allclose(got[:, :2], derivative(pairs.view(2, 4).numpy())[:, :2], rtol=1e-12)
    # Two roundings of size 1 over a distance of 1.1e-6.
    np.testing.assert_allclose(got[:, 2:].ravel(), references.secant(f)(pairs[[2, 3, 6, 7]].numpy()), rtol=1e-8)


def test_rescale_across_a_kink_on_it_and_where_no_difference_is():
    inputs = torch.tensor([2.0, 0.0, torch.inf, torch.nan, -torch.inf], dtype=torch.float64)
    baselines = torch.tensor([-1.0, 0.0, torch.inf, 1.0, 3.0], dtype=torch.float64)
    got = cotangent(lb.Rescale(), torch.relu, torch.cat([inputs, baselines]), torch.ones(10, dtype=torch.float64))
    exact = torch.autograd.grad(torch.relu(n := torch.tensor(torch.nan, requires_grad=True)), n)[0].item()
    np.testing.assert_allclose(got[:5].numpy(), [2 / 3, 0, 1, exact, 0], rtol=1e-12)
    np.testing.assert_allclose(got[5:].numpy(), [2 / 3, 0, 1, 1, 0], rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (5, 4)])
def test_rescale_refuses_a_batch_without_halves(shape: tuple[int, ...]):
    h = lb.with_rule(torch.tanh, lb.Rescale())(torch.ones(shape, requires_grad=True))
    with pytest.raises(lb.LinearBackpropError, match=r"Rescale\(epsilon=1e-06\) needs inputs and their baselines"):
        h.sum().backward()


def test_an_epsilon_below_zero_is_refused():
    with pytest.raises(lb.LinearBackpropError, match="Rescale's epsilon must be 0 or more, got -1"):
        lb.Rescale(-1)


def test_the_multipliers_of_an_mlp_add_up_to_the_difference_of_outputs():
    generator = np.random.default_rng(0)
    w1, b1, w2 = generator.normal(size=(6, 4)), generator.normal(size=6), generator.normal(size=6)
    x, x0 = generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 1, bias=False)).double()
    model[0].weight.data, model[0].bias.data = torch.from_numpy(w1), torch.from_numpy(b1)
    model[2].weight.data = torch.from_numpy(w2[None])
    pairs = torch.from_numpy(np.concatenate([x, x0])).requires_grad_()
    with lb.convert(model, lb.Rescale()):
        (got,) = torch.autograd.grad(model(pairs)[:3].sum(), pairs)
    f = references.ACTIVATIONS["gelu"][0]
    slopes = references.secant(f)(np.concatenate([x @ w1.T + b1, x0 @ w1.T + b1]))[:3]
    np.testing.assert_allclose(got[:3].numpy(), (slopes * w2) @ w1, rtol=1e-10)
    differences = (f(x @ w1.T + b1) - f(x0 @ w1.T + b1)) @ w2
    np.testing.assert_allclose((got[:3].numpy() * (x - x0)).sum(1), differences, rtol=1e-10)


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (lb.Linear(), zennit.Pass()),
        (lb.Guided(), zennit.ReLUGuidedBackprop()),
        (lb.Deconvolution(), zennit.ReLUDeconvNet()),
        (lb.Surrogate(lambda a: F.softplus(a, beta=10.0, threshold=1e3)), zennit.ReLUBetaSmooth()),
    ],
    ids=["Pass", "ReLUGuidedBackprop", "ReLUDeconvNet", "ReLUBetaSmooth"],
)
def test_zennit_s_activation_rules_are_ours(rule: lb.BackwardRule, theirs):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    handles = [theirs.copy().register(module) for module in model if isinstance(module, nn.ReLU)]
    (expected,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    for handle in handles:
        handle.remove()
    with lb.convert(model, rule):
        (got,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-15)


def test_rescale_in_batches_of_cotangents():
    a = torch.tensor([[3.0, -2.0], [1.0, 0.5], [-1.0, 2.0], [1.0, 1.5]], dtype=torch.float64, requires_grad=True)
    cotangents = torch.randn(5, 4, 2, dtype=torch.float64)
    h = lb.with_rule(F.silu, lb.Rescale())(a)
    (together,) = torch.autograd.grad(h, a, cotangents, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(h, a, g, retain_graph=True)[0] for g in cotangents]
    assert torch.equal(together, torch.stack(one_by_one))
