"""Published networks with random weights, for what depends on their layers alone."""

import math
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and first stride of ResNet-18's stages of two blocks."""


class ResidualBlock(nn.Module):
    """ReLU(x + two 3x3 convolutions of x), (N, inputs, height, width) to (N, channels, …); the shortcut is a
    1x1 convolution where the shape changes.
    """

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if (inputs, stride) != (channels, 1):
            shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm1(self.conv1(x)).relu()
        return (self.shortcut(x) + self.norm2(self.conv2(inner))).relu()


def resnet18(seed: int) -> nn.Sequential:
    """ResNet-18 for ImageNet (He et al., "Deep Residual Learning", CVPR 2016, table 1), untrained:
    (N, 3, 224, 224) to (N, 1000), 11.7 million weights; Gaussian as `seed` draws them.
    """
    inputs = 64
    layers: list[nn.Module] = [
        nn.Conv2d(3, inputs, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    for channels, stride in _STAGES:
        layers += [ResidualBlock(inputs, channels, stride), ResidualBlock(channels, channels, 1)]
        inputs = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)]
    return gaussian(nn.Sequential(*layers), seed)


def plain20(seed: int) -> nn.Sequential:
    """ResNet-20's layers for CIFAR-10 (He et al., CVPR 2016, section 4.2) without its shortcuts, untrained:
    (N, 3, 32, 32) to (N, 10); Gaussian weights as `seed` draws them.

    A chain, whose layers can be compared one by one.
    """
    channels = (16, *[width for width in (16, 32, 64) for _ in range(6)])
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for number, width in enumerate(channels, 1):
        stride = 2 if number > 1 and width != inputs else 1
        layers[f"conv{number}"] = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = width
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classify": nn.Linear(inputs, 10)}
    return gaussian(nn.Sequential(layers), seed)


def weighted(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Convolutions and fully connected layers with their paths."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


def gaussian(network: nn.Sequential, seed: int) -> nn.Sequential:
    """The network in eval mode with new weights, of variance 2 / inputs of an output (He et al., 2015)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in weighted(network):
            deviation = math.sqrt(2 / layer.weight[0].numel())
            layer.weight.normal_(std=deviation, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
    return network.eval()
