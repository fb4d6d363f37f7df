"""Networks of other libraries, with random weights and small inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PYTORCHCV = (
    *("resnet10", "resnet14", "resnetbc14b", "preresnet10", "preresnetbc14b"),
    *("resnext14_16x4d", "seresnet10", "sepreresnet10", "seresnext50_32x4d", "densenet121", "squeezenet_v1_1"),
    *("squeezeresnet_v1_1", "mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4", "mobilenetv3_small_wd2"),
    *("shufflenet_g1_wd4", "shufflenetv2_wd2", "shufflenetv2b_wd2", "menet108_8x1_g3", "condensenet74_c4_g4"),
    *("darknet_tiny", "darknet_ref", "diracnet18v2", "bagnet9", "hardnet39ds", "igcv3_wd4", "ghostnet"),
    *("efficientnet_b0", "regnetx002", "regnety002", "mnasnet_small", "vovnet27s", "selecsls42", "dla34"),
    *("cbam_resnet18", "bam_resnet18", "sepreresnetbc26b", "resnet20_cifar10"),
    *("preresnet20_cifar10", "densenet40_k12_cifar10", "wrn16_10_cifar10", "nin_cifar10", "rir_cifar10"),
)

ONE_EACH: Mapping[str, Any] = {"layers": (1, 1, 1, 1)}
TIMM: tuple[tuple[str, int, Mapping[str, Any]], ...] = (
    *((name, 64, {}) for name in ("resnet18", "seresnet18", "regnetx_002", "efficientnet_lite0", "lcnet_035", "vgg11")),
    *(
        (name, 64, {})
        for name in ("convnext_atto", "starnet_s1", "dla34", "ghostnet_050", "nf_resnet26", "mobileone_s0")
    ),
    *((name, 64, {"img_size": 64}) for name in ("mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224")),
    *((name, 64, {"img_size": 64, "depth": 2}) for name in ("vit_tiny_patch16_224", "cait_xxs24_224")),
    *((name, 64, {"img_size": 64, "depth": 2}) for name in ("deit_tiny_distilled_patch16_224", "xcit_nano_12_p16_224")),
    ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)}),
    *((name, 64, ONE_EACH) for name in ("resnetv2_50", "ecaresnet50t", "res2net50_14w_8s")),
    ("densenet121", 64, {"block_config": (2, 2, 2, 2)}),
    *(
        (name, 64, {})
        for name in ("repvgg_a0", "gernet_s", "resnest14d", "selecsls42", "edgenext_xx_small", "tinynet_e")
    ),
    *(
        (name, 64, {})
        for name in (
            "poolformer_s12",
            "pvt_v2_b0",
            "skresnet18",
            "hgnetv2_b0",
            "mobilenetv3_small_050",
            "repghostnet_050",
        )
    ),
    *((name, 64, {}) for name in ("regnety_002", "mobilenetv4_conv_small_035", "hardcorenas_a", "fbnetc_100")),
    ("inception_v3", 128, {"aux_logits": False}),
    ("levit_128s", 224, {}),
    ("crossvit_tiny_240", 240, {}),
)

TEXT: Mapping[str, Any] = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"vocab_size": 50, "num_labels": 10},
}
STAGES: Mapping[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_labels": 10}
TWO: Mapping[str, Any] = {"embedding_size": 8, "hidden_sizes": [32, 32], "depths": [1, 1], "num_labels": 10}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50, "num_labels": 10}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50}
WAV2VEC2 = {
    **{**TEXT, "vocab_size": 12, "classifier_proj_size": 8, "num_feat_extract_layers": 2, "mask_time_prob": 0.0},
    **{"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_conv_pos_embeddings": 4},
    **{"num_conv_pos_embedding_groups": 2, "layerdrop": 0.0},
}
MIXER = {
    **{"context_length": 32, "patch_length": 8, "patch_stride": 8, "num_input_channels": 2, "d_model": 8},
    **{"num_layers": 2, "num_targets": 3},
}
TRANSFORMERS: tuple[tuple[str, str, Mapping[str, Any], str], ...] = (
    ("Bert", "ForSequenceClassification", TEXT, "input_ids"),
    ("Bert", "ForSequenceClassification", TEXT, "inputs_embeds"),
    ("Bert", "ForMaskedLM", TEXT, "input_ids"),
    ("DistilBert", "ForSequenceClassification", DISTILBERT, "input_ids"),
    ("GPT2", "LMHeadModel", GPT2, "input_ids"),
    ("T5", "EncoderModel", T5, "inputs_embeds"),
    ("Electra", "ForSequenceClassification", {**TEXT, "embedding_size": 16}, "input_ids"),
    ("Llama", "ForCausalLM", TEXT, "input_ids"),
    ("Wav2Vec2", "ForSequenceClassification", WAV2VEC2, "input_values"),
    ("ViT", "ForImageClassification", {**TEXT, "image_size": 32}, "pixel_values"),
    ("ConvNext", "ForImageClassification", STAGES, "pixel_values"),
    ("PoolFormer", "ForImageClassification", STAGES, "pixel_values"),
    ("ResNet", "ForImageClassification", {**TWO, "layer_type": "basic"}, "pixel_values"),
    ("RegNet", "ForImageClassification", {**TWO, "groups_width": 8, "layer_type": "x"}, "pixel_values"),
    ("Bit", "ForImageClassification", {**TWO, "num_groups": 4}, "pixel_values"),
    ("MobileNetV2", "ForImageClassification", {"depth_multiplier": 0.25, "num_labels": 10}, "pixel_values"),
    ("PatchTSMixer", "ForTimeSeriesClassification", MIXER, "past_values"),
)
INPUTS: Mapping[str, Callable[[int], Tensor]] = {
    "input_ids": lambda n: torch.randint(3, 50, (n, 6)),
    "inputs_embeds": lambda n: torch.randn(n, 6, 16),
    "input_values": lambda n: torch.randn(n, 400),
    "pixel_values": lambda n: torch.randn(n, 3, 32, 32),
    "past_values": lambda n: torch.randn(n, 32, 2),
}


class Network(NamedTuple):
    """A network, and its keyword arguments; "" for a positional one."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Tensor]]


