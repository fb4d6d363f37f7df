"""Draw `docs/figures/attribution.png`: DeepLIFT maps of a small network trained on digits, ours beside captum's.

    python benchmarks/draw_attribution.py

The network's activations are once modules and once functions, over the same parameters: the same map is right for both.
Trained on 1,400 of the digits that scikit-learn carries, in seconds on one core.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from captum.attr import DeepLift as CaptumDeepLift
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from linear_backprop.attribution import DeepLift


class Net(nn.Module):
    """Two convolutions and a linear layer; ReLU as modules, or as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.functional = False
        self.below, self.above = (
            nn.Conv2d(1, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
        )
        self.first, self.second, self.head = (
            nn.ReLU(),
            nn.ReLU(),
            nn.Linear(1024, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten digits."""
        if self.functional:
            return self.head(F.relu(self.above(F.relu(self.below(x)))).flatten(1))
        return self.head(self.second(self.above(self.first(self.below(x)))).flatten(1))


def trained(x: Tensor, y: Tensor) -> Net:
    """The network after 150 full-batch steps of Adam."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    """Train, explain, draw."""
    images, labels = load_digits(return_X_y=True)
    x, y = (
        torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16,
        torch.tensor(labels),
    )
    model = trained(x[:1400], y[:1400])
    print(f"test accuracy {(model(x[1400:]).argmax(1) == y[1400:]).float().mean():.3f}")
    chosen = [1400 + int((y[1400:] == digit).nonzero()[0]) for digit in (0, 3, 4, 7)]
    figure, axes = plt.subplots(len(chosen), 5, figsize=(8, 6.6), layout="constrained")
    for row, index in zip(axes, chosen, strict=True):
        row[0].imshow(x[index, 0], cmap="gray_r")
        for column, (functional, method) in enumerate(
            [
                (False, DeepLift),
                (False, CaptumDeepLift),
                (True, DeepLift),
                (True, CaptumDeepLift),
            ],
            start=1,
        ):
            model.functional = functional
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = method(model).attribute(
                    x[index, None],
                    target=y[index, None],
                    return_convergence_delta=True,
                )
            attribution, delta = (each.detach() for each in result)
            limit = attribution.abs().max()
            row[column].imshow(attribution[0, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
            row[column].set_xlabel(f"sum off by {abs(delta.item()):.1e}", fontsize=8)
    titles = (
        "digit",
        "ours, modules",
        "captum, modules",
        "ours, functions",
        "captum, functions",
    )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(Path(__file__).parents[1] / "docs" / "figures" / "attribution.png", dpi=90)


if __name__ == "__main__":
    main()
