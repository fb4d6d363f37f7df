"""The collapsed backward pass equals the ordinary Linear one, and refuses whatever it would get wrong."""

import copy
import itertools
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

N, C = 40, 5
# float64 sums in another order, over networks of a dozen layers.
RTOL = 1e-10


class Residual(nn.Module):
    """Strided and circular convolutions, eval-mode batch normalization, residual sums, concatenation, in-place SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", groups=2)
        self.third = nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.bias = nn.Parameter(torch.randn(4, 1, 1))
        self.head = nn.Linear(16, C)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.norm(self.first(x)))
        h = torch.tanh(self.second(F.pad(h, (1, 1, 0, 0)))[..., 1:-1] * 0.5 + h)
        h = F.silu(self.third(torch.cat([h, self.second(h)], 1)) + self.bias, inplace=True)
        h = F.interpolate(h, scale_factor=2, mode="bilinear")
        return self.head(F.adaptive_avg_pool2d(h, 2).flatten(1))


def residual() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().double().eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    return model


def mlp(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def image_batch(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=generator), torch.randint(
        C, (n,), generator=generator
    )


def ordinary(model: nn.Module, x: Tensor, loss_fn) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients (input first) by `convert`, on a copy."""
    twin = copy.deepcopy(model)
    lb.convert(twin)
    x = x.detach().clone().requires_grad_()
    y = twin(x)
    parameters = [p for p in twin.parameters() if p.requires_grad]
    return y, list(torch.autograd.grad(loss_fn(y), [x, *parameters]))


def collapsed(model: nn.Module, x: Tensor, loss_fn) -> tuple[Tensor, list[Tensor]]:
    x = x.detach().clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = lb.collapse(model, check=True, always=True)(x)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return y, list(torch.autograd.grad(loss_fn(y), [x, *parameters]))


def assert_same(got: list[Tensor], expected: list[Tensor], rtol: float = RTOL) -> None:
    scale = max(theirs.abs().max().item() for theirs in expected)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda y: F.cross_entropy(y, image_batch()[1]),
        lambda y: y.square().sum(),
        lambda y: (y.logsumexp(1) * y.mean(1)).max() + y[:, 0].sum() * 1e-9,
        lambda y: torch.cdist(y, y).mean(),
    ],
    ids=["cross-entropy", "squares", "one sample almost alone", "across samples"],
)
def test_a_residual_convnet_s_gradients(loss_fn):
    x, _ = image_batch()
    model = residual()
    (y, got), (y_ref, expected) = collapsed(model, x, loss_fn), ordinary(model, x, loss_fn)
    assert torch.equal(y, y_ref)
    assert_same(got, expected)


def test_an_output_that_no_loss_reads_gets_no_gradient():
    model, x = mlp(3, 8, C), torch.randn(N, 3, dtype=torch.float64)
    _, got = collapsed(model, x, lambda y: y[:, 1:].square().sum())
    assert torch.equal(got[-1][0], torch.zeros((), dtype=torch.float64))
    _, nothing = collapsed(model, x, lambda y: y.sum() * 0)
    assert all(g.count_nonzero() == 0 for g in nothing)


LAYERS = st.lists(
    st.tuples(
        st.sampled_from(["conv", "depthwise", "dilated", "transposed", "pointwise", "pool", "norm", "residual"]),
        st.sampled_from(["relu", "tanh", "gelu", "silu", "elu", "sigmoid", "softplus", "hardtanh", "none"]),
    ),
    min_size=1,
    max_size=6,
)


class Drawn(nn.Module):
    """A network as hypothesis draws it, on 6x6 images of 4 channels."""

    def __init__(self, layers: list[tuple[str, str]]) -> None:
        super().__init__()
        self.kinds = [kind for kind, _ in layers]
        self.activations = [activation for _, activation in layers]
        self.layers = nn.ModuleList(self.layer(kind) for kind in self.kinds)
        self.head = nn.Linear(4, 3)

    @staticmethod
    def layer(kind: str) -> nn.Module:
        return {
            "conv": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
            "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, padding_mode="replicate"),
            "transposed": lambda: nn.ConvTranspose2d(4, 4, 3, padding=1),
            "pointwise": lambda: nn.Conv2d(4, 4, 1),
            "pool": lambda: nn.AvgPool2d(3, stride=1, padding=1),
            "norm": lambda: nn.BatchNorm2d(4),
            "residual": lambda: nn.Conv2d(4, 4, 3, padding=1),
        }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        for kind, activation, layer in zip(self.kinds, self.activations, self.layers, strict=True):
            z = layer(x) + x / 2 if kind == "residual" else layer(x)
            x = z if activation == "none" else getattr(F, activation)(z)
        return self.head(x.mean((2, 3)))


