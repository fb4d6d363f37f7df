import warnings

import pytest
import torch


@pytest.fixture
def in_float64():
    """Float64 by default, nothing captured before, and no warnings."""
    torch.set_default_dtype(torch.float64)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_default_dtype(torch.float32)
