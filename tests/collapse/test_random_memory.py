"""Random models that transpose, copy, view and overwrite what their activations make, collapsed and converted."""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")
POSITIONS, FEATURES = 5, 8


def transposed(z: Tensor) -> Tensor:
    return z.transpose(1, 2)


def is_transposed(z: Tensor) -> bool:
    return z.shape[1] != POSITIONS


def written(z: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    write(z)
    return z


OPERATIONS: list[Callable[["Random", Tensor], Tensor]] = [
    lambda model, z: torch.tanh(z),
    lambda model, z: torch.relu(z),
    lambda model, z: z.clone().relu_(),
    lambda model, z: torch.clamp(z, min=model.of_positions.t() if is_transposed(z) else model.of_positions),
    lambda model, z: torch.clamp(z, max=model.of_features[:, None] if is_transposed(z) else model.of_features),
    lambda model, z: transposed(model.middle(transposed(z))) if is_transposed(z) else model.middle(z),
    lambda model, z: transposed(z),
    lambda model, z: transposed(z).contiguous(),
    lambda model, z: z.contiguous(),
    lambda model, z: z.permute(1, 0, 2).contiguous().permute(1, 0, 2),
    lambda model, z: z.flip(1),
    lambda model, z: z + 1,
    lambda model, z: z.mul_(2),
    lambda model, z: written(z, lambda z: z.reshape(len(z), -1).mul_(3)),
    lambda model, z: written(z, lambda z: transposed(z).reshape(len(z), -1).add_(1)),
    lambda model, z: written(z, lambda z: z[:, :, ::2].mul_(2)),
]

INPUTS: list[Callable[[int], Tensor]] = [
    lambda n: torch.randn(n, POSITIONS, 6),
    lambda n: torch.randn(n, POSITIONS, 12)[..., ::2],
    lambda n: torch.randn(POSITIONS, n, 6).transpose(0, 1),
    lambda n: torch.randn(n, 6, POSITIONS).transpose(1, 2),
    lambda n: torch.randn(n, POSITIONS, 1).expand(n, POSITIONS, 6),
]


class Random(nn.Module):
    """Some of the operations one after another; what one of them made is read again at the end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.middle, self.last = (
            nn.Linear(6, FEATURES),
            nn.Linear(FEATURES, FEATURES),
            nn.Linear(FEATURES, 3),
        )
        self.of_positions = nn.Parameter(torch.rand(POSITIONS, 1) - 0.5)
        self.of_features = nn.Parameter(torch.rand(FEATURES) - 0.5)
        drawn = random.Random(seed)
        self.operations = [torch.tanh, *drawn.choices(OPERATIONS, k=drawn.randint(4, 9))]
        self.kept = drawn.randrange(len(self.operations))

    def forward(self, x: Tensor) -> Tensor:
        z = kept = self.first(x)
        for place, operation in enumerate(self.operations):
            z = operation(z) if operation is torch.tanh else operation(self, z)
            kept = z if place == self.kept else kept
        z, kept = (transposed(each) if is_transposed(each) else each for each in (z, kept))
        return self.last(z + kept).mean(1)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()], ids=repr)
def test_gradients_are_converts_in_whatever_order_values_lie(rule: lb.Linear | lb.LocallyExact, seed: int):
    model = Random(seed)
    twin = copy.deepcopy(model)
    given = INPUTS[seed % len(INPUTS)]
    batches = [given(9), given(14)]
    try:
        with lb.convert(twin, rule):
            for x in batches:
                twin(x).square().sum().backward()
    except RuntimeError:  # PyTorch refuses what it overwrites
        return
    fast = lb.collapse(model, rule, always=True)
    for x in batches:
        fast(x).square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-8)
