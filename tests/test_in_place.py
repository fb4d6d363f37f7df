"""In-place activations: nothing that autograd saved is corrupted, and PyTorch's own refusals stand."""

from functools import partial

import pytest
import torch
from forms import RULES
from torch import nn
from torch.nn import functional as F

import linear_backprop as lb

by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


@by_rule
def test_a_leaf_that_requires_grad_is_refused_and_untouched(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        lb.with_rule(torch.relu_, rule)(x)
    assert torch.equal(x, before)


@by_rule
def test_a_view_of_a_leaf_that_requires_grad_is_refused(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    with pytest.raises(RuntimeError, match="view of a leaf Variable that requires grad"):
        lb.with_rule(F.relu, rule)(x[:2], inplace=True)


@by_rule
def test_one_of_several_views_is_refused(rule: lb.BackwardRule):
    first, _ = torch.randn(4, requires_grad=True).clone().split(2)
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        lb.with_rule(torch.relu_, rule)(first)


@by_rule
def test_overwriting_what_was_saved_raises_at_the_backward_pass(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    z = x.exp()  # autograd keeps exp's output
    lb.with_rule(torch.relu_, rule)(z)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_overwriting_what_a_rule_saved_raises_at_the_backward_pass():
    x = torch.randn(4, requires_grad=True).clone()
    h = lb.with_rule(torch.tanh, lb.Clipped())(x)
    lb.with_rule(torch.relu_)(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


@by_rule
def test_a_view_changes_its_base_and_its_gradient(rule: lb.BackwardRule):
    x = torch.tensor([-1.5, 0.5, -0.25, 2.0], requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])

    base = x * 1
    lb.with_rule(torch.relu_, rule)(base[:2])
    (got,) = torch.autograd.grad(base @ weights, x)
    head = lb.with_rule(torch.relu, rule)(x[:2])
    (expected,) = torch.autograd.grad(torch.cat([head, x[2:]]) @ weights, x)
    assert torch.equal(got, expected)


@by_rule
def test_earlier_readers_of_the_pre_activation_keep_their_gradient(rule: lb.BackwardRule):
    x = torch.tensor([-1.5, 0.5, 2.0], requires_grad=True)

    z = x * 1
    read = z * 3
    h = lb.with_rule(torch.relu_, rule)(z)
    (got,) = torch.autograd.grad((read + 2 * h).sum(), x)
    z = x * 1
    (expected,) = torch.autograd.grad((z * 3 + 2 * lb.with_rule(torch.relu, rule)(z)).sum(), x)
    assert torch.equal(got, expected)


@by_rule
def test_the_same_tensor_comes_back(rule: lb.BackwardRule):
    z = torch.randn(4, requires_grad=True) * 1
    assert lb.with_rule(torch.relu_, rule)(z) is z
    assert lb.with_rule(F.silu, rule)(z, inplace=True) is z


def test_linear_in_place_leaves_no_node_behind():
    x = torch.randn(4, requires_grad=True)
    z = x * 1
    node = z.grad_fn
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    lb.convert(model)
    assert model(z).grad_fn is node
    assert (z >= 0).all()


@by_rule
def test_in_place_without_grad(rule: lb.BackwardRule):
    x = torch.randn(4, requires_grad=True)
    with torch.no_grad():
        assert (lb.with_rule(torch.relu_, rule)(x) >= 0).all()


@by_rule
def test_a_partial_does_not_hide_that_it_works_in_place(rule: lb.BackwardRule):
    in_place = lb.with_rule(partial(F.leaky_relu, negative_slope=0.5, inplace=True), rule)
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        in_place(x)
    z = x * 1
    assert in_place(z) is z
    assert z.tolist() == [-1.0, 3.0]


def test_a_partial_passes_gradients_to_what_it_holds():
    slope = torch.tensor([0.5], requires_grad=True)
    lb.with_rule(partial(F.prelu, weight=slope))(torch.tensor([-2.0, 3.0])).sum().backward()
    assert slope.grad is not None and slope.grad.tolist() == [-2.0]


@by_rule
def test_a_user_s_function_that_overwrites_its_input_is_refused(rule: lb.BackwardRule):
    def halve(z: torch.Tensor) -> torch.Tensor:
        return z.mul_(0.5)

    z = torch.ones(3, requires_grad=True) * 1
    if not isinstance(rule, lb.Exact):  # under which PyTorch runs the function and sees the write
        with pytest.raises(lb.LinearBackpropError, match="halve overwrites its input"):
            lb.with_rule(halve, rule)(z)
