"""Models drawn at random, affine between their activations, or with one operation that is not.

    python tests/collapse/random_models.py [COUNT] [FIRST]

draws so many of either kind, compares collapse's gradients with convert's before and after a change of the parameters,
and prints which were not as they should be, and every hundred how many were right, refused, wrong or crashed.
"""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import linear_backprop as lb

FEATURES, TOKENS, SIDE, CHANNELS, OUTPUTS, SAMPLES = 6, 4, 5, 3, 3, 24
ACTIVATIONS = (torch.tanh, F.relu, F.gelu, torch.sigmoid, F.silu, F.elu, F.softplus, torch.Tensor.relu)


def buffer(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape), requires_grad=False)


class Step(nn.Module):
    """An operation on h, given the parameters and modules it was made with."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        self.parts = nn.ModuleDict({name: part for name, part in parts.items() if isinstance(part, nn.Module)})
        for name, part in parts.items():
            if not isinstance(part, nn.Module):
                self.register_parameter(name, part)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return self.run(self, h, x)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 2)


def linear(**options) -> nn.Linear:
    return nn.Linear(FEATURES, FEATURES, **options)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def in_place(h: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    h = h + 0
    write(h)
    return h


def overwritten(z: Tensor, x: Tensor) -> Tensor:
    z[:, ::2] = x[:, 1::2]
    return z


def looped(s, h, x):
    for _ in range(3):
        h = h / 2 + s.parts["a"](h)
    return h


def over_time(s, h, x):
    steps = h.unflatten(1, (3, 2)).transpose(0, 1)
    state = x.new_zeros(len(x), 2)
    outputs = []
    for step in steps:
        state = state @ s.w + step
        outputs.append(state)
    return torch.stack(outputs).permute(1, 0, 2).flatten(1)


def normed(module: nn.Module) -> nn.Module:
    nn.init.normal_(module.running_mean)
    nn.init.uniform_(module.running_var, 0.5, 2)
    return module.eval()


def tokens_in_the_batch(s, h, x):
    return s.parts["a"](h.unflatten(1, (2, 3)).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1)


def with_class_token(s, h, x):
    tokens = torch.cat([s.token.expand(len(h), -1, -1), h.unflatten(1, (2, 3))], 1)
    return torch.einsum("ntf,ut->nuf", tokens, s.w).flatten(1)


# Each makes a Step from (N, FEATURES) to the same.
AFFINE: dict[str, Callable[[], Step]] = {
    "linear": lambda: Step(lambda s, h, x: s.parts["a"](h), a=linear()),
    "no bias": lambda: Step(lambda s, h, x: s.parts["a"](h), a=linear(bias=False)),
    "frozen": lambda: Step(lambda s, h, x: s.parts["a"](h), a=frozen(linear())),
    "tied": lambda: Step(lambda s, h, x: s.parts["a"](h) + F.linear(h, s.parts["a"].weight.T), a=linear()),
    "twice": lambda: Step(lambda s, h, x: s.parts["a"](torch.tanh(s.parts["a"](h))), a=linear()),
    "residual": lambda: Step(lambda s, h, x: h + s.parts["a"](h), a=linear()),
    "weight norm": lambda: Step(lambda s, h, x: s.parts["a"](h), a=parametrizations.weight_norm(linear())),
    "orthogonal": lambda: Step(lambda s, h, x: s.parts["a"](h), a=parametrizations.orthogonal(linear())),
    "spectral norm": lambda: Step(lambda s, h, x: s.parts["a"](h), a=parametrizations.spectral_norm(linear()).eval()),
    "standardised": lambda: Step(lambda s, h, x: h @ ((s.w - s.w.mean(0)) / s.w.std(0)), w=weight(FEATURES, FEATURES)),
    "gate": lambda: Step(lambda s, h, x: h * torch.sigmoid(s.g), g=weight(FEATURES)),
    "softmax weights": lambda: Step(lambda s, h, x: h @ s.w.softmax(1), w=weight(FEATURES, FEATURES)),
    "mask": lambda: Step(lambda s, h, x: h * (s.m > 0), m=buffer(FEATURES)),
    "masked fill": lambda: Step(lambda s, h, x: h.masked_fill(s.m > 0, 0.5), m=buffer(FEATURES)),
    "where": lambda: Step(lambda s, h, x: torch.where(s.m > 0, h, 2 * h), m=buffer(FEATURES)),
    "second branch": lambda: Step(lambda s, h, x: torch.lerp(h, s.parts["a"](x), 0.3), a=linear()),
    "concatenated": lambda: Step(
        lambda s, h, x: s.parts["a"](torch.cat([h, x], 1)), a=nn.Linear(2 * FEATURES, FEATURES)
    ),
    "stacked": lambda: Step(lambda s, h, x: torch.stack([h, s.parts["a"](h)]).mean(0), a=linear()),
    "split": lambda: Step(lambda s, h, x: torch.cat([part * s.g for part in h.chunk(2, 1)][::-1], 1), g=weight(3)),
    "fft": lambda: Step(lambda s, h, x: torch.fft.irfft(torch.fft.rfft(h, dim=1) * 2, n=FEATURES, dim=1) + h),
    "cumsum": lambda: Step(lambda s, h, x: h.cumsum(1) / 3),
    "roll": lambda: Step(lambda s, h, x: h.roll(2, 1) + h.flip(1)),
    "gather": lambda: Step(
        lambda s, h, x: h[:, [3, 1, 1, 0, 5, 2]] + h.index_select(1, torch.tensor([5, 4, 3, 2, 1, 0]))
    ),
    "einsum": lambda: Step(lambda s, h, x: torch.einsum("ni,ij->nj", h, s.w), w=weight(FEATURES, FEATURES)),
    "batch norm": lambda: Step(lambda s, h, x: s.parts["a"](h), a=normed(nn.BatchNorm1d(FEATURES))),
    "in place": lambda: Step(lambda s, h, x: in_place(h, lambda z: z.add_(x).mul_(0.5))),
    "written": lambda: Step(lambda s, h, x: in_place(h, lambda z: z.__setitem__((slice(None), slice(0, 2)), 0.0))),
    "written half": lambda: Step(lambda s, h, x: in_place(h, lambda z: z[:, :3].copy_(x[:, 3:]))),
    "assembled": lambda: Step(lambda s, h, x: in_place(h.new_zeros(h.shape), lambda z: z[:, 1:].copy_(h[:, :-1]))),
    "activation overwritten": lambda: Step(lambda s, h, x: s.parts["a"](torch.tanh(h).mul_(0.5).add_(x)), a=linear()),
    "overwritten half": lambda: Step(lambda s, h, x: overwritten(F.silu(h), s.parts["a"](x)), a=linear()),
    "activated in place": lambda: Step(lambda s, h, x: torch.relu_(s.parts["a"](h)) + h, a=linear()),
    "clamped in place": lambda: Step(lambda s, h, x: s.parts["a"](h).clamp_(min=0)[:, [0, 1, 2, 2, 1, 0]], a=linear()),
    "detached": lambda: Step(lambda s, h, x: h + s.parts["a"](h.detach()), a=linear()),
    "without grad": lambda: Step(lambda s, h, x: h + without_grad(s, h), a=linear()),
    "ones": lambda: Step(lambda s, h, x: h * torch.ones(len(h), 1) + h.new_full((len(h), 1), 0.1)),
    "sizes": lambda: Step(lambda s, h, x: s.parts["a"](h.view(len(h), 2, -1).reshape(h.shape[0], -1)), a=linear()),
    "constant of its shape": lambda: Step(
        lambda s, h, x: h * s.g.type_as(h).expand_as(h) + s.g.to(h), g=weight(FEATURES)
    ),
    "mask of the input's": lambda: Step(lambda s, h, x: h * torch.zeros_like(h).add(s.g).gt(0), g=buffer(FEATURES)),
    "positions": lambda: Step(lambda s, h, x: s.parts["a"](torch.arange(FEATURES)).T + h, a=nn.Embedding(FEATURES, 1)),
    "integer power": lambda: Step(lambda s, h, x: h * (s.g ** torch.arange(FEATURES)), g=weight(FEATURES)),
    "loop": lambda: Step(looped, a=linear()),
    "recurrent": lambda: Step(over_time, w=weight(2, 2)),
    "tokens": lambda: Step(lambda s, h, x: s.parts["a"](h.view(-1, 2, 3)).flatten(1), a=nn.Linear(3, 3)),
    "tokens in the batch": lambda: Step(tokens_in_the_batch, a=nn.Linear(3, 3)),
    "time first": lambda: Step(
        lambda s, h, x: s.parts["a"](h.view(-1, 2, 3).transpose(0, 1)).transpose(0, 1).flatten(1), a=nn.Linear(3, 3)
    ),
    "class token": lambda: Step(with_class_token, token=weight(1, 1, 3), w=weight(2, 3)),
    "both halves": lambda: Step(lambda s, h, x: sum(s.parts["a"](torch.cat([h, x])).chunk(2)), a=linear()),
    "conv1d": lambda: Step(
        lambda s, h, x: s.parts["a"](h[:, None]).mean(1), a=nn.Conv1d(1, 3, 3, padding=1, padding_mode="circular")
    ),
    "conv2d": lambda: Step(
        lambda s, h, x: s.parts["a"](h.view(-1, 1, 2, 3)).mean(1).flatten(1),
        a=nn.Conv2d(1, 4, 3, padding=1, padding_mode="replicate"),
    ),
    "grouped": lambda: Step(
        lambda s, h, x: s.parts["a"](h.view(-1, 2, 3, 1)).flatten(1),
        a=nn.Conv2d(2, 2, (3, 1), padding=(1, 0), groups=2),
    ),
    "transposed": lambda: Step(
        lambda s, h, x: s.parts["a"](h.view(-1, 3, 2)).flatten(1)[:, :FEATURES], a=nn.ConvTranspose1d(3, 3, 2, stride=2)
    ),
    "dilated": lambda: Step(
        lambda s, h, x: s.parts["a"](h[:, None])[:, 0], a=nn.Conv1d(1, 1, 3, padding=2, dilation=2)
    ),
    "average": lambda: Step(lambda s, h, x: F.avg_pool1d(h[:, None], 3, 1, 1)[:, 0] + h),
    "upsampled": lambda: Step(lambda s, h, x: F.interpolate(h[:, None, ::2], size=FEATURES, mode="linear")[:, 0]),
    "shuffled": lambda: Step(
        lambda s, h, x: F.pixel_unshuffle(
            F.pixel_shuffle(torch.cat([h, x], 1)[:, :12].view(-1, 12, 1, 1), 2), 2
        ).flatten(1)[:, :FEATURES]
    ),
    "unfolded": lambda: Step(lambda s, h, x: h.unfold(1, 3, 1).sum(2) @ s.w, w=weight(4, FEATURES)),
    "padded": lambda: Step(
        lambda s, h, x: F.pad(h, (1, 1), value=0.5)[:, 1:-1] + F.pad(h[:, None], (2, 0), mode="reflect")[:, 0, 2:]
    ),
    "dropout off": lambda: Step(lambda s, h, x: s.parts["a"](h), a=nn.Dropout(0.5).eval()),
    "baddbmm": lambda: Step(lambda s, h, x: torch.addmm(x, h, s.w), w=weight(FEATURES, FEATURES)),
    "kron": lambda: Step(lambda s, h, x: h @ torch.kron(s.w, s.w)[:FEATURES, :FEATURES], w=weight(3, 3)),
    "outer product": lambda: Step(lambda s, h, x: (h[:, :, None] * s.g).sum(2), g=weight(4)),
    "prelu": lambda: Step(lambda s, h, x: s.parts["a"](h), a=nn.PReLU(FEATURES)),
    "learned clamp": lambda: Step(lambda s, h, x: torch.clamp(h, -s.g.abs(), s.g.abs() + 0.1), g=weight(FEATURES)),
    "checkpointed": lambda: Step(
        lambda s, h, x: checkpoint(s.parts["a"], h, use_reentrant=False), a=nn.Sequential(linear(), nn.ReLU(), linear())
    ),
}


def without_grad(s, h):
    with torch.no_grad():
        return s.parts["a"](h)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z.view_as(z)

    @staticmethod
    def backward(ctx, g):
        return -g


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.round(z)

    @staticmethod
    def backward(ctx, g):
        (z,) = ctx.saved_tensors
        return g * (z.abs() < 1)


# What is added to h, times a factor that may be zero.
NOT_AFFINE: dict[str, Callable[[Step, Tensor, Tensor], Tensor]] = {
    "product": lambda s, h, x: s.parts["a"](h) * h,
    "square": lambda s, h, x: h**2,
    "product with the input": lambda s, h, x: h * x,
    "gate of the sample": lambda s, h, x: h * torch.sigmoid(s.parts["a"](h)),
    "absolute": lambda s, h, x: h.abs(),
    "maximum": lambda s, h, x: torch.maximum(h, s.g),
    "far maximum": lambda s, h, x: torch.maximum(h, s.g - 50),
    "remainder": lambda s, h, x: torch.fmod(h, 100.0),
    "renorm": lambda s, h, x: torch.renorm(h, 2, 0, 1000.0),
    "softmax": lambda s, h, x: h.softmax(1),
    "logsumexp": lambda s, h, x: h.logsumexp(1, keepdim=True),
    "layer norm": lambda s, h, x: F.layer_norm(h, (FEATURES,)),
    "normalized": lambda s, h, x: F.normalize(h, dim=1),
    "norm": lambda s, h, x: h.norm(dim=1, keepdim=True),
    "sorted": lambda s, h, x: h.sort(1).values,
    "largest": lambda s, h, x: h.topk(FEATURES, 1).values,
    "max pooling": lambda s, h, x: F.max_pool1d(h[:, None], 3, 1, 1)[:, 0],
    "mask of the sample": lambda s, h, x: h * (h > 0),
    "far mask": lambda s, h, x: h * (h > 40),
    "detached where": lambda s, h, x: torch.where(h > 0, h, h.detach()),
    "detached product": lambda s, h, x: h * h.detach(),
    "sine": lambda s, h, x: torch.sin(h),
    "fraction": lambda s, h, x: torch.frac(h),
    "cast to integers": lambda s, h, x: h.long().to(h.dtype),
    "gathered by value": lambda s, h, x: h.gather(1, h.argsort(1)),
    "batch mean": lambda s, h, x: h - h.mean(0),
    "batch maximum": lambda s, h, x: h - h.amax(0),
    "other sample": lambda s, h, x: h.roll(1, 0),
    "reversed batch": lambda s, h, x: h.flip(0),
    "cumulated batch": lambda s, h, x: h.cumsum(0),
    "similarity": lambda s, h, x: (h @ h.T).mean(1, keepdim=True) * torch.ones(FEATURES),
    "position in the batch": lambda s, h, x: h * torch.arange(len(h))[:, None],
    "size of the batch": lambda s, h, x: h * len(h),
    "power of the batch's size": lambda s, h, x: h ** (len(h) // 20),
    "first samples": lambda s, h, x: torch.cat([2 * h[:10], h[10:]]),
    "every other sample": lambda s, h, x: torch.cat([h[::2], 2 * h[1::2]]),
    "groups of the batch": lambda s, h, x: h * (torch.arange(len(h)) // max(len(h) // 4, 8))[:, None],
    "rolled batch": lambda s, h, x: h.roll(len(h) // 6, 0),
    "size where it is large": lambda s, h, x: h * max(len(h), 26),
    "triangle": lambda s, h, x: h * torch.ones(FEATURES, FEATURES).triu(len(h) - 25)[0],
    "last sample": lambda s, h, x: h + h[-1:],
    "without NaN": lambda s, h, x: h.nan_to_num(),
    "NaN masked": lambda s, h, x: h.masked_fill(h.isnan(), 0.0),
    "infinity masked": lambda s, h, x: torch.where(h.isinf(), torch.zeros_like(h), h),
    "divided by itself": lambda s, h, x: h * (h / h),
    "nothing times the sample": lambda s, h, x: h * (h - h),
    "written where large": lambda s, h, x: in_place(h, lambda z: z.__setitem__(z > 1e4, 0.0)),
    "absolute pooling": lambda s, h, x: (
        F.lp_pool1d(h[:, None], 1, 3, 1)[:, 0].mean(1, keepdim=True) * torch.ones(FEATURES)
    ),
    "noise": lambda s, h, x: h * torch.rand_like(h),
    "added noise": lambda s, h, x: h + torch.randn_like(h),
    "rare dropout": lambda s, h, x: F.dropout(h, 0.01),
    "bernoulli": lambda s, h, x: h * h.new_empty(len(h), 1).bernoulli_(0.99),
    "batch norm": lambda s, h, x: F.batch_norm(h, None, None, training=True),
    "own function": lambda s, h, x: Reversed.apply(h),
    "own rounding": lambda s, h, x: Rounded.apply(h),
    "data-dependent branch": lambda s, h, x: h * 2 if h.sum() > 0 else h,
    "item": lambda s, h, x: h * h.mean().item(),
    "hook": lambda s, h, x: hooked(h),
    "attention": lambda s, h, x: F.scaled_dot_product_attention(*(3 * (h.view(-1, 1, 2, 3),))).flatten(1),
    "determinant": lambda s, h, x: torch.linalg.det(h[:, :4].view(-1, 2, 2))[:, None] * torch.ones(FEATURES),
    "complex modulus": lambda s, h, x: torch.fft.fft(h, dim=1).abs(),
    "median": lambda s, h, x: h.median(1, keepdim=True).values * torch.ones(FEATURES),
    "cosine": lambda s, h, x: F.cosine_similarity(h, x, dim=1)[:, None] * torch.ones(FEATURES),
}


def hooked(h: Tensor) -> Tensor:
    z = h * 1
    if z.requires_grad:
        z.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return z


class Drawn(nn.Module):
    """Steps and activations in turn, and a head."""

    def __init__(self, steps: list[Step], activations: list[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.steps, self.activations = nn.ModuleList(steps), activations
        self.below, self.head = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.below(x)
        for step, activation in zip(self.steps, self.activations, strict=True):
            h = step(activation(h), x)
        return self.head(h)


def affine_model(seed: int) -> tuple[Drawn, list[str]]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    names = draw.choices(list(AFFINE), k=draw.randint(1, 4))
    activations = draw.choices(ACTIVATIONS, k=len(names))
    return Drawn([AFFINE[name]() for name in names], activations), names


def other_model(seed: int) -> tuple[Drawn, list[str]]:
    """A model with one operation that is not affine, behind a factor."""
    model, names = affine_model(seed)
    draw = random.Random(seed + 1)
    name, factor = draw.choice(list(NOT_AFFINE)), draw.choice([0.0, 1e-6, 1e-4, 1.0])
    operation = NOT_AFFINE[name]
    spoilt = Step(
        lambda s, h, x: h + s.factor * operation(s, h, x),
        factor=nn.Parameter(torch.tensor(factor), requires_grad=draw.random() < 0.5),
        g=weight(FEATURES),
        a=linear(),
    )
    place = draw.randint(0, len(names))
    model.steps.insert(place, spoilt)
    model.activations.insert(place, draw.choice(ACTIVATIONS) if draw.random() < 0.5 else (lambda z: z))
    return model, [*names, f"{name} times {factor}"]


def verdict(model: nn.Module, seed: int) -> str:
    """What collapse makes of a model: "right", "refused", or what was wrong; before and after a change of weights."""
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    batches = [torch.randn(SAMPLES, FEATURES).to(device), 30 * torch.randn(SAMPLES + 3, FEATURES).to(device)]
    twin = copy.deepcopy(model)
    fast = lb.collapse(model, always=True)
    for x in batches:
        try:
            found = gradients(fast, model, x, seed)
        except lb.CollapseError:
            return "refused"
        with lb.convert(twin):
            expected = gradients(twin, twin, x, seed)
        error = max_difference(found, expected)
        if not error < 1e-7:
            return f"wrong by {error:.1e}"
        for each in (model, twin):
            torch.manual_seed(seed)
            with torch.no_grad():
                for p in each.parameters():
                    p.add_(torch.randn_like(p) / 4)
    return "right"


def gradients(run: nn.Module, model: nn.Module, x: Tensor, seed: int) -> list[Tensor | None]:
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    weights = torch.linspace(-1, 1, len(x) * OUTPUTS, device=x.device).view(len(x), OUTPUTS)
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    y = run(x)
    return list(torch.autograd.grad((y * weights).sum() + y.square().mean(), wanted, allow_unused=True))


def max_difference(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """The largest error, relative to each gradient's largest entry; one that is 1e-6 of the others counts as zero."""
    top = max(g.abs().max().item() for g in expected if g is not None)
    return max(difference(a, b, 1e-6 * top) for a, b in zip(found, expected, strict=True))


def difference(found: Tensor | None, expected: Tensor | None, nothing: float) -> float:
    if found is None or expected is None:
        return 0.0 if found is expected or not (expected if found is None else found).any() else 1.0
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=nothing)).item()


def main(count: int, first: int) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    verdicts: dict[str, Counter[str]] = {"affine": Counter(), "not affine": Counter()}
    for seed in range(first, first + count):
        for kind, make in (("affine", affine_model), ("not affine", other_model)):
            model, names = make(seed)
            try:
                found = verdict(model, seed)
            except Exception as error:  # a crash is a finding, too
                found = f"crashed: {type(error).__name__}: {error}"
            verdicts[kind][found.split(" ")[0]] += 1
            if found != ("right" if kind == "affine" else "refused"):
                print(f"{kind} {seed}: {found[:200]} {names}", flush=True)
            torch.compiler.reset()
        if (seed + 1 - first) % 100 == 0 or seed + 1 == first + count:
            print(", ".join(f"{kind}: {dict(each)}" for kind, each in verdicts.items()), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["100", "0"][len(sys.argv) - 1 :])))
