"""Attacks against loops written by hand; what they leave as it was; and what they refuse."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from networks import BottleneckNetwork, small_vgg
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop.attacks import BPA, IterativeFGSM, LinBP

EPS, ALPHA = 8 / 255, 2 / 255


def linearized(a: Tensor) -> Tensor:
    """ReLU with derivative 1, as Guo et al. write it: x + relu(-x), the latter without a gradient."""
    return a + torch.relu(-a).detach()


def images(number: int = 6, size: int = 16, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(number, 3, size, size, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(5, (number,), generator=generator)


def by_hand(forward, x: Tensor, y: Tensor, steps: int = 4, momentum: float = 0.0, sign: float = 1.0) -> Tensor:
    """MI-FGSM, written from Dong et al.'s algorithm 1, an image at a time; I-FGSM where the momentum is 0."""
    results = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        adversarial, summed = image.clone(), torch.zeros_like(image)
        for _ in range(steps):
            leaf = adversarial.clone().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(forward(leaf), label), leaf)
            norm = grad.abs().sum()
            summed = momentum * summed + (grad / norm if norm else grad)
            adversarial = adversarial + sign * ALPHA * summed.sign()
            adversarial = torch.max(torch.min(adversarial, image + EPS), image - EPS).clamp(0, 1)
        results.append(adversarial)
    return torch.cat(results)


def vgg() -> nn.Sequential:
    torch.manual_seed(0)
    return small_vgg().double().eval()


def resnet() -> BottleneckNetwork:
    torch.manual_seed(0)
    return BottleneckNetwork().double().eval()


