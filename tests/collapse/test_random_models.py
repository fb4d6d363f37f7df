"""Random models: an affine one is collapsed, and rightly; one with an operation that is not is refused."""

import warnings

import pytest
import torch
from collapse.random_models import affine_model, other_model, verdict


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("seed", range(40))
def test_affine_models_are_collapsed(seed: int):
    model, names = affine_model(seed)
    assert verdict(model, seed) == "right", names


@pytest.mark.parametrize("seed", range(40))
def test_other_models_are_refused(seed: int):
    model, names = other_model(seed)
    assert verdict(model, seed) == "refused", names
