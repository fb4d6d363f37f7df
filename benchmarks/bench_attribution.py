"""DeepLIFT's sums, ours and captum's, on networks of random weights; zennit's rules; and what an image takes.

    python benchmarks/bench_attribution.py [--rounds 7] [--only NAME ...] [--part deltas zennit times]

Needs captum and zennit; and pytorchcv, transformers and monai for their networks, which are left out where they are
missing. Every network is built with random weights, in eval mode and float64, and one class is explained of two random
inputs against random baselines. Delta is the largest |sum of attributions - (F(x) - F(x0))| over |F(x) - F(x0)|. Where
captum raises, its error stands in the table. zennit's rules for activations are put on every `nn.ReLU` module; what is
compared is the input's gradient of one class. Times are of float32, without delta, medians of rounds in which the two
take turns, on one thread and on networks that both can explain.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import warnings
from collections.abc import Callable

import torch
from captum.attr import DeepLift as CaptumDeepLift
from harness import markdown, medians, seconds, where_and_when
from torch import Tensor, nn
from torch.nn import functional as F
from zennit_rules import rules as zennit

import linear_backprop as lb
from linear_backprop.attribution import DeepLift

Built = tuple[nn.Module, tuple[int, ...]]
Networks = dict[str, Callable[[], Built]]
MOST = 1.1
ROUNDING = 1e-8

PYTORCHCV = """
    alexnet.alexnet resnet.resnet10 preresnet.preresnet10 seresnet.seresnet10
    squeezenet.squeezenet_v1_0 squeezenet.squeezeresnet_v1_1 mobilenet.mobilenet_wd4 mobilenetv2.mobilenetv2_wd4
    darknet.darknet_tiny mobilenetv3.mobilenetv3_small_wd2 shufflenet.shufflenet_g1_wd4 shufflenetv2.shufflenetv2_wd2
    peleenet.peleenet igcv3.igcv3_wd4 mnasnet.mnasnet_small menet.menet108_8x1_g3
    bagnet.bagnet9 efficientnet.efficientnet_b0 ghostnet.ghostnet hardnet.hardnet39ds
""".split()
TIMED = (
    "ReLU, modules",
    "pytorchcv alexnet",
    "pytorchcv resnet10",
    "pytorchcv mobilenet_wd4",
    "pytorchcv peleenet",
)

ZENNIT: dict[str, lb.BackwardRule] = {
    "Pass": lb.Linear(),
    "ReLUGuidedBackprop": lb.Guided(),
    "ReLUDeconvNet": lb.Deconvolution(),
    "ReLUBetaSmooth": lb.Surrogate(lambda a: F.softplus(a, beta=10.0, threshold=40.0)),
}
WITH_RELU = ("resnet10", "mobilenet_wd4", "squeezenet_v1_0", "shufflenetv2_wd2", "peleenet", "bagnet9")
PARTS = ("deltas", "zennit", "times")


class Form(nn.Module):
    """One small convnet, its activations and pooling in one form."""

    def __init__(self, form: str, activation: Callable[..., Tensor] = F.relu) -> None:
        super().__init__()
        self.form, self.activation = form, activation
        self.layers = nn.ModuleList([nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)])
        self.head, self.relus, self.pool = (
            nn.Linear(16 * 256, 10),
            nn.ModuleList([nn.ReLU(), nn.ReLU()]),
            nn.MaxPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.run(0, self.layers[0](x)))
        return self.head(self.run(1, self.layers[1](h)).flatten(1))

    def run(self, index: int, a: Tensor) -> Tensor:
        return {
            "modules": lambda: self.relus[index](a),
            "functional": lambda: self.activation(a),
            "reused": lambda: self.relus[0](a),
            "in place": lambda: torch.relu_(a),
            "made in forward": lambda: nn.ReLU()(a),
        }[self.form]()


class Embedded(nn.Module):
    """A transformer, from embeddings to its first output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.model(inputs_embeds=embeddings)[0].flatten(1)


