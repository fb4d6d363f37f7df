"""The synthetic data of the paper's section 1.1: five noisy points of a cubic, and the cubic itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_INTERVAL = (-1.0, 3.0)
_TRAINING_POINTS = 5
_TEST_POINTS = 201
_NOISE = 0.1


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Training points y = x^3 - 3x^2 - x + 1 + N(0, 0.1), and the curve without noise to test on.

    The paper leaves open where the points lie and whether 0.1 is a variance: here they are evenly spaced on
    [-1, 3], which holds both turning points, and 0.1 is a standard deviation.

    Attributes:
        train_inputs: x of the training points, (5, 1) float32.
        train_targets: Their y with noise, (5, 1) float32.
        test_inputs: x of the test points, evenly spaced on [-1, 3], (201, 1) float32.
        test_targets: Their y without noise, (201, 1) float32.

    Source:
        Section 1.1 of the paper, after Wu et al. (2017).
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    @staticmethod
    def target(x: Tensor) -> Tensor:
        """x^3 - 3x^2 - x + 1, elementwise; the shape and dtype of `x`."""
        return ((x - 3) * x - 1) * x + 1

    @classmethod
    def sample(cls, seed: int = 0) -> Polynomial:
        """The data whose noise is drawn from `seed`; the same seed gives the same bits on every machine."""
        generator = torch.Generator().manual_seed(seed)
        train_inputs, test_inputs = _evenly_spaced(_TRAINING_POINTS), _evenly_spaced(_TEST_POINTS)
        noise = _NOISE * torch.randn(train_inputs.shape, generator=generator)
        return cls(train_inputs, cls.target(train_inputs) + noise, test_inputs, cls.target(test_inputs))


def _evenly_spaced(count: int) -> Tensor:
    return torch.linspace(*_INTERVAL, count).unsqueeze(1)