@settings(max_examples=40, deadline=None)
@given(layers=LAYERS, seed=st.integers(0, 1000), channels_last=st.booleans())
def test_any_architecture_of_the_allowed_set(layers: list[tuple[str, str]], seed: int, channels_last: bool):
    torch.manual_seed(seed)
    model = Drawn(layers).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(24, 4, 6, 6, dtype=torch.float64)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    target = torch.randint(3, (24,))
    with lb.backward_rule():
        inputs = x.clone().requires_grad_()
        expected = torch.autograd.grad(F.cross_entropy(model(inputs), target), [inputs, *model.parameters()])
    fast = lb.collapse(model, always=True, check=True)
    got = torch.autograd.grad(F.cross_entropy(fast(inputs), target), [inputs, *model.parameters()])
    assert_same(list(got), list(expected))


@pytest.mark.parametrize(("conv", "size"), [(nn.Conv1d, (2, 9)), (nn.Conv3d, (2, 4, 4, 4))])
def test_convolutions_of_other_dimensions(conv, size):
    torch.manual_seed(0)
    model = nn.Sequential(conv(2, 6, 2), nn.ReLU(), conv(6, 6, 2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    x = torch.randn(N, *size, dtype=torch.float64)
    model(x)
    loss_fn = lambda y: y.square().mean()  # noqa: E731
    assert_same(collapsed(model, x, loss_fn)[1], ordinary(model, x, loss_fn)[1])


def test_token_wise_networks_with_more_leading_dimensions():
    model, x = mlp(3, 16, 16, 2), torch.randn(6, 9, 3, dtype=torch.float64)
    loss_fn = lambda y: y.square().mean()  # noqa: E731
    assert_same(collapsed(model, x, loss_fn)[1], ordinary(model, x, loss_fn)[1])


def test_shared_and_frozen_parameters():
    model = mlp(3, 16, 16, 16, 2)
    model[4] = model[2]
    model[0].weight.requires_grad_(False)
    x = torch.randn(N, 3, dtype=torch.float64)
    loss_fn = lambda y: y.square().mean()  # noqa: E731
    assert_same(collapsed(model, x, loss_fn)[1], ordinary(model, x, loss_fn)[1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_micro_batches_are_exact(reduction: str):
    x, target = image_batch()
    model = residual()
    _, expected = ordinary(model, x, lambda y: F.cross_entropy(y, target, reduction=reduction))
    fast = lb.collapse(model)
    with fast.accumulate():
        for part, t in zip(x.split([13, 20, 7]), target.split([13, 20, 7]), strict=True):
            loss = F.cross_entropy(fast(part), t, reduction="sum")
            (loss / N if reduction == "mean" else loss).backward()
            assert all(p.grad is None for p in model.parameters())
    assert_same([p.grad for p in model.parameters()], expected[1:])


def test_accumulate_refuses_and_recovers():
    model = mlp(3, 16, 2)
    fast = lb.collapse(model, always=True)
    x = torch.randn(N, 3, dtype=torch.float64)
    with pytest.raises(lb.LinearBackpropError, match="already open"), fast.accumulate(), fast.accumulate():
        pass
    with pytest.raises(lb.LinearBackpropError, match="no backward pass ran inside"), fast.accumulate():
        fast(x)
    with pytest.raises(lb.LinearBackpropError, match="or with inputs=, which adds nothing"), fast.accumulate():
        fast(x).sum().backward(inputs=list(model.parameters()))
    with pytest.raises(ZeroDivisionError), fast.accumulate():
        fast(x).sum().backward()
        raise ZeroDivisionError
    assert all(p.grad is None for p in model.parameters())
    fast(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_parameters_and_state_are_the_model_s():
    model = mlp(3, 16, 2)
    fast = lb.collapse(model)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [p is q for p, q in zip(fast.parameters(), model.parameters(), strict=True)] == [True] * 4
    fast.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    fast.float()
    assert next(model.parameters()).dtype == torch.float32
    assert fast.eval() is fast and not model.training


def test_training_with_momentum_and_weight_decay_follows_the_ordinary_path():
    x, target = image_batch()
    runs = []
    for prepare in (lambda m: lb.convert(m) and m, partial(lb.collapse, always=True)):
        model = residual()
        run = prepare(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(run(x), target).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        runs.append([p.detach() for p in model.parameters()])
    assert_same(*runs, rtol=1e-9)


def test_a_parameter_changed_before_the_backward_pass_is_refused():
    model = mlp(3, 16, 2)
    loss = lb.collapse(model, always=True)(torch.randn(N, 3, dtype=torch.float64)).sum()
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_ordinary_path_is_taken_where_it_is_cheaper_and_said_once():
    model = mlp(3, 16, 20)
    fast = lb.collapse(model)
    x = torch.randn(8, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="8 samples are too few for 20 outputs"):
        y = fast(x)
    assert_same(
        list(torch.autograd.grad(y.square().sum(), model.parameters())),
        ordinary(model, x, lambda y: y.square().sum())[1][1:],
    )
    fast(x)  # a second warning would be an error


def test_the_aggregates_are_all_that_micro_batches_keep():
    model = mlp(3, 16, 2)
    fast = lb.collapse(model)
    sizes = []
    with fast.accumulate():
        for _ in range(3):
            fast(torch.randn(N, 3, dtype=torch.float64)).sum().backward()
            (group,) = fast._engine._accumulation._groups
            sizes.append(sum(z.numel() for z in group.total.rows))
    assert sizes == [(2 + 1) * (3 + 16)] * 3


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            nn.MaxPool2d(2),
            "MaxPool2d at '2' cannot be collapsed: which input it takes depends on the sample. Give it a linear rule",
        ),
        (nn.AdaptiveMaxPool2d(2), "AdaptiveMaxPool2d at '2'"),
        (
            nn.BatchNorm2d(4),
            "BatchNorm2d at '2' cannot be collapsed: its statistics are of the batch. Give it a linear rule",
        ),
        (nn.BatchNorm2d(4, track_running_stats=False).eval(), "its statistics are of the batch"),
        (nn.GroupNorm(2, 4), "GroupNorm at '2' cannot be collapsed: its statistics are of the sample"),
        (nn.InstanceNorm2d(4), "InstanceNorm2d at '2'"),
        (nn.LayerNorm([4, 6, 6]), "LayerNorm at '2'"),
        (nn.Dropout(0.5), "Dropout at '2' cannot be collapsed: it drops other units for every sample"),
        (nn.Softmax(1), "Softmax at '2'"),
        (nn.LocalResponseNorm(2), "LocalResponseNorm at '2'"),
        (nn.GLU(1), "GLU at '2' cannot be collapsed: it multiplies activations"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_modules_that_depend_on_the_sample_are_refused_by_name(layer: nn.Module, reason: str):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), layer)
    with pytest.raises(lb.CollapseError, match=reason):
        lb.collapse(model)(torch.randn(40, 3, 8, 8))


@pytest.mark.parametrize(
    ("module", "x", "message"),
    [
        (nn.Bilinear(2, 2, 2), (torch.randn(9, 2), torch.randn(9, 2)), "Bilinear at 'the model' cannot be collapsed"),
        (nn.MultiheadAttention(4, 2), (torch.randn(9, 3, 4),) * 3, "MultiheadAttention at 'the model' cannot be coll"),
        (nn.LSTM(3, 3), (torch.randn(9, 5, 3),), "cannot be captured whole.*LSTM"),
        (nn.Embedding(5, 3), (torch.randint(5, (9,)),), "Embedding at 'the model' .*its input is an index"),
        (torch.jit.trace(nn.Linear(3, 3), torch.randn(9, 3)), (torch.randn(9, 3),), "cannot be captured whole"),
    ],
    ids=["Bilinear", "MultiheadAttention", "LSTM", "Embedding", "traced"],
)
def test_other_refused_modules(module: nn.Module, x: tuple[Tensor, ...], message: str):
    with pytest.raises(lb.CollapseError, match=message):
        lb.collapse(module)(*x)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda h: F.max_pool2d(h, 2),
        lambda h: h * h,
        lambda h: h - h.mean(0),
        lambda h: h / h.norm(dim=1, keepdim=True),
        lambda h: h.softmax(1),
        lambda h: F.dropout(h, 0.5),
        lambda h: h.abs(),
    ],
    ids=["max_pool2d", "square", "batch mean", "norm", "softmax", "dropout", "abs"],
)
@pytest.mark.parametrize("above", [True, False], ids=["below an activation", "below the output"])
def test_functions_that_depend_on_the_sample_are_refused_before_training(spoil, above: bool):
    class Spoiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.above = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            h = spoil(torch.tanh(self.below(x)))
            h = torch.relu(self.above(h)) if above else h
            return h.flatten(2).mean(2)

    torch.manual_seed(0)
    with pytest.raises(lb.CollapseError, match=r"at 'the model' cannot be collapsed: .*\[test_collapse.py:\d+: "):
        lb.collapse(Spoiled())(torch.randn(40, 3, 12, 12))


@pytest.mark.parametrize(
    "write",
    [
        lambda h, x: h.add_(1),
        lambda h, x: h.mul_(2),
        lambda h, x: h.add_(x),
        lambda h, x: torch.relu_(h),
        lambda h, x: h.view(-1, 3, 1).mul_(2),
        lambda h, x: h[:, :1].copy_(x[:, 1:2]),
        lambda h, x: h.__setitem__((slice(None), slice(0, 1)), 0.0),
    ],
    ids=["add", "mul", "add input", "activation", "view", "copy", "setitem"],
)
def test_a_forward_that_overwrites_an_activation(write):
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            h = torch.tanh(self.layer(x))
            write(h, x)
            return self.layer(h)

    model = Overwrites().double()
    x = torch.randn(N, 3, dtype=torch.float64)
    loss_fn = lambda y: y.square().mean()  # noqa: E731
    fast = lb.collapse(model, always=True)
    got = torch.autograd.grad(loss_fn(fast(x)), model.parameters())
    assert_same(list(got), ordinary(model, x, loss_fn)[1][1:])


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Sequential(nn.Linear(3, 3)), torch.ones(N, 3, dtype=torch.long), "Linear at '0' fails .*the same dtype"),
        (nn.Linear(3, 3), torch.ones(0, 3), "the batch is empty"),
        (nn.Linear(3, 3), torch.tensor(1.0), "a tensor of samples"),
    ],
)
def test_what_cannot_be_combined_is_refused(model, x, message):
    with pytest.raises(lb.CollapseError, match=message):
        lb.collapse(model)(x)


