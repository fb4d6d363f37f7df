"""A rule for a block of code."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import linear_backprop as lb


def slope() -> float:
    x = torch.tensor(0.5, requires_grad=True)
    (g,) = torch.autograd.grad(torch.tanh(x), x)
    return round(g.item(), 6)


EXACT, LINEAR, PRE_ACTIVATION = 0.786448, 1.0, 0.5


def test_blocks_nest_and_the_innermost_decides():
    seen = [slope()]
    with lb.backward_rule():
        seen.append(slope())
        with lb.backward_rule(lb.Exact()):
            seen.append(slope())
            with lb.backward_rule(lb.PreActivation()):
                seen.append(slope())
        seen.append(slope())
    seen.append(slope())
    assert seen == [EXACT, LINEAR, EXACT, PRE_ACTIVATION, LINEAR, EXACT]


def test_a_block_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), lb.backward_rule():
        raise ZeroDivisionError
    assert slope() == EXACT


def test_the_backward_pass_may_run_outside_or_inside():
    x = torch.tensor(0.5, requires_grad=True)
    blend = lb.Blend(lb.Exact(), lb.Exact(), 0.5)
    with lb.backward_rule(blend):
        h = torch.tanh(x)
        (inside,) = torch.autograd.grad(h, x, retain_graph=True)
    (outside,) = torch.autograd.grad(h, x)
    assert inside == outside
    assert round(outside.item(), 6) == EXACT


def test_a_function_under_a_rule_keeps_it_inside_a_block():
    x = torch.tensor(0.5, requires_grad=True)
    with lb.backward_rule(lb.PreActivation()):
        (g,) = torch.autograd.grad(lb.with_rule(torch.tanh, lb.Linear())(x), x)
    assert g == 1


def test_what_pytorch_does_inside_its_own_functions_is_not_touched():
    x = torch.tensor([3e-13, 4e-13], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.normalize(x, dim=0).sum(), x)  # clamps the norm from below
    with lb.backward_rule():
        (got,) = torch.autograd.grad(F.normalize(x, dim=0).sum(), x)
    assert torch.equal(got, expected)


def test_integers_and_out_arguments_are_left_to_pytorch():
    with lb.backward_rule():
        assert torch.tensor([-3, 5]).clamp(min=0).tolist() == [0, 5]
        assert torch.tensor([-3, 5]).sign().tolist() == [-1, 1]
        out = torch.empty(2)
        torch.tanh(torch.zeros(2), out=out)
        assert out.tolist() == [0.0, 0.0]


def shares() -> float:
    """The cotangent of the larger of two positions: 1 by max pooling's own backward pass, 0.5 by the rule."""
    x = torch.tensor([[[0.5, -1.0]]], requires_grad=True)
    (g,) = torch.autograd.grad(F.max_pool1d(x, 2).sum(), x)
    return g[0, 0, 0].item()


def test_layers_follow_rules_only_where_they_are_named():
    seen = [shares()]
    with lb.backward_rule():
        seen.append(shares())
    with lb.backward_rule(layers=[lb.ConstantStatistics()]):
        seen.append(shares())
    with lb.backward_rule(layers=lb.LINEAR_LAYERS):
        seen.append(shares())
    assert seen == [1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("inner", [(), (lb.StraightThroughDropout(),)])
def test_for_layers_too_the_innermost_block_decides(inner: tuple[lb.LayerRule, ...]):
    with lb.backward_rule(lb.PreActivation(), layers=lb.LINEAR_LAYERS):
        with lb.backward_rule(layers=inner):
            assert (slope(), shares()) == (LINEAR, 1.0)
        assert (slope(), shares()) == (PRE_ACTIVATION, 0.5)


class Tripled(lb.LayerRule):
    """A rule of one's own."""

    arguments = {torch.cumsum: {"input": None, "dim": None}}  # noqa: RUF012

    def linear_map(self, call, constants):
        return 3 * call.input


@pytest.mark.parametrize("between", [(), (lb.backward_rule(layers=lb.LINEAR_LAYERS),)])
@pytest.mark.parametrize("compiled", [False, True])
def test_for_layers_of_one_s_own_the_innermost_block_decides(between, compiled: bool):
    def run(x: Tensor) -> Tensor:
        return torch.cumsum(x, 0)

    for block in (*between, lb.backward_rule(lb.Exact())):
        run = block(run)
    torch.compiler.reset()
    run = torch.compile(run, backend="aot_eager", fullgraph=True) if compiled else run
    x = torch.ones(3, requires_grad=True)
    with lb.backward_rule(layers=[Tripled()]):
        assert torch.autograd.grad(torch.cumsum(x, 0).sum(), x)[0].tolist() == [3, 3, 3]
        assert torch.autograd.grad(run(x).sum(), x)[0].tolist() == [3, 2, 1]


def test_rule_and_layers_are_independent():
    with lb.backward_rule(lb.Exact(), layers=lb.LINEAR_LAYERS):
        assert (slope(), shares()) == (EXACT, 0.5)


def test_where_nothing_is_differentiated_layers_run_as_they_are():
    x = torch.randn(2, 3, 4, 4)
    with lb.backward_rule(layers=lb.LINEAR_LAYERS), torch.no_grad():
        assert torch.equal(F.max_pool2d(x, 2), x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)))