def plain() -> dict[str, Callable[[], Built]]:
    """The small ones."""
    forms = ("modules", "functional", "reused", "in place", "made in forward")
    built = {f"ReLU, {form}": functools.partial(_form, form, F.relu) for form in forms}
    smooth = {f"{f.__name__}, functional": functools.partial(_form, "functional", f) for f in (F.gelu, F.silu, F.mish)}
    return {**built, **smooth}


def _form(form: str, activation: Callable[..., Tensor]) -> Built:
    return Form(form, activation), (3, 32, 32)


def _pytorchcv(name: str) -> Built:
    module, function = name.split(".")
    build = getattr(importlib.import_module(f"pytorchcv.models.{module}"), function)
    return build(), (3, 224, 224)


def _transformer(name: str) -> Built:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if name == "GPT2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, pad_token_id=0)
        return Embedded(transformers.GPT2ForSequenceClassification(config)), (8, 32)
    kind = {"BERT": "Bert", "RoBERTa": "Roberta", "ELECTRA": "Electra"}[name]
    config = getattr(transformers, f"{kind}Config")(**sizes, **({"embedding_size": 32} if name == "ELECTRA" else {}))
    return Embedded(getattr(transformers, f"{kind}ForSequenceClassification")(config)), (8, 32)


def _monai(name: str) -> Built:
    from monai.networks import nets

    build: dict[str, Callable[[], nn.Module]] = {
        "UNet": lambda: nn.Sequential(nets.UNet(2, 3, 2, (8, 16, 32), (2, 2)), nn.Flatten()),
        "AutoEncoder, batch norm": lambda: nn.Sequential(
            nets.AutoEncoder(2, 3, 2, (8, 16), (2, 2), norm="batch"), nn.Flatten()
        ),
        "BasicUNet": lambda: nn.Sequential(nets.BasicUNet(2, 3, 2, (8, 8, 16, 16, 16, 8)), nn.Flatten()),
        "ResNet10": lambda: nets.resnet10(spatial_dims=2, n_input_channels=3, num_classes=2),
        "DenseNet121": lambda: nets.DenseNet121(2, 3, 2),
    }
    return build[name](), (3, 64, 64)


def networks() -> dict[str, Callable[[], Built]]:
    """Every network of the table by its name."""
    return {
        **plain(),
        **{f"pytorchcv {name.split('.')[1]}": functools.partial(_pytorchcv, name) for name in PYTORCHCV},
        **{
            f"monai {name}": functools.partial(_monai, name)
            for name in ("UNet", "AutoEncoder, batch norm", "BasicUNet", "ResNet10", "DenseNet121")
        },
        **{
            f"transformers {name}": functools.partial(_transformer, name)
            for name in ("BERT", "RoBERTa", "ELECTRA", "GPT2")
        },
    }


def inputs_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two inputs and their baselines."""
    torch.manual_seed(1)
    return torch.randn(2, *shape, dtype=dtype), torch.randn(2, *shape, dtype=dtype)


def relative_delta(method: type, model: nn.Module, x: Tensor, x0: Tensor) -> str | float:
    """The largest delta over the difference of outputs; or the error's name."""
    try:
        attributions = method(model).attribute(x, x0, target=0)
    except Exception as error:
        return _named(error)
    with torch.no_grad():
        difference = (model(x) - model(x0))[:, 0]
    return ((attributions.flatten(1).sum(1) - difference).abs() / difference.abs()).max().item()


def delta_row(name: str, build: Callable[[], Built]) -> tuple[str, str | float, str | float] | None:
    """A network, our delta and captum's; None where it cannot be built here."""
    torch.manual_seed(0)
    try:
        model, shape = build()
    except ImportError:
        return None
    model = model.double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, x0 = inputs_of(shape)
        return name, relative_delta(DeepLift, model, x, x0), relative_delta(CaptumDeepLift, model, x, x0)