class StandIn(ModuleType):
    """In the place of a torchvision module, whose compiled part does not match PyTorch's builds for the CPU."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def of_images(name: str, build: Callable[[], nn.Module], *shape: int) -> Network:
    return Network(name, build, lambda n: {"": torch.randn(n, *shape)})


def of_pytorchcv() -> Iterator[Network]:
    stand_ins = () if find_spec("torchvision") else ("torchvision", "torchvision.ops")
    sys.modules.update({name: StandIn(name) for name in stand_ins})
    try:
        from pytorchcv.model_provider import get_model
    finally:
        for name in stand_ins:
            del sys.modules[name]
    for name in PYTORCHCV:
        size = 32 if "cifar" in name else 64

        def build(name: str = name) -> nn.Module:
            return averaged(get_model(name, pretrained=False, num_classes=10))

        yield of_images(f"pytorchcv {name}", build, 3, size, size)


def averaged(model: nn.Module) -> nn.Module:
    """The network for smaller images: what pools its last features averages whatever is left of them."""
    for module in model.modules():
        if isinstance(module._modules.get("final_pool"), nn.AvgPool2d):
            module.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def of_monai() -> Iterator[Network]:
    from monai.networks import nets

    yield of_images("monai BasicUNet", lambda: nets.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4)), 1, 32, 32)
    yield of_images("monai Classifier", lambda: nets.Classifier((1, 16, 16), 3, (4, 8), (2, 2)), 1, 16, 16)
    yield of_images("monai Regressor", lambda: nets.Regressor((1, 16, 16), (2,), (4, 8), (2, 2)), 1, 16, 16)
    yield of_images("monai FullyConnectedNet", lambda: nets.FullyConnectedNet(10, 3, [16, 16]), 10)


def of_timm() -> Iterator[Network]:
    from timm import create_model

    for name, size, options in TIMM:

        def build(name: str = name, options: Mapping[str, Any] = options) -> nn.Module:
            return create_model(name, num_classes=10, **options)

        yield of_images(f"timm {name}", build, 3, size, size)


def of_transformers() -> Iterator[Network]:
    import transformers

    for family, head, options, given in TRANSFORMERS:
        kind, config = getattr(transformers, family + head), getattr(transformers, f"{family}Config")(**options)
        yield Network(
            f"transformers {family}{head}, {given}",
            lambda kind=kind, config=config: kind(config),
            lambda n, given=given: {given: INPUTS[given](n)},
        )


LIBRARIES: Mapping[str, Callable[[], Iterator[Network]]] = {
    "pytorchcv": of_pytorchcv,
    "monai": of_monai,
    "timm": of_timm,
    "transformers": of_transformers,
}


def networks(names: list[str]) -> Iterator[Network]:
    """Those of some libraries; all by default."""
    for name in names or LIBRARIES:
        try:
            yield from LIBRARIES[name]()
        except ImportError as error:
            print(f"{name} cannot be imported: {error}", file=sys.stderr)
