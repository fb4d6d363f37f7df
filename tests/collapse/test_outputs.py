"""Several outputs: each with a backward pass of its own where it can be, and what hooks on them see."""

import copy
from collections.abc import Callable

import pytest
import torch
from collapse.nets import batch
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")
RULES = [lb.Linear(), lb.MeanLinear()]


class Several(nn.Module):
    """Two networks beside each other, or two heads on one."""

    def __init__(self, run: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(2))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
        self.run = run

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(self, x)


def beside(s: Several, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.view(len(x), 2, 3).flatten(1)
    return s.a(x), s.b(x)


def above(s: Several, x: Tensor) -> tuple[Tensor, Tensor]:
    features = s.a(x)
    return features, s.head(features)


def made(run: Callable[..., tuple[Tensor, Tensor]], rule: lb.BackwardRule) -> tuple[nn.Module, Several, Several]:
    torch.manual_seed(0)
    model = Several(run)
    twin = copy.deepcopy(model)
    lb.convert(twin, rule)
    return lb.collapse(model, rule, always=True), model, twin


def assert_equal(model: nn.Module, twin: nn.Module) -> None:
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_networks_beside_each_other_have_a_backward_pass_each(rule: lb.BackwardRule, order: tuple[int, int]):
    fast, model, twin = made(beside, rule)
    for run, owner in ((fast, model), (twin, twin)):
        outputs = run(batch())
        outputs[order[0]].square().mean().backward()
        for p in (owner.a, owner.b)[order[0]].parameters():  # an optimizer of this network alone
            p.data = p.data - p.grad
        outputs[order[1]].sum().backward()
    assert_equal(model, twin)


def test_one_of_two_networks_leaves_the_other_without_gradient():
    fast, model, _ = made(beside, lb.Linear())
    fast(batch())[0].sum().backward()
    assert all(p.grad is not None for p in model.a.parameters())
    assert all(p.grad is None for p in model.b.parameters())


def test_accumulate_takes_networks_beside_each_other():
    fast, model, twin = made(beside, lb.Linear())
    with fast.accumulate():
        for part in batch().split(7):
            for y in fast(part):
                y.square().sum().backward()
    for y in twin(batch()):
        y.square().sum().backward()
    assert_equal(model, twin)


@pytest.mark.parametrize("rule", RULES)
def test_an_output_below_another_takes_both_cotangents(rule: lb.BackwardRule):
    fast, model, twin = made(above, rule)
    for run in (fast, twin):
        features, logits = run(batch())
        (features.square().mean() + logits.sum()).backward()
    assert_equal(model, twin)


@pytest.mark.parametrize("watch", [lambda y: y.retain_grad(), lambda y: y.register_hook(lambda g: None)])
def test_what_watches_an_output_below_another_is_refused(watch: Callable[[Tensor], object]):
    fast, *_ = made(above, lb.Linear())
    features, logits = fast(batch())
    watch(features)
    with pytest.raises(lb.CollapseError, match="is an output that another one is computed from"):
        logits.sum().backward()


ASKS: list[Callable[[Tensor, Tensor, list[nn.Parameter]], object]] = [
    lambda loss, h, p: torch.autograd.grad(loss, h),
    lambda loss, h, p: torch.autograd.grad(loss, [h, p[0]]),
    lambda loss, h, p: torch.autograd.backward(loss, inputs=[h, *p]),
]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()], ids=repr)
@pytest.mark.parametrize("collapse", [True, False])
def test_who_may_ask_for_the_gradient_of_an_output_below_another_is_refused(ask, rule: lb.BackwardRule, collapse: bool):
    fast, model, twin = made(above, rule)
    if not collapse and isinstance(rule, lb.Linear):
        return  # ordinary autograd
    features, logits = (fast if collapse else twin)(batch())
    with pytest.raises(lb.CollapseError, match=r"may be an input of torch.autograd.grad"):
        ask(features.sum() + logits.sum(), features, [*(model if collapse else twin).parameters()])


def test_gradients_of_parameters_may_be_asked_for_once_outputs_below_are_gone():
    fast, model, twin = made(above, lb.Linear())
    found = [
        torch.autograd.grad(run(batch())[1].sum(), [*owner.a.parameters(), *owner.head.parameters()])
        for run, owner in ((fast, model), (twin, twin))
    ]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_a_hook_on_an_output_is_no_matter_to_a_loss_of_that_output_alone():
    fast, *_ = made(above, lb.Linear())
    features, _ = fast(batch())
    features.retain_grad()
    features.sum().backward()
    assert torch.equal(features.grad, torch.ones(20, 3))


def test_the_last_output_may_be_watched():
    fast, *_ = made(above, lb.Linear())
    _, logits = fast(batch())
    logits.retain_grad()
    logits.sum().backward()
    assert torch.equal(logits.grad, torch.ones(20, 2))


def overlapping(s: Several, x: Tensor) -> tuple[Tensor, Tensor]:
    y = s.a(x)
    return y, y[:, :2]


@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()])
@pytest.mark.parametrize("place", [0, 1])
def test_outputs_that_share_their_memory_cannot_be_overwritten(rule: lb.Linear | lb.LocallyExact, place: int):
    """Autograd would not see that the other one changes."""
    fast, *_ = made(overlapping, rule)
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        fast(batch())[place].mul_(2)


@pytest.mark.parametrize("always", [True, False])
def test_an_output_under_locally_exact_may_be_overwritten(always: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    found = []
    for double in (lambda y: y.mul_(2), lambda y: y * 2):
        fast = lb.collapse(model, lb.LocallyExact(), always=always)
        found.append(torch.autograd.grad(double(fast(batch())).square().sum(), list(model.parameters())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-15)
