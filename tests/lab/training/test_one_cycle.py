import pytest
import torch
from torch import nn

from linear_backprop_lab.training import OneCycle

RECIPE = OneCycle(epochs=2, batch_size=10, learning_rate=0.5, images=95, rise=0.25)  # 20 steps, 5 of them up


def rates(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        before = parameter.item()
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        seen.append(before - parameter.item())  # SGD without momentum moves by the learning rate
    return seen


def module() -> nn.Module:
    return nn.Linear(1, 1, bias=False).double()


def test_the_rate_rises_to_the_peak_and_falls_to_one_step_above_nothing():
    model = module()
    got = rates(RECIPE.optimizer_for(model), model.weight, 20)
    expected = [0.1, 0.2, 0.3, 0.4, 0.5, *(0.5 * (1 - fall / 16) for fall in range(1, 16))]
    assert got == pytest.approx(expected, abs=1e-12)
    assert min(got) > 0


def test_a_resumed_optimizer_goes_on_where_it_stopped():
    model, again = module(), module()
    optimizer = RECIPE.optimizer_for(model)
    rates(optimizer, model.weight, 7)
    resumed = RECIPE.optimizer_for(again)
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(model.state_dict())
    assert rates(resumed, again.weight, 13) == pytest.approx(rates(optimizer, model.weight, 13), abs=1e-12)


def test_one_step_is_at_the_peak():
    assert OneCycle(epochs=1, batch_size=8, learning_rate=0.3, images=8).learning_rate_at(1) == 0.3
