"""Networks of other libraries, with random weights: collapse is right on them, or refuses them by name.

    pip install --no-deps pytorchcv monai transformers timm
    python tests/collapse/real_networks.py [timm | transformers | pytorchcv | monai]

compares collapse's gradients with convert's, in eval and train mode, under `LINEAR_LAYERS` too, before and after a
change of the parameters, and prints a line for each network and how many were right, refused or wrong. Where a refusal
names a `where=` that works, that is tried as well. timm needs a torchvision that fits PyTorch's build.
"""

from __future__ import annotations

import copy
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from libraries import Network, networks
from torch import Tensor, nn

import linear_backprop as lb


def called(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The model's first output."""
    y: Any = model(inputs[""]) if "" in inputs else model(**inputs)
    if isinstance(y, dict):
        return y["logits"] if "logits" in y else next(iter(y.values()))
    while not isinstance(y, Tensor):
        y = y[0]
    return y


def verdict(model: nn.Module, draw: Callable[[int], dict[str, Tensor]], **options: Any) -> str:
    """Right, wrong, or refused with the reason."""
    twin = copy.deepcopy(model)
    fast = lb.collapse(model, always=True, **options)
    for seed in range(2):
        torch.manual_seed(seed)
        inputs = draw(4 + seed)
        try:
            found = gradients(fast, model, inputs, seed)
        except lb.CollapseError as refusal:
            return f"refused: {refusal}"
        with lb.convert(twin, **options):
            expected = gradients(twin, twin, inputs, seed)
        top = max(g.abs().max() for g in expected if g is not None)
        for a, b in zip(found, expected, strict=True):
            if (a is None) != (b is None) or (
                a is not None and not (a - b).abs().max() <= 1e-7 * max(b.abs().max(), 1e-6 * top)
            ):
                return "wrong"
        for each in (model, twin):
            torch.manual_seed(seed)
            with torch.no_grad():
                for p in each.parameters():
                    p.mul_(1 + torch.rand_like(p) / 10)
    return "right"


def gradients(run: nn.Module, model: nn.Module, inputs: dict[str, Tensor], seed: int) -> list[Tensor | None]:
    torch.manual_seed(seed)
    given = {name: x.clone().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}
    y = called(run, given)
    wanted = [p for p in (*given.values(), *model.parameters()) if p.requires_grad]
    return list(torch.autograd.grad(y.flatten(1)[:, :3].square().sum(), wanted, allow_unused=True))


def tried(network: Network, mode: str, **options: Any) -> str:
    """The verdict, or the error of whichever of the two fails."""
    torch.manual_seed(0)
    torch.compiler.reset()
    try:
        model = network.build().double().train(mode.startswith("train"))
        called(model, network.inputs(4))
    except Exception as error:
        return f"cannot be run: {type(error).__name__}: {error}"
    try:
        return verdict(model, network.inputs, **options)
    except Exception as error:
        return f"crashed: {type(error).__name__}: {error}"


def remedy(refusal: str) -> dict[str, Any]:
    """The `where=` that a refusal names, and what goes with it."""
    named = re.search(r"`(where=[^`]+)`\)", refusal)
    return eval(f"dict({named[1]})", {"lb": lb}) if named else {}


def main() -> None:
    """Try them all."""
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    total: Counter[str] = Counter()

    def say(name: str, mode: str, found: str) -> None:
        total[found.split(":")[0]] += 1
        print(f"{name}, {mode}: {' '.join(found.split())[:300]}", flush=True)

    for network in networks(sys.argv[1:]):
        for mode, options in (("eval", {}), ("train", {}), ("train, linear layers", {"layers": lb.LINEAR_LAYERS})):
            found = tried(network, mode, **options)
            say(network.name, mode, found)
            if mode == "eval" and (above := remedy(found)):
                say(network.name, f"{mode}, {above}", tried(network, mode, **options, **above))
    print(dict(total), flush=True)


if __name__ == "__main__":
    main()
