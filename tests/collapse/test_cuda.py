"""What differs on a GPU: every way of collapsing agrees with convert there, and with itself on the CPU."""

import copy
from collections.abc import Callable

import pytest
import torch
from collapse.random_models import FEATURES, SAMPLES, affine_model, difference, max_difference, other_model, verdict
from torch import Tensor, nn

import linear_backprop as lb
from linear_backprop_lab.models import residual, vgg19

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("in_float64"),
]
by_network = pytest.mark.parametrize(
    ("build", "options"),
    [
        (lambda: vgg19(1 / 16, nn.ReLU, batch_norm=False, pooling="average"), {}),
        (lambda: residual((8, 16), blocks=1, normalization="batch"), {"layers": (lb.ConstantStatistics(),)}),
    ],
    ids=["VGG19", "residual"],
)
Build = Callable[[], nn.Module]


def runs_there(model: nn.Module) -> bool:
    """Whether the model makes all its constants where its input is."""
    try:
        model(torch.randn(SAMPLES, FEATURES, device=DEVICE))
    except RuntimeError:
        return False
    return True


def gradients(run: nn.Module, model: nn.Module, x: Tensor) -> list[Tensor | None]:
    x = x.clone().requires_grad_()
    loss = run(x).float().square().mean()
    return list(torch.autograd.grad(loss, [x, *(p for p in model.parameters() if p.requires_grad)], allow_unused=True))


def images(number: int = 24) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)


@pytest.mark.parametrize("seed", range(16))
def test_random_models(seed: int):
    for make, expected in ((affine_model, "right"), (other_model, "refused")):
        model, names = make(seed)
        model.to(DEVICE)
        if runs_there(copy.deepcopy(model)):
            assert verdict(model, seed) == expected, names


@by_network
@pytest.mark.parametrize(
    "rule", [lb.Linear(), lb.MeanLinear(), lb.LocallyExact(lb.Linear()), lb.LocallyExact(lb.MeanLinear())], ids=repr
)
def test_collapse_agrees_with_convert(build: Build, options: dict, rule: lb.BackwardRule):
    torch.manual_seed(0)
    model = build().to(DEVICE)
    found = gradients(lb.collapse(model, rule, always=True, **options), model, images())
    if isinstance(rule, lb.LocallyExact):
        on_cpu = copy.deepcopy(model).cpu()
        expected = gradients(lb.collapse(on_cpu, rule, always=True, **options), on_cpu, images().cpu())
        expected = [None if g is None else g.to(DEVICE) for g in expected]
    else:
        with lb.convert(model, rule, **options):
            expected = gradients(model, model, images())
    assert max_difference(found, expected) < 1e-7


def test_accumulated_micro_batches_are_the_whole_batch():
    torch.manual_seed(0)
    model = vgg19(1 / 16, nn.ReLU, batch_norm=False, pooling="average").to(DEVICE)
    fast = lb.collapse(model, always=True)
    fast(images()).square().mean().backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    with fast.accumulate():
        for part in images().split(8):
            (fast(part).square().mean() / 3).backward()
    assert max_difference([p.grad for p in model.parameters()], expected) < 1e-7


@by_network
def test_a_collapsed_model_moves_to_the_device(build: Build, options: dict):
    torch.manual_seed(0)
    model = build()
    fast = lb.collapse(model, always=True, **options)
    expected = gradients(fast, model, images().cpu())
    fast.to(DEVICE)
    found = [None if g is None else g.cpu() for g in gradients(fast, model, images())]
    assert max_difference(found, expected) < 1e-7


@by_network
def test_bfloat16_autocast_is_as_close_as_backprop_in_it(build: Build, options: dict):
    torch.manual_seed(0)
    model = build().float().to(DEVICE)
    x = images().float()
    fast = lb.collapse(model, always=True, **options)
    exact = gradients(fast, model, x)
    twin = copy.deepcopy(model)
    with lb.convert(twin, **options), torch.autocast(DEVICE, torch.bfloat16):
        converted = gradients(twin, twin, x)
    with torch.autocast(DEVICE, torch.bfloat16):
        halved = gradients(fast, model, x)
    for found, theirs, right in zip(halved, converted, exact, strict=True):
        assert found is not None and theirs is not None and right is not None
        norm = right.norm()
        assert (found - right).norm() <= 2 * (theirs - right).norm() + 0.05 * norm


@by_network
def test_compiled(build: Build, options: dict):
    torch.manual_seed(0)
    model = build().float().to(DEVICE)
    x = images().float()
    expected = gradients(lb.collapse(model, always=True, **options), model, x)
    found = gradients(lb.collapse(model, always=True, compile=True, **options), model, x)
    for a, b in zip(found, expected, strict=True):
        assert difference(a, b, 1e-3) < 1e-3


def test_an_attack_and_an_attribution_run_there():
    torch.manual_seed(0)
    model = vgg19(1 / 16, nn.ReLU).to(DEVICE).eval()
    x = images(4).double().sigmoid()
    labels = torch.arange(4, device=DEVICE)
    adversarial = lb.attacks.BPA(model, after="", random_start=True, generator=torch.Generator(DEVICE))(x, labels)
    assert adversarial.is_cuda and 0 < (adversarial - x).abs().max() <= 8 / 255 + 1e-9
    attribution, delta = lb.attribution.DeepLift(model).attribute(x, target=0, return_convergence_delta=True)
    assert attribution.is_cuda and delta.abs().max() < 1e-8
