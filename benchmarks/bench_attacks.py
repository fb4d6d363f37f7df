"""A step of LinBP beside one written by hand for the same network, and beside I-FGSM.

    python benchmarks/bench_attacks.py [--rounds 15]

The hand-written forward pass runs the modules of the network one by one and `x + relu(-x).detach()` in the place of the
linear ReLUs, as Guo et al. (2020) write it; its steps are those of the attack. Medians of rounds in which all take
turns.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
from harness import markdown, medians, seconds, where_and_when
from torch import Tensor, nn
from torch.nn import functional as F

from linear_backprop import attacks
from linear_backprop_lab.models import vgg19

MOST = 1.05
EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10
AFTER = 23  # of VGG19's features, as in the paper: the middle


def by_hand(forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """I-FGSM."""
    low, high = (images - EPS).clamp(min=0), (images + EPS).clamp(max=1)
    adversarial = images
    for _ in range(STEPS):
        adversarial = adversarial.detach().requires_grad_()
        loss = F.cross_entropy(forward(adversarial), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = (adversarial.detach() + ALPHA * gradient.sign()).clamp(low, high)
    return adversarial


def linear_above(model: nn.Sequential, x: Tensor) -> Tensor:
    """The forward pass of the network with linear ReLUs above, written for this network."""
    for position, module in enumerate(model.features):  # pyright: ignore
        relu = isinstance(module, nn.ReLU) and position > AFTER
        x = x + torch.relu(-x).detach() if relu else module(x)
    return model.classifier(x.flatten(1))  # pyright: ignore


def row(width: float, batch: int, rounds: int) -> list[str]:
    """The times on one network."""
    torch.manual_seed(0)
    model = vgg19(width, nn.ReLU).eval()
    images, labels = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
    linbp = attacks.LinBP(model, after=f"features.{AFTER}", eps=EPS, alpha=ALPHA, steps=STEPS)
    plain = attacks.IterativeFGSM(model, EPS, ALPHA, STEPS)
    hand = functools.partial(linear_above, model)
    same = (linbp(images, labels) == by_hand(hand, images, labels)).double().mean().item()
    assert same > 0.999, same  # signs of gradients that rounding alone decides
    works = {
        "LinBP": lambda: linbp(images, labels),
        "by hand": lambda: by_hand(hand, images, labels),
        "I-FGSM": lambda: plain(images, labels),
        "I-FGSM by hand": lambda: by_hand(model, images, labels),
    }
    times = medians({name: functools.partial(seconds, work) for name, work in works.items()}, rounds)
    ratios = times["LinBP"] / times["by hand"], times["I-FGSM"] / times["I-FGSM by hand"]
    shown = [f"{1e3 * time / STEPS:.2f} ms" for time in times.values()]
    verdict = "kept" if max(ratios) <= MOST else "missed"
    return [f"VGG19, width {width:g}", str(batch), *shown, *(f"{ratio:.3f}" for ratio in ratios), verdict]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    head = ["network", "N", "LinBP", "by hand", "I-FGSM", "by hand", "LinBP ratio", "I-FGSM ratio", f"<= {MOST}"]
    rows = [row(width, batch, rounds) for width, batch in ((1 / 8, 4), (1 / 8, 32), (1 / 4, 32))]
    print(f"{where_and_when()}; {rounds} rounds; one thread, float32, {STEPS} steps a call\n")
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
