import numpy as np
import pytest
import torch

from linear_backprop_lab.data import Polynomial

COEFFICIENTS = [1, -3, -1, 1]
# A few roundings of float32 at values up to 5.
FLOAT32 = 2e-6


def test_target_is_the_papers_cubic() -> None:
    x = torch.linspace(-4, 6, 101, dtype=torch.float64)
    expected = np.polyval(COEFFICIENTS, x.numpy())
    np.testing.assert_allclose(Polynomial.target(x).numpy(), expected, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize(("part", "count"), [("train", 5), ("test", 201)])
def test_points_are_evenly_spaced_columns(part: str, count: int) -> None:
    data = Polynomial.sample()
    inputs, targets = getattr(data, f"{part}_inputs"), getattr(data, f"{part}_targets")
    assert inputs.shape == targets.shape == (count, 1)
    assert inputs.dtype == targets.dtype == torch.float32
    expected = [-1 + 4 * index / (count - 1) for index in range(count)]
    np.testing.assert_allclose(inputs[:, 0].double().numpy(), expected, rtol=0, atol=FLOAT32)


def test_test_points_have_no_noise() -> None:
    data = Polynomial.sample(3)
    expected = np.polyval(COEFFICIENTS, data.test_inputs.double().numpy())
    np.testing.assert_allclose(data.test_targets.double().numpy(), expected, rtol=0, atol=FLOAT32)


def test_noise_is_normal_with_standard_deviation_a_tenth() -> None:
    samples = [Polynomial.sample(seed) for seed in range(2000)]
    noise = torch.cat([data.train_targets - Polynomial.target(data.train_inputs) for data in samples])
    # 10,000 draws: the standard errors are 0.001 of the mean and 0.0007 of the deviation; 5 of each.
    assert abs(noise.mean().item()) < 0.005
    assert abs(noise.std().item() - 0.1) < 0.0035
    within_one_deviation = (noise.abs() < 0.1).double().mean().item()
    assert abs(within_one_deviation - 0.6827) < 0.025


def test_the_seed_decides_the_noise_and_the_global_generator_does_not() -> None:
    torch.manual_seed(1)
    first = Polynomial.sample(7).train_targets
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, Polynomial.sample(7).train_targets)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, Polynomial.sample(8).train_targets)
