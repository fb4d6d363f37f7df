"""Networks whose non-linearities are elementwise or max pooling, in every way in which one calls them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Functional(nn.Module):
    """Every activation and the pooling a function's call."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.below(x)), 3, 2)
        return self.head(self.above(h).relu_().flatten(1))


class Reused(nn.Module):
    """One module for every activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(98, 20), nn.Linear(20, 20), nn.Linear(20, 3)])
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h)


class MadeInForward(nn.Module):
    """Activations and pooling made where they are run."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.head = nn.Conv2d(2, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.Sequential(nn.Mish(), nn.AdaptiveMaxPool2d(2), nn.Tanh())(self.below(x)).flatten(1))


class Residual(nn.Module):
    """Branches that are added, in-place activations, batch normalization in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.branch = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1), nn.SiLU(inplace=True))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x))
        h = h + self.branch(h.clone())
        return self.head(F.gelu(h).mean((2, 3)))


class Twin(nn.Module):
    """Two inputs through the same layers."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Flatten(), nn.Linear(98, 10), nn.ReLU(), nn.Linear(10, 10), nn.Softplus())
        self.head = nn.Linear(10, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.tower(left) - self.tower(right))


def small_vgg() -> nn.Sequential:
    """Convolutions, batch normalization and max pooling in a row, for images of 3 x 16 x 16."""
    model = nn.Sequential()
    model.features = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    model.flatten, model.classifier = nn.Flatten(), nn.Linear(128, 5)
    return model


class Bottleneck(nn.Module):
    """A block as torchvision writes it: one ReLU, run three times."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.relu(self.bn2(self.conv2(h)))
        return self.relu(self.bn3(self.conv3(h)) + x)


class BottleneckNetwork(nn.Module):
    """Three such blocks, for images of 3 x 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.blocks = nn.Sequential(*(Bottleneck(8, 4) for _ in range(3)))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.pool(self.relu(self.stem(x)))).mean((2, 3)))


def in_dimensions(dims: int) -> nn.Module:
    """Modules alone, for 1 to 3 dimensions of positions; dilated, overlapping windows."""
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pooling = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
    return nn.Sequential(
        *(convolution(2, 4, 3, padding=1), nn.ELU(), pooling(3, 2, 1), convolution(4, 4, 2), nn.Sigmoid()),
        *(pooling(2, 1, dilation=2, padding=1), nn.Flatten(), nn.LazyLinear(3)),
    )


def images(samples: int = 5, dims: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(samples, 2, *(7,) * dims, generator=generator, dtype=torch.float64)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "functional": (Functional, (2,)),
    "reused": (lambda: Reused(nn.ReLU()), (2,)),
    "reused in place": (lambda: Reused(nn.LeakyReLU(inplace=True)), (2,)),
    "GELU by tanh": (lambda: Reused(nn.GELU(approximate="tanh")), (2,)),
    "a learned slope": (lambda: Reused(nn.PReLU()), (2,)),
    "made in forward": (MadeInForward, (2,)),
    "residual": (Residual, (2,)),
    "twin": (Twin, (2, 2)),
    "1-D": (lambda: in_dimensions(1), (1,)),
    "2-D": (lambda: in_dimensions(2), (2,)),
    "3-D": (lambda: in_dimensions(3), (3,)),
}


def network(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in eval mode and its inputs."""
    build, dims = NETWORKS[name]
    torch.manual_seed(0)
    model, inputs = build().to(dtype).eval(), tuple(images(dims=d).to(dtype) + i for i, d in enumerate(dims))
    model(*inputs)
    return model, inputs
