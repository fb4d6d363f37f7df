"""What `accumulate()` holds, and what may happen between one gradient and the next."""

import weakref

import pytest
import torch
from collapse.nets import Body, Net, batch, pair
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


def accumulate(fast: lb.Collapsed, size: int = 5) -> None:
    with fast.accumulate():
        for x in batch().split(size):
            fast(x).square().sum().backward()


def plain(s: Net, x: Tensor) -> Tensor:
    return s.o(torch.relu(s.b(torch.tanh(s.a(x)))))


def read_again(s: Net, x: Tensor) -> Tensor:
    return s.o(torch.relu(s.b(torch.tanh(s.a(x)) @ s.b.weight.detach())))


def test_no_gradient_is_held_when_the_next_is_made():
    model, _ = pair(plain)
    held: list[weakref.ref[Tensor]] = []
    most: list[int] = []

    def see(gradient: Tensor) -> None:
        most.append(sum(each() is not None for each in held))
        held.append(weakref.ref(gradient))

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
        parameter.register_hook(see)
    accumulate(lb.collapse(model, always=True))
    assert len(most) == len(list(model.parameters()))
    assert max(most) == 0


@pytest.mark.parametrize("body", [plain, read_again, lambda s, x: plain(s, x @ s.a.weight.view(6, 8)[:, :6])])
def test_an_optimizer_in_the_backward_pass_changes_no_other_gradient(body: Body):
    model, twin = pair(body)
    with lb.convert(twin):
        twin(batch()).square().sum().backward()

    def descend(parameter: nn.Parameter) -> None:
        parameter.detach().fill_(1e6)

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(descend)
    accumulate(lb.collapse(model, always=True), size=20)
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


@pytest.mark.parametrize("changed", ["a.weight", "b.weight", "frozen"])
def test_a_hook_that_changes_what_others_read_is_refused(changed: str):
    model, _ = pair(lambda s, x: plain(s, x @ s.get_parameter("frozen")))
    model.register_parameter("frozen", nn.Parameter(torch.eye(6), requires_grad=False))
    other = model.get_parameter(changed)

    def change(gradient: Tensor) -> None:
        other.detach().add_(1)

    model.o.weight.register_hook(change)
    with pytest.raises(RuntimeError, match="by a hook"):
        accumulate(lb.collapse(model, always=True))