def time_row(name: str, build: Callable[[], Built], rounds: int) -> tuple[str, float, float]:
    """A network, and milliseconds that an image takes, ours and captum's."""
    torch.manual_seed(0)
    model, shape = build()
    model = model.eval()
    x, x0 = inputs_of(shape, torch.float32)
    sides = {"ours": DeepLift(model), "captum": CaptumDeepLift(model)}
    runs = {
        side: functools.partial(seconds, lambda method=method: method.attribute(x, x0, target=0))
        for side, method in sides.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = medians(runs, rounds)
    return name, 1e3 * taken["ours"] / len(x), 1e3 * taken["captum"] / len(x)


def zennit_row(name: str, build: Callable[[], Built]) -> list[str] | None:
    """A network, and how far the input's gradient under each of zennit's rules is from ours, over our largest."""
    torch.manual_seed(0)
    try:
        model, shape = build()
    except ImportError:
        return None
    model = model.double().eval()
    x = inputs_of(shape)[0].requires_grad_()
    return [name, *(_text(zennit_difference(model, x, rule)) for rule in ZENNIT)]


def zennit_difference(model: nn.Module, x: Tensor, name: str) -> float | str:
    """The largest difference over our largest gradient; or the error's name."""

    def gradient() -> Tensor:
        return torch.autograd.grad(model(x.clone())[:, 0].sum(), x)[0]

    hook = getattr(zennit, name)()
    handles = [hook.copy().register(module) for module in model.modules() if isinstance(module, nn.ReLU)]
    try:
        theirs = gradient()
    except Exception as error:
        return _named(error)
    finally:
        for handle in handles:
            handle.remove()
    with lb.convert(model, ZENNIT[name]):
        ours = gradient()
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}".replace("|", "/")


def _text(delta: str | float) -> str:
    return delta if isinstance(delta, str) else f"{delta:.1e}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="the beginnings of names")
    parser.add_argument("--part", nargs="*", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    chosen = {
        name: build
        for name, build in networks().items()
        if arguments.only is None or name.startswith(tuple(arguments.only))
    }
    print(where_and_when())
    if "deltas" in arguments.part:
        print_deltas(chosen)
    if "zennit" in arguments.part:
        print_zennit(
            {name: chosen[name] for name in chosen if name.removeprefix("pytorchcv ") in WITH_RELU or "ReLU" in name}
        )
    if "times" in arguments.part:
        print_times({name: chosen[name] for name in TIMED if name in chosen}, arguments.rounds)


def print_deltas(chosen: Networks) -> None:
    """The table of sums, and how many are right."""
    rows = [row for name, build in chosen.items() if (row := delta_row(name, build)) is not None]
    print("\n" + markdown(("network", "ours", "captum's"), [(n, _text(a), _text(b)) for n, a, b in rows]))
    ours, theirs = (sum(isinstance(row[side], float) and row[side] < ROUNDING for row in rows) for side in (1, 2))
    raised = sum(isinstance(row[2], str) for row in rows)
    print(f"\n{len(rows)} networks. Off by less than {ROUNDING:g}: ours {ours}, captum's {theirs}, raising on {raised}")


def print_zennit(chosen: Networks) -> None:
    """The table of zennit's rules."""
    rows = [row for name, build in chosen.items() if (row := zennit_row(name, build)) is not None]
    print("\n" + markdown(("difference from ours", *ZENNIT), rows))


def print_times(chosen: Networks, rounds: int) -> None:
    """The table of times, and the verdict."""
    torch.set_num_threads(1)
    times = [time_row(name, build, rounds) for name, build in chosen.items()]
    columns = ("network", "ours, ms an image", "captum's, ms an image", "ratio")
    print("\n" + markdown(columns, [(n, f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}") for n, a, b in times]))
    if times:
        most = max(a / b for _, a, b in times)
        print(f"\nTarget: at most {MOST:g} of captum's time; most {most:.2f}: {'met' if most <= MOST else 'MISSED'}")


if __name__ == "__main__":
    main()
