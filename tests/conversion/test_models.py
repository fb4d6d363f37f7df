"""Models nobody here wrote: every activation they run follows the rule, none is missed.

Whether one was missed is asked of autograd, which knows nothing of conversions: in the graph of a
converted model no derivative of an activation may be left.
"""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.resnet import ResNet as MonaiResNet
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    MobileNetV1Config,
    MobileNetV1Model,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import linear_backprop as lb

# The autograd nodes of PyTorch's elementwise activations; ClampBackward and the rounding family are none.
ACTIVATION_NODES = {
    "ReluBackward", "HardtanhBackward", "LeakyReluBackward", "PreluKernelBackward", "EluBackward",
    "GeluBackward", "SiluBackward", "MishBackward", "SoftplusBackward", "TanhBackward",
    "SigmoidBackward", "HardsigmoidBackward", "HardswishBackward", "HardshrinkBackward",
    "SoftshrinkBackward", "LogSigmoidBackward", "ThresholdBackward", "RreluWithNoiseBackward",
    "CeluBackward",
}  # fmt: skip


def whisper() -> nn.Module:
    config = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=8,
        max_source_positions=20, attn_implementation="eager", dropout=0.0,
    )  # fmt: skip
    return WhisperEncoder(config)


def vit() -> nn.Module:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    return ViTModel(config, add_pooling_layer=True)


def convnext() -> nn.Module:
    return ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 2], num_stages=2, patch_size=2))


def resnet() -> nn.Module:
    return ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 2], layer_type="basic"))


def monai_resnet() -> nn.Module:
    return MonaiResNet(
        "basic",
        [1, 1, 1, 1],
        [4, 4, 4, 4],
        spatial_dims=2,
        n_input_channels=3,
        num_classes=5,
        act=("relu", {"inplace": True}),
    )


def monai_densenet() -> nn.Module:
    return DenseNet(2, 3, 5, init_features=4, growth_rate=4, block_config=(2, 2), act=("elu", {"inplace": True}))


def mobilenet() -> nn.Module:
    return MobileNetV1Model(MobileNetV1Config(depth_multiplier=0.25, image_size=32))


IMAGE = (2, 3, 32, 32)
# name -> factory, input shape, how many activations one forward pass runs, counted in autograd's graph
MODELS = {
    "functional GELU and modules: Whisper's encoder": (whisper, (1, 8, 40)),
    "GELU in blocks, tanh in the pooler: ViT": (vit, (2, 3, 16, 16)),
    "GELU in blocks: ConvNeXt": (convnext, IMAGE),
    "ReLU: ResNet of transformers": (resnet, IMAGE),
    "one in-place ReLU a block, reused: ResNet of MONAI": (monai_resnet, IMAGE),
    "in-place ELU: DenseNet of MONAI": (monai_densenet, IMAGE),
    "ReLU6: MobileNetV1": (mobilenet, IMAGE),
}


def output_of(result: object) -> Tensor:
    if isinstance(result, Tensor):
        return result
    pooled = getattr(result, "pooler_output", None)
    return result.last_hidden_state if pooled is None else pooled  # pyright: ignore


def graph(output: Tensor) -> set[Any]:
    """Every node of the autograd graph below a tensor."""
    seen, queue = set(), [output.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue += [below for below, _ in node.next_functions]
    return seen


def nodes(output: Tensor) -> Counter[str]:
    """How many nodes of each kind the autograd graph below a tensor has."""
    return Counter(node.name().rstrip("0123456789") for node in graph(output))


@pytest.mark.parametrize("name", MODELS)
def test_no_activation_is_missed(name: str):
    factory, shape = MODELS[name]
    torch.manual_seed(0)
    model = factory().eval()
    x = torch.randn(shape)
    expected = output_of(model(x))
    activations = sum(nodes(expected)[node] for node in ACTIVATION_NODES)
    assert activations >= 2

    conversion = lb.convert(model, lb.Clipped())
    output = output_of(model(x))
    assert torch.equal(output, expected)
    left = {node: count for node, count in nodes(output).items() if node in ACTIVATION_NODES}
    assert not left, f"{left} of {activations} activations kept their derivative:\n{conversion}"
    assert nodes(output)["_RuleBackward"] >= activations

    conversion.remove()
    assert nodes(output_of(model(x))) == nodes(expected)


@pytest.mark.parametrize("name", MODELS)
def test_linear_leaves_no_derivative_either(name: str):
    factory, shape = MODELS[name]
    torch.manual_seed(0)
    model = factory().train()
    lb.convert(model)
    output = output_of(model(torch.randn(shape)))
    assert not ACTIVATION_NODES & set(nodes(output))
    output.square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", [name for name, (_, shape) in MODELS.items() if shape == IMAGE])
def test_no_layer_is_missed(name: str):
    factory, shape = MODELS[name]
    torch.manual_seed(0)
    model = factory().train()
    twin, x = copy.deepcopy(model), torch.randn(shape)
    lb.convert(model, layers=lb.LINEAR_LAYERS)
    torch.manual_seed(0)
    expected = output_of(twin(x))
    torch.manual_seed(0)
    output = output_of(model(x))
    assert torch.equal(output, expected)
    assert all(torch.equal(*pair) for pair in zip(model.buffers(), twin.buffers(), strict=True))
    normalizations = [node for node in graph(output) if node.name().startswith("NativeBatchNorm")]
    assert len(normalizations) == nodes(expected)["NativeBatchNormBackward"]
    assert not any(node._saved_training for node in normalizations)
    assert not any("MaxPool" in node for node in nodes(output))
