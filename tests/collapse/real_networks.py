"""Networks of other libraries, with random weights: collapse is right on them, or refuses them by name.

    pip install --no-deps pytorchcv monai transformers
    python tests/collapse/real_networks.py

compares collapse's gradients with convert's, in eval and train mode, under `LINEAR_LAYERS` too, before and after a
change of the parameters, and prints a line for each network and how many were right, refused or wrong.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

import linear_backprop as lb

PYTORCHCV = (
    *("resnet10", "resnet14", "resnetbc14b", "preresnet10", "preresnetbc14b"),
    *("resnext14_16x4d", "seresnet10", "sepreresnet10", "seresnext50_32x4d", "densenet121", "squeezenet_v1_1"),
    *("squeezeresnet_v1_1", "mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4", "mobilenetv3_small_wd2"),
    *("shufflenet_g1_wd4", "shufflenetv2_wd2", "shufflenetv2b_wd2", "menet108_8x1_g3", "condensenet74_c4_g4"),
    *("darknet_tiny", "darknet_ref", "diracnet18v2", "bagnet9", "hardnet39ds", "igcv3_wd4", "ghostnet"),
    *(
        "efficientnet_b0",
        "regnetx002",
        "regnety002",
        "mnasnet_small",
        "vovnet27s",
        "selecsls42",
        "dla34",
        "cbam_resnet18",
    ),
    *("bam_resnet18", "sepreresnetbc26b", "resnet20_cifar10"),
    *("preresnet20_cifar10", "densenet40_k12_cifar10", "wrn16_10_cifar10", "nin_cifar10", "rir_cifar10"),
)


PARTS = ("ops", "transforms", "transforms.functional", "datasets")


class StandIn(ModuleType):
    """In the place of a torchvision module, whose compiled part does not match PyTorch's builds for the CPU."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], tuple[int, ...]]]:
    """Name, builder and an input's shape."""
    sys.modules.update({name: StandIn(name) for name in ("torchvision", *(f"torchvision.{part}" for part in PARTS))})
    try:
        from pytorchcv.model_provider import get_model
    except ImportError as error:
        print(f"pytorchcv cannot be imported: {error}", file=sys.stderr)
    else:
        for name in PYTORCHCV:
            size = 32 if "cifar" in name else 64
            yield (
                name,
                lambda name=name, size=size: averaged(get_model(name, pretrained=False, num_classes=10)),
                (3, size, size),
            )
    from monai.networks import nets

    yield "monai BasicUNet", lambda: nets.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4)), (1, 32, 32)
    yield "monai Classifier", lambda: nets.Classifier((1, 16, 16), 3, (4, 8), (2, 2)), (1, 16, 16)
    yield "monai Regressor", lambda: nets.Regressor((1, 16, 16), (2,), (4, 8), (2, 2)), (1, 16, 16)
    yield "monai FullyConnectedNet", lambda: nets.FullyConnectedNet(10, 3, [16, 16]), (10,)


def averaged(model: nn.Module) -> nn.Module:
    """The network for smaller images: what pools its last features averages whatever is left of them."""
    for module in model.modules():
        if isinstance(module._modules.get("final_pool"), nn.AvgPool2d):
            module.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def verdict(model: nn.Module, shape: tuple[int, ...], **options: object) -> str:
    """Right, wrong, refused with the reason, or broken by itself."""
    twin = copy.deepcopy(model)
    fast = lb.collapse(model, always=True, **options)  # pyright: ignore
    for seed in range(2):
        torch.manual_seed(seed)
        x = torch.randn(4 + seed, *shape)
        try:
            found = gradients(fast, model, x, seed)
        except lb.CollapseError as refusal:
            return f"refused: {refusal}"
        with lb.convert(twin, **options):  # pyright: ignore
            expected = gradients(twin, twin, x, seed)
        top = max(g.abs().max() for g in expected if g is not None)
        for a, b in zip(found, expected, strict=True):
            if (a is None) != (b is None) or (
                a is not None and (a - b).abs().max() > 1e-7 * max(b.abs().max(), 1e-6 * top)
            ):
                return "wrong"
        for each in (model, twin):
            torch.manual_seed(seed)
            with torch.no_grad():
                for p in each.parameters():
                    p.mul_(1 + torch.rand_like(p) / 10)
    return "right"


def gradients(run: nn.Module, model: nn.Module, x: Tensor, seed: int) -> list[Tensor | None]:
    torch.manual_seed(seed)
    y = run(x)
    y = y[0] if isinstance(y, tuple | list) else y
    wanted = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(y.flatten(1)[:, :3].square().sum(), wanted, allow_unused=True))


def main() -> None:
    """Try them all."""
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    total: Counter[str] = Counter()
    for name, build, shape in networks():
        for mode, options in (("eval", {}), ("train", {}), ("train, linear layers", {"layers": lb.LINEAR_LAYERS})):
            torch.manual_seed(0)
            torch.compiler.reset()
            try:
                model = build().double().train(mode != "eval")
                model(torch.randn(4, *shape))
            except Exception as error:
                print(f"{name}, {mode}: cannot be run ({type(error).__name__}: {str(error)[:80]})", flush=True)
                continue
            try:
                found = verdict(model, shape, **options)
            except Exception as error:
                found = f"crashed: {type(error).__name__}: {error}"
            total[found.split(":")[0]] += 1
            print(f"{name}, {mode}: {found[:160]}", flush=True)
    print(dict(total), flush=True)


if __name__ == "__main__":
    main()