@pytest.mark.parametrize("momentum", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("targeted", [False, True])
def test_iterative_fgsm_is_the_loop_by_hand(momentum: float, targeted: bool):
    model, (x, y) = vgg(), images()
    got = IterativeFGSM(model, EPS, ALPHA, 4, momentum=momentum, targeted=targeted)(x, y)
    torch.testing.assert_close(got, by_hand(model, x, y, 4, momentum, -1.0 if targeted else 1.0))
    assert (got - x).abs().max() <= EPS + 1e-12
    assert got.min() >= 0 and got.max() <= 1


def vgg_with(model: nn.Sequential, first_linear: int):
    """The forward pass with every ReLU from one module on linearized, written out."""

    def forward(x: Tensor) -> Tensor:
        for position, module in enumerate(model.features):
            relu = isinstance(module, nn.ReLU)
            x = linearized(x) if relu and position > first_linear else module(x)
        return model.classifier(x.flatten(1))

    return forward


@pytest.mark.parametrize("after", [0, 3, 6, 9])
def test_linbp_is_the_paper_s_formulation_on_a_vgg(after: int):
    model, (x, y) = vgg(), images()
    leaf, twin = x.clone().requires_grad_(), x.clone().requires_grad_()
    with lb.convert(model, lb.Linear(), lb.after(f"features.{after}")):
        (got,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    (expected,) = torch.autograd.grad(F.cross_entropy(vgg_with(model, after)(twin), y), twin)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-16)
    attack = LinBP(model, EPS, ALPHA, 4, after=f"features.{after}", momentum=1.0)
    torch.testing.assert_close(attack(x, y), by_hand(vgg_with(model, after), x, y, 4, 1.0))


def resnet_with(model: BottleneckNetwork, linear_from: int):
    """The forward pass with the first two ReLUs of each block from one on linearized, as Guo et al. do, written out."""

    def forward(x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(model.stem(x)), 2)
        for position, block in enumerate(model.blocks):
            relu = linearized if position >= linear_from else torch.relu
            h = relu(block.bn1(block.conv1(x)))
            h = relu(block.bn2(block.conv2(h)))
            x = torch.relu(block.bn3(block.conv3(h)) + x)
        return model.head(x.mean((2, 3)))

    return forward


@pytest.mark.parametrize("linear_from", [0, 1, 2])
def test_linbp_is_the_paper_s_formulation_on_a_resnet_that_runs_its_relu_three_times_a_block(linear_from: int):
    model, (x, y) = resnet(), images()
    where = [lb.calls(f"blocks.{block}.relu", 0, 1) for block in range(linear_from, 3)]
    attack = IterativeFGSM(model, EPS, ALPHA, 4, rule=lb.Linear(), where=where)
    forward = resnet_with(model, linear_from)
    torch.testing.assert_close(attack(x, y), by_hand(forward, x, y))
    leaf, twin = x.clone().requires_grad_(), x.clone().requires_grad_()
    with lb.convert(model, lb.Linear(), where):
        (got,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    (expected,) = torch.autograd.grad(F.cross_entropy(forward(twin), y), twin)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-16)


class SiLUSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a.clamp(min=0)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        s = torch.sigmoid(ctx.saved_tensors[0])
        return g * s * (1 + ctx.saved_tensors[0] * (1 - s))


class SoftPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return F.max_pool2d(a, 2)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        n, c, height, width = a.shape
        windows = F.unfold(a.reshape(n * c, 1, height, width), 2, stride=2)
        shares = torch.softmax(10.0 * windows, 1) * g.reshape(n * c, 1, -1)
        return F.fold(shares, (height, width), 2, stride=2).view_as(a)


def test_bpa_is_silu_s_slope_after_the_layer_and_softened_pooling_everywhere():
    model, (x, y) = vgg(), images()

    def forward(x: Tensor) -> Tensor:
        for position, module in enumerate(model.features):
            if isinstance(module, nn.ReLU) and position > 3:
                x = SiLUSlope.apply(x)
            else:
                x = SoftPool.apply(x) if isinstance(module, nn.MaxPool2d) else module(x)
        return model.classifier(x.flatten(1))

    torch.testing.assert_close(BPA(model, EPS, ALPHA, 4, after="features.3")(x, y), by_hand(forward, x, y))


def test_a_random_start_lies_within_eps_and_is_drawn_by_the_generator():
    model, (x, y) = vgg(), images()
    first, again, other = (
        IterativeFGSM(model, EPS, ALPHA, 0, random_start=True, generator=torch.Generator().manual_seed(seed))(x, y)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    changes = (first - x).abs()
    assert 0.9 * EPS < changes.max() <= EPS + 1e-12 and first.min() >= 0 and first.max() <= 1
    state = torch.get_rng_state()
    IterativeFGSM(model, steps=1)(x, y)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_of_the_model_is_changed():
    model, (x, y) = vgg(), images()
    frozen = model.features[0]
    frozen.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    for attack in (IterativeFGSM(model), LinBP(model, after="features.3"), BPA(model, after="features.3")):
        attack(x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all((parameter.grad == 1).all() for parameter in model.parameters() if parameter.requires_grad)
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert not x.requires_grad and x.grad is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_it_runs_wherever_it_is_called_and_leaves_grad_mode_alone(context):
    model, (x, y) = vgg(), images()
    expected = LinBP(model, after="features.3")(x, y)
    with context():
        enabled, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert torch.equal(LinBP(model, after="features.3")(x.clone(), y.clone()), expected)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (enabled, inference)
    with_graph = x.clone().requires_grad_()
    got = IterativeFGSM(model)(with_graph, y)
    assert not got.requires_grad and with_graph.grad is None


def test_a_failing_model_is_left_as_it_was():
    model, (x, y) = vgg(), images()
    attack = LinBP(model, after="features.3")
    handle = model.classifier.register_forward_pre_hook(lambda module, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attack(x, y)
    handle.remove()
    assert all("forward" not in vars(module) for module in model.modules())


def test_frozen_weights_and_a_model_that_overwrites_its_input():
    class Normalized(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.sub_(0.5).div_(0.25))

    model, (x, y) = Normalized(vgg()).requires_grad_(False).eval(), images()
    kept = x.clone()
    got = LinBP(model, EPS, ALPHA, 4, after="inner.features.3")(x, y)
    expected = by_hand(lambda z: vgg_with(model.inner, 3)((z - 0.5) / 0.25), x, y)
    torch.testing.assert_close(got, expected)
    assert torch.equal(x, kept)


def test_mixed_precision():
    class Mixed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    x, y = images(dtype=torch.float32)
    model = Mixed(vgg().float()).eval()
    got = BPA(model, after="inner.features.3")(x, y)
    assert got.dtype == torch.float32 and 0 < (got - x).abs().max() <= EPS + 1e-6
    # Most signs are those of full precision.
    full = BPA(model.inner, after="features.3")(x, y)
    assert ((got - x).sign() == (full - x).sign()).double().mean() > 0.8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("random_start", [False, True])
def test_coarse_images_are_changed_by_eps_and_never_by_more(dtype: torch.dtype, random_start: bool):
    """Steps of a quarter of what bfloat16 tells apart near 1 add up, and rounding does not lead beyond eps."""
    x, y = images(dtype=dtype)
    for eps in (EPS, 4 / 255, 0.1):
        got = IterativeFGSM(vgg().to(dtype), eps, 1 / 1024, 150, momentum=1.0, random_start=random_start)(x, y)
        change = (got.double() - x.double()).abs()
        assert got.dtype == dtype and got.min() >= 0 and got.max() <= 1 and change.max() <= eps
        free = (got > 0) & (got < 1) & (x > 0.5)
        assert (change[free] > eps / 2).double().mean() > 0.7


def test_a_large_gradient_is_a_finite_one():
    """Its sum is infinite in float32."""
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double().eval(), images(size=2)
    model[1].weight.data *= 1e39
    torch.testing.assert_close(IterativeFGSM(model, EPS, ALPHA, 4)(x, y), by_hand(model, x, y))


def test_momentum_in_float16_is_that_of_float32():
    """A gradient on one pixel of many is as large as their number, which float16 cannot hold."""

    class OnePixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = x[:, 0, 0, 0] - 0.5
            return torch.stack([z * z, 0 * z], 1)

    x, y = torch.full((1, 3, 200, 200), 0.5, dtype=torch.float16), torch.zeros(1, dtype=torch.long)
    x[..., 0, 0] = 0.49
    got, expected = (IterativeFGSM(OnePixel().eval(), EPS, ALPHA, 6, momentum=1.0)(z, y) for z in (x, x.float()))
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=2e-3)  # two steps of float16 at 0.5 are 1e-3
    assert (got - x).abs().max() > ALPHA / 2


def test_rule_none_follows_the_conversion_that_the_model_is_under():
    model, (x, y) = vgg(), images()
    expected = LinBP(model, EPS, ALPHA, 4, after="features.3")(x, y)
    with lb.convert(model, lb.Linear(), lb.after("features.3")):
        assert torch.equal(IterativeFGSM(model, EPS, ALPHA, 4)(x, y), expected)
        exact = IterativeFGSM(model, EPS, ALPHA, 4, rule=lb.Exact())(x, y)
    assert torch.equal(exact, IterativeFGSM(model, EPS, ALPHA, 4)(x, y))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's own, of a compiled model's input
def test_a_compiled_model():
    torch.compiler.reset()
    model, (x, y) = vgg(), images()
    expected = LinBP(model, after="features.3", momentum=1.0)(x, y)
    with lb.convert(model, lb.Linear(), lb.after("features.3")):
        compiled = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(IterativeFGSM(compiled, momentum=1.0)(x, y), expected)


def test_images_whose_gradient_is_zero_stay():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    nn.init.constant_(model[1].bias, -100.0)  # every unit is off
    x, y = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
    for momentum in (0.0, 1.0):
        assert torch.equal(IterativeFGSM(model, momentum=momentum)(x, y), x)
        renormalized = IterativeFGSM(model, momentum=momentum, rule=lb.Renormalized(lb.Linear()))
        assert torch.equal(renormalized(x, y), x)


def test_an_empty_batch_and_no_step():
    model, (x, y) = vgg(), images()
    assert IterativeFGSM(model)(x[:0], y[:0]).shape == (0, 3, 16, 16)
    assert torch.equal(IterativeFGSM(model, steps=0)(x, y), x)
    assert torch.equal(IterativeFGSM(model, eps=0)(x, y), x)


def test_numbers_of_any_type_are_plain_ones():
    model, (x, y) = vgg(), images()
    attack = IterativeFGSM(model, Fraction(8, 255), np.float64(2 / 255), np.int64(3), momentum=Fraction(1, 2))
    plain = IterativeFGSM(model, 8 / 255, 2 / 255, 3, momentum=0.5)
    assert repr(attack) == repr(plain)
    assert torch.equal(attack(x, y), plain(x, y))


def test_labels_of_any_integer_type():
    model, (x, y) = vgg(), images()
    expected = IterativeFGSM(model, steps=2)(x, y)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(IterativeFGSM(model, steps=2)(x, y.to(dtype)), expected)


X, Y = images()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (255 * X, Y, r"images must lie in \[0, 1\], got values from .* to 25"),
        (X - 0.5, Y, r"images must lie in \[0, 1\]"),
        (torch.where(X > 0.99, torch.nan, X), Y, r"images must lie in \[0, 1\], got values from nan"),
        ((255 * X).to(torch.uint8), Y, "got torch.uint8, shape .*; divide bytes by 255"),
        (X.tolist(), Y, "images must be a floating-point tensor"),
        (X.to_sparse(), Y, r"a dense tensor, got the layout torch.sparse_coo; call .to_dense\(\)"),
        (X[0, 0, 0], Y, "images must be a floating-point tensor"),
        (X, Y.float(), "labels must be class indices, .* got torch.float32"),
        (X, F.one_hot(Y), r"a tensor of integers of shape \(6,\), got torch.int64, shape \(6, 5\)"),
        (X, Y[:3], r"got torch.int64, shape \(3,\)"),
        (X, Y.bool(), "got torch.bool"),
        (X, Y.tolist(), "labels must be class indices"),
        (X, Y + 3, "labels must lie in 0 to 4, the model's classes; got 3 to 7"),
        (X, Y - 1, "labels must lie in 0 to 4"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(x, y, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message):
        IterativeFGSM(vgg())(x, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -0.1}, "eps must be 0 or more and finite, got -0.1"),
        ({"eps": 8}, "eps must be 1 at most, as images lie in .* got 8.0; divide by 255"),
        ({"eps": [4 / 255, 8 / 255]}, r"eps must be a number, got \[0.01"),
        ({"alpha": 2.0}, "alpha must be 1 at most"),
        ({"alpha": torch.nan}, "alpha must be 0 or more and finite, got nan"),
        ({"eps": True}, "eps must be a number, got True"),
        ({"alpha": torch.tensor(0.1)}, r"alpha must be a number, got tensor.* its .item\(\)"),
        ({"momentum": -1.0}, "momentum must be 0 or more"),
        ({"momentum": 10**400}, "momentum must be a number, got a value of type int"),
        ({"steps": -1}, "steps must be 0 or more, got -1"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"generator": 5}, r"generator must be a torch.Generator or None, got 5; .*manual_seed\(seed\)"),
        ({"layers": lb.AveragedMaximum()}, r"write layers=\[AveragedMaximum\(\)\]"),
        ({"where": "features.*"}, "where selects what follows a rule"),
        ({"rule": lb.Linear}, "Linear is a class"),
        ({"rule": lb.Linear(), "where": "layer4.*"}, "matches no module of the model"),
        ({"rule": lb.Linear(), "where": "classifier"}, "no elementwise activation to change"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(settings, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message):
        IterativeFGSM(vgg(), **settings)


@pytest.mark.parametrize("attack", [LinBP, BPA])
def test_a_name_that_does_not_exist_is_refused_at_once(attack):
    with pytest.raises(lb.LinearBackpropError, match=r"after\('layer3.0'\): the model has no such module; .*features"):
        attack(vgg(), after="layer3.0")
    with pytest.raises(lb.LinearBackpropError, match=r"after takes a module's path, .* got 2"):
        attack(vgg(), after=2)
    with pytest.raises(lb.LinearBackpropError, match="an attack needs a module, got <built-in"):
        attack(torch.relu, after="layer3.0")


class Calling(nn.Module):
    """A network whose own code calls an activation, after modules or beside none."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(3 * 16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.features(x) - 0.5).flatten(1))


def calling(features: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return Calling(features).double().eval()


@pytest.mark.parametrize(
    "make",
    [vgg, lambda: calling(nn.Identity()), lambda: calling(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()))],
    ids=["modules", "calls", "both"],
)
def test_after_nothing_is_after_all(make):
    model, (x, y) = make(), images()
    everything = IterativeFGSM(model, rule=lb.Linear())(x, y)
    assert torch.equal(LinBP(model, after="")(x, y), everything)


def test_models_that_cannot_be_attacked_are_refused():
    x, y = images()
    with pytest.raises(lb.LinearBackpropError, match="the model is in training mode"):
        IterativeFGSM(vgg().train())(x, y)
    partly = vgg()
    partly.features[1].train()
    with pytest.raises(lb.LinearBackpropError, match=r"module 'features.1' of the model is in training mode"):
        IterativeFGSM(partly)(x, y)

    class Other(nn.Module):
        def __init__(self, output) -> None:
            super().__init__()
            self.output, self.inner = output, vgg()

        def forward(self, x: Tensor):
            return self.output(self.inner(x))

    for output, message in [
        (lambda h: (h, h), "must return real logits of shape .*N = 6 images, got <class 'tuple'>"),
        (lambda h: h.sum(1), r"got torch.float64, shape \(6,\)"),
        (lambda h: h[:3], r"got torch.float64, shape \(3, 5\)"),
        (torch.fft.fft, r"got torch.complex128, shape \(6, 5\)"),
        (lambda h: h[:, :1], r"two classes or more, got shape \(6, 1\): .* the two logits \(0, z\)"),
        (lambda h: h.detach(), "does not depend on the images"),
        (lambda h: h / 0, "the gradient of the loss is not finite"),
    ]:
        with pytest.raises(lb.LinearBackpropError, match=message):
            IterativeFGSM(Other(output).eval())(x, y)


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_exported_model_is_in_the_mode_in_which_it_was_exported(wrapped: bool):
    model, (x, y) = vgg(), images()
    model.classifier = nn.Sequential(nn.Dropout(), model.classifier)
    expected = IterativeFGSM(model.eval())(x, y)
    for training in (False, True):
        exported = torch.export.export(model.train(training), (x,)).module()
        if wrapped:  # eval() is not the wrapper's, either
            exported = nn.Sequential(exported)
            exported.training = False
        if training:
            with pytest.raises(lb.LinearBackpropError, match=r"in training mode, .* before an export"):
                IterativeFGSM(exported)(x, y)
        else:
            torch.testing.assert_close(IterativeFGSM(exported)(x, y), expected)


def test_they_print_what_they_do():
    assert repr(IterativeFGSM(vgg())) == "<IterativeFGSM: eps=0.03137, alpha=0.007843, steps=10, momentum=0>"
    assert repr(LinBP(vgg(), after="features.3")).endswith("momentum=0, Linear()>")
    assert "Surrogate(function='silu')" in repr(BPA(vgg(), after="features.3"))


def test_a_copy_attacks_the_copy():
    model, (x, y) = vgg(), images()
    attack = LinBP(model, after="features.3")
    twin = copy.deepcopy(attack)
    assert torch.equal(twin(x, y), attack(x, y)) and twin.model is not model