def test_a_converted_model_is_refused():
    model = mlp(3, 4, 2)
    lb.convert(model)
    with pytest.raises(lb.CollapseError, match="remove"):
        lb.collapse(model)


def test_bf16_is_no_worse_than_the_ordinary_path():
    torch.manual_seed(0)
    model = mlp(64, 128, 128, 128, 10).float()
    x, target = torch.randn(512, 64), torch.randint(10, (512,))
    _, exact = ordinary(copy.deepcopy(model).double(), x.double(), lambda y: F.cross_entropy(y, target))

    def error(run) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(run(x).float(), target)
        got = torch.autograd.grad(loss, model.parameters())
        difference = sum((ours - theirs).square().sum() for ours, theirs in zip(got, exact[1:], strict=True))
        return (difference / sum(g.square().sum() for g in exact[1:])).sqrt().item()

    fast = error(lb.collapse(model, always=True))
    with lb.convert(model):
        slow = error(model)
    assert fast <= 1.1 * slow, (fast, slow)


def test_compiled():
    torch.compiler.reset()
    model = mlp(3, 32, 32, 2)
    x = torch.randn(64, 3, dtype=torch.float64)
    fast = lb.collapse(torch.compile(model, backend="aot_eager"), always=True)
    got = torch.autograd.grad(fast(x).square().sum(), model.parameters())
    assert_same(list(got), ordinary(model, x, lambda y: y.square().sum())[1][1:])
