"""Collapsed models are freed like any others, whatever Dynamo keeps."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb
from linear_backprop._torch import dynamo


def collapsed(model: nn.Module) -> nn.Module:
    return lb.collapse(model, always=True)


def locally_exact(model: nn.Module) -> nn.Module:
    return lb.collapse(model, lb.LocallyExact(), always=True)


def converted(model: nn.Module) -> nn.Module:
    lb.convert(model, lb.LocallyExact())
    return model


def refused(model: nn.Module) -> nn.Module:
    with pytest.raises(lb.CollapseError):
        lb.collapse(nn.Sequential(model, nn.Softmax(1)))(torch.randn(9, 3))
    return model


def tensors() -> int:
    """How many there are: a cycle through autograd's graph, which is never freed, holds some without a reference."""
    gc.collect()
    return sum(type(each) is torch.Tensor for each in gc.get_objects())


@pytest.mark.parametrize("prepare", [collapsed, locally_exact, converted, refused])
def test_a_model_is_freed_with_what_was_made_of_it(prepare: Callable[[nn.Module], nn.Module]):
    def train() -> list[weakref.ref[object]]:
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        run = prepare(model)
        for n in (9, 12):
            run(torch.randn(n, 3)).sum().backward()
        return [weakref.ref(model), weakref.ref(run), weakref.ref(model[0].weight)]

    references, kept = train(), tensors()
    assert [each() for each in references] == [None, None, None]
    train()
    assert tensors() <= kept


class OfAnyLength(nn.Module):
    """Takes sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).mean(2))


def test_graphs_of_many_sizes_are_kept_and_it_is_said_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch):
    fast = lb.collapse(OfAnyLength(), always=True)
    for length in range(10, 20):  # more than Dynamo's own limit, without a warning
        fast(torch.randn(8, 2, length)).sum().backward()
    limits = {"recompile_limit": 3, "accumulated_recompile_limit": 3}
    monkeypatch.setattr(dynamo, "_CAPTURING", dynamo._CAPTURING | limits)
    few, model = lb.collapse(OfAnyLength(), always=True), OfAnyLength()
    few.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match="all are dropped, and each is captured again"):
        for length in range(10, 15):
            x = torch.randn(8, 2, length)
            torch.testing.assert_close(few(x), model(x))
