"""Threads that capture and trace at the same time."""

from threading import Barrier, Thread

import pytest
import torch
from collapse.nets import Net, batch, hidden
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


def body(s: Net, x: Tensor) -> Tensor:
    return s.o(torch.relu(s.b(hidden(s, x))))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()])
def test_threads_do_not_disturb_each_other(rule: lb.Linear | lb.LocallyExact, shared: bool):
    models = [Net(body)] * 3 if shared else [Net(body) for _ in range(3)]
    one = lb.collapse(models[0], rule, always=True)
    collapsed = [one if shared else lb.collapse(model, rule, always=True) for model in models]
    call, barrier = nn.Module.__call__, Barrier(3)
    found: dict[tuple[int, int], tuple[Tensor, ...]] = {}
    batches = [batch(), torch.randn(5, 2, 6), batch(7)]

    def work(index: int) -> None:
        barrier.wait()
        for k, x in enumerate(batches):
            loss = collapsed[index](x).square().mean()
            found[index, k] = torch.autograd.grad(loss, list(models[index].parameters()))

    threads = [Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nn.Module.__call__ is call
    assert len(found) == 9
    for (index, k), gradients in found.items():
        with lb.convert(models[index], rule):
            loss = models[index](batches[k]).square().mean()
            expected = torch.autograd.grad(loss, list(models[index].parameters()))
        torch.testing.assert_close(gradients, expected)
