import numpy as np
import pytest
import torch

from linear_backprop_lab.training._evaluation import evaluate


@pytest.mark.parametrize("count, classes", [(1, 10), (2345, 10), (50, 7), (20, 5), (20, 3)])
def test_metrics_are_those_of_numpy(count, classes):
    generator = np.random.default_rng(0)
    table = generator.normal(size=(count, classes))
    labels = generator.integers(0, classes, count)
    # "Images" that hold their number, and a forward pass that looks their logits up.
    images = torch.arange(count).view(count, 1, 1, 1)
    result = evaluate(lambda batch: torch.from_numpy(table)[batch.flatten()], images, torch.from_numpy(labels))
    right = table[np.arange(count), labels]
    rank = (table > right[:, None]).sum(axis=1)
    log_sum = np.log(np.exp(table).sum(axis=1))
    assert result["accuracy"] == pytest.approx((rank == 0).mean())
    assert result["top5_error"] == (rank >= 5).mean()
    assert result["loss"] == pytest.approx((log_sum - right).mean())


def test_a_loss_that_is_not_finite_is_none():
    images, labels = torch.zeros(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64)
    assert evaluate(lambda batch: torch.full((len(batch), 10), torch.nan), images, labels)["loss"] is None
