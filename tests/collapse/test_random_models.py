"""Random models: an affine one is collapsed, and rightly; one with an operation that is not is refused."""

import pytest
from collapse.random_models import affine_model, other_model, verdict

pytestmark = pytest.mark.usefixtures("in_float64")


@pytest.mark.parametrize("seed", range(40))
def test_affine_models_are_collapsed(seed: int):
    model, names = affine_model(seed)
    assert verdict(model, seed) == "right", names


@pytest.mark.parametrize("seed", range(40))
def test_other_models_are_refused(seed: int):
    model, names = other_model(seed)
    assert verdict(model, seed) == "refused", names
