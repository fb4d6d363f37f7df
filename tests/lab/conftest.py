"""What the tests of the lab share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Networks this small gain nothing from more, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
