"""What activation checkpointing runs again, after the conversions of the model have changed."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import linear_backprop as lb
from linear_backprop._conversion.recomputation import _watching

CHANGED = "call backward\\(\\) before convert\\(\\), before remove\\(\\) and before the end of"
both_forms = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above = nn.Linear(3, 4), nn.Linear(4, 2)
        self.deep = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Softplus())
        self.double()

    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.below(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.deep(self.encode(x)))


Form = Callable[[Net, Tensor, bool], Tensor]
FORMS: dict[str, Form] = {
    "the whole model": lambda net, x, r: checkpoint(net, x, use_reentrant=r),
    "a bound forward": lambda net, x, r: checkpoint(net.forward, x, use_reentrant=r),
    "a module": lambda net, x, r: net.above(checkpoint(net.deep, net.encode(x), use_reentrant=r)),
    "a method": lambda net, x, r: net.above(net.deep(checkpoint(net.encode, x, use_reentrant=r))),
    "a lambda": lambda net, x, r: net.above(checkpoint(lambda z: net.deep(net.encode(z)), x, use_reentrant=r)),
    "one in another": lambda net, x, r: checkpoint(
        lambda z: checkpoint(lambda u: net.deep(net.encode(u)), z, use_reentrant=r), x, use_reentrant=r
    ),
}
RULES = [lb.Linear(), lb.Clipped(-0.3, 0.3), lb.Surrogate("silu"), lb.MeanLinear()]
SELECTIONS = [None, ["", "deep.*"]]
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def data() -> Tensor:
    return torch.linspace(-2, 2, 12, dtype=torch.float64).view(4, 3).requires_grad_()


def gradients(net: Net, loss: Tensor) -> list[Tensor]:
    net.zero_grad()
    loss.square().sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("where", SELECTIONS, ids=["all", "some"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@both_forms
@forms
def test_a_conversion_that_is_removed_before_the_backward_pass_is_missed(form: Form, reentrant: bool, rule, where):
    net = Net()
    with lb.convert(net, rule, where):
        loss = form(net, data(), reentrant)
    with pytest.raises(lb.ConversionError, match=CHANGED):
        gradients(net, loss)


@both_forms
@forms
def test_so_is_one_that_another_took_the_place_of(form: Form, reentrant: bool):
    net = Net()
    lb.convert(net, lb.Clipped(-0.3, 0.3))
    loss = form(net, data(), reentrant)
    with lb.convert(net, lb.Surrogate("silu")), pytest.raises(lb.ConversionError, match=CHANGED):
        gradients(net, loss)


@both_forms
@forms
def test_and_one_that_was_not_there_in_the_forward_pass(form: Form, reentrant: bool):
    if form is FORMS["a method"]:  # fetched before, it is the model's own, and calls no module that is converted
        return
    net = Net()
    loss = form(net, data(), reentrant)
    with lb.convert(net, lb.Clipped(-0.3, 0.3)), pytest.raises(lb.ConversionError, match=CHANGED):
        gradients(net, loss)


@both_forms
@forms
def test_what_does_not_concern_the_checkpointed_code_may_change(form: Form, reentrant: bool):
    net, other = Net(), Net()
    with lb.convert(net, lb.Clipped(-0.3, 0.3)):
        expected = gradients(net, form(net, data(), reentrant))
        loss = form(net, data(), reentrant)
        with lb.convert(other):
            gradients(other, form(other, data(), reentrant))
        with lb.convert(net, lb.Surrogate("silu")):  # gone before the backward pass
            net(data())
        got = gradients(net, loss)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@both_forms
def test_without_checkpointing_inside_it_the_backward_pass_may_come_after(reentrant: bool):
    net = Net()
    with lb.convert(net, lb.Clipped(-0.3, 0.3), where="deep.1"):
        run = lambda: net.above(net.deep(checkpoint(net.below, data(), use_reentrant=reentrant)))  # noqa: E731
        expected, loss = gradients(net, run()), run()
    assert all(torch.equal(a, b) for a, b in zip(gradients(net, loss), expected, strict=True))


@both_forms
def test_a_first_run_that_fails_or_records_nothing_leaves_nothing_behind(reentrant: bool):
    net = Net()

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("in the forward pass")

    with lb.convert(net):
        with pytest.raises(RuntimeError, match="in the forward pass"):
            checkpoint(lambda z: fail(net.encode(z)), data(), use_reentrant=reentrant)
        with torch.no_grad():
            checkpoint(net, data(), use_reentrant=reentrant)
        loss = checkpoint(net.below, data(), use_reentrant=reentrant)
        net(data())
    assert gradients(net, loss)


@both_forms
def test_models_that_are_not_converted_leave_nothing_behind_either(reentrant: bool):
    net = Net()
    for _ in range(5):
        gradients(net, checkpoint(net, data(), use_reentrant=reentrant))
    assert len(_watching.first_runs) <= 1


@both_forms
def test_two_threads_are_not_told_of_each_other(reentrant: bool):
    net, other = Net(), Net()
    with lb.convert(net), lb.convert(other):

        def encode(x: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: other(data()))
            thread.start()
            thread.join()
            return net.encode(x)

        loss = checkpoint(encode, data(), use_reentrant=reentrant)
        lb.convert(other, lb.Clipped()).remove()
        assert gradients(net, loss)


def test_a_method_that_was_fetched_before_the_conversion_was_removed_is_the_models_own():
    net, plain = Net(), Net()
    with lb.convert(net, lb.Linear()):
        encode, forward = net.encode, net.forward
    for entry, own in ((encode, plain.encode), (forward, plain.forward)):
        got, expected = data(), data()
        entry(got).sum().backward()
        own(expected).sum().backward()
        assert torch.equal(got.grad, expected.grad)
