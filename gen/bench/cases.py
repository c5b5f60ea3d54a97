"""The standard cases, by name: a new one is a function that builds it and one entry in `CASES`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from popshift.gen.bench import mlperf_tiny
from popshift.gen.bench.networks import gaussian, plain20
from popshift.gen.compress import smartdeal
from popshift.gen.compress.binary import binary_tensor
from popshift.gen.compress.smartdeal import SmartDealConfig
from popshift.gen.compress.smartdeal.report import FLOAT_BITS
from popshift.gen.compress.sums import sum_factors
from popshift.gen.frontend.float_graph import FloatTensor
from popshift.gen.graph import Add, Convolution, Graph, Pool, Pooling, Requantisation, Tensor, Window
from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import InputError, ModelError, did_you_mean
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN, WEIGHT_MAX, Requantise

if TYPE_CHECKING:
    from popshift.gen.compilation import Compiled

IMAGES = 2
"""Of a layer on its own: the second one finds what the first has left in the memories."""
_INPUT_ZERO_POINT, _OUTPUT_ZERO_POINT = -7, 11
_CIFAR = (3, 32, 32)
_CALIBRATION_IMAGES = 32
_OUTPUT_SPREAD = 40.0
"""Standard deviation that the outputs of a random layer have, in steps of int8."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A network and what to feed it.

    Attributes
    ----------
    graph: the network.
    images: (N, channels, height, width), int8 or floating point.
    labels: int (N,) if it classifies, else None.
    rtl_images: how many of the images, from the first on, the slow levels run.
    compression: 32-bit floats over the storage of the weights, indices and bases included.
    compiled: the network as a program, if that is more than its graph.
    reference: what somebody else computed of all images.
    """

    graph: Graph
    images: NDArray[np.generic]
    labels: NDArray[np.integer] | None = None
    rtl_images: int = IMAGES
    compression: float = FLOAT_BITS / numerics.WEIGHT_BITS
    compiled: "Compiled | None" = None
    reference: NDArray[np.generic] | None = None


Build = Callable[[AcceleratorConfig, int], Workload]


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the bench; ``build(config, seed)`` draws its numbers with the seed."""

    summary: str
    build: Build


def convolution(
    shape: tuple[int, int, int], channels: int, kernel: int = 1, padding: int = 0, groups: int = 1
) -> Build:
    """One convolution of `kernel` x `kernel` over (channels, height, width) with random int8 weights."""
    window = Window((kernel, kernel), padding=(padding, padding, padding, padding))

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        mode = config.requantise
        rng = np.random.default_rng(seed)
        size = (channels, shape[0] // groups, kernel, kernel)
        weight = rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, size).astype(np.int8)
        # Standard deviation of a sum of products of two numbers that are evenly spread over int8.
        spread = np.sqrt(weight[0].size) * (255 / np.sqrt(12)) ** 2
        layer = Convolution(
            name="convolution",
            input="x",
            output="y",
            window=window,
            weight=weight,
            bias=rng.integers(-10_000, 10_000, channels),
            groups=groups,
            requantisation=_factors(rng.uniform(0.5, 1.5, channels) * _OUTPUT_SPREAD / spread, mode),
        )
        return _single_layer(rng, mode, shape, layer, channels, _OUTPUT_ZERO_POINT)

    return build


def fully_connected(inputs: int, outputs: int) -> Build:
    """One fully connected layer with random int8 weights."""
    return convolution((inputs, 1, 1), outputs)


def pool(shape: tuple[int, int, int], kernel: int, operation: Pooling = Pooling.MAX) -> Build:
    """One pool of `kernel` x `kernel`, as far apart as it is large, over (channels, height, width)."""

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        mode = config.requantise
        layer = Pool(
            name=f"{operation} pool",
            input="x",
            output="y",
            window=Window((kernel, kernel), stride=(kernel, kernel)),
            operation=operation,
            requantisation=_factors(
                np.full(shape[0], 1.0 if operation is Pooling.MAX else kernel**-2.0), mode
            ),
        )
        return _single_layer(np.random.default_rng(seed), mode, shape, layer, shape[0], _INPUT_ZERO_POINT)

    return build


def doubled(shape: tuple[int, int, int]) -> Build:
    """The sum of a tensor (channels, height, width) with itself."""

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        mode = config.requantise
        first, second, last = sum_factors(1.0, 1.0, 2.0, mode)
        factors = Requantisation(
            multiplier=np.array([last.multiplier]),
            shift=np.array([last.shift]),
            low=ACTIVATION_MIN,
            high=ACTIVATION_MAX,
        )
        layer = Add(
            name="sum",
            input="x",
            other="x",
            output="y",
            first=first,
            second=second,
            requantisation=factors,
        )
        tensors = {
            "x": Tensor("x", shape, 1.0, _INPUT_ZERO_POINT),
            "y": Tensor("y", shape, 2.0, _OUTPUT_ZERO_POINT),
        }
        graph = Graph(mode=mode, inputs=["x"], outputs=["y"], tensors=tensors, operators=[layer])
        return Workload(graph, _integers(np.random.default_rng(seed), shape))

    return build


def binary_convolution(shape: tuple[int, int, int], channels: int, kernel: int, padding: int) -> Build:
    """One convolution of bits to bits over (channels, height, width), with random weights of 1 and -1."""
    window = Window((kernel, kernel), padding=(padding, padding, padding, padding))

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        require_binary(config)
        rng = np.random.default_rng(seed)
        layer = Convolution(
            name="convolution",
            input="x",
            output="y",
            window=window,
            weight=rng.choice([-1, 1], (channels, shape[0], kernel, kernel)).astype(np.int8),
            bias=rng.integers(-20, 20, channels),
            requantisation=Requantisation.identity(channels, config.requantise),
        )
        size = window.output_size(*shape[1:])
        tensors = {
            "x": binary_tensor(FloatTensor("x", shape, sign=1.0)),
            "y": binary_tensor(FloatTensor("y", (channels, *size), sign=1.0)),
        }
        graph = Graph(mode=config.requantise, inputs=["x"], outputs=["y"], tensors=tensors, operators=[layer])
        images = rng.choice([-1.0, 1.0], (IMAGES, *shape)).astype(np.float32)
        return Workload(graph, images, compression=FLOAT_BITS)

    return build


def require_binary(config: AcceleratorConfig) -> None:
    """Refuse a configuration that cannot work with binary activations.

    Raises
    ------
    ModelError
    """
    if not config.has_packing:
        what = f"configuration {config.name} has no xnor PEs"
        raise ModelError(what, remedy="use a16-xnor, or add xnor to pe_kinds")


def untrained_binary(name: str, binary: bool) -> Build:
    """A network of `popshift.gen.train.binary.blocks` for CIFAR-10, untrained: binary but for its first and
    last layer, or all int8.
    """

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        from popshift.gen.train.binary import blocks, full_precision_twin

        module = settled(getattr(blocks, name)(seed), _CIFAR, seed)
        if binary:
            require_binary(config)
        else:
            module = full_precision_twin(module)
        return _on_noise(module.eval(), config, seed, images=1)

    return build


def settled(network: nn.Sequential, shape: tuple[int, int, int], seed: int) -> nn.Sequential:
    """The network in eval mode, its batch norms with the statistics of noise: else most channels of an
    untrained network are constant.
    """
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        network(torch.randn(_CALIBRATION_IMAGES, *shape, generator=generator))
    return network.eval()


def _on_noise(module: nn.Module, config: AcceleratorConfig, seed: int, images: int = IMAGES) -> Workload:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(_CALIBRATION_IMAGES, *_CIFAR, generator=generator)
    graph = _quantised(module, values, config)
    return Workload(graph, values[:images].numpy(), rtl_images=images, compression=_compression(module))


def _compression(network: nn.Module) -> float:
    """32-bit floats over what the weights of a network without SmartDeal's form take."""
    from popshift.gen.train.binary import compiled_storage

    return compiled_storage(network).ratio


def binary_digits(config: AcceleratorConfig, seed: int) -> Workload:
    """A binary network for the same digits, trained with DIR-Net's parts in a minute."""
    require_binary(config)
    return _quantised_digits(_trained_binary_digits(seed), config)


@cache
def _trained_binary_digits(seed: int) -> nn.Sequential:
    from popshift.gen.train import digits as data
    from popshift.gen.train.binary import binary_trained

    return binary_trained(data.load(), seed)


def _factors(real: NDArray[np.float64], mode: Requantise) -> Requantisation:
    pairs = [numerics.quantise_multiplier(float(value), mode) for value in real]
    multiplier, shift = (np.array(values, np.int64) for values in zip(*pairs, strict=True))
    return Requantisation(multiplier=multiplier, shift=shift, low=ACTIVATION_MIN, high=ACTIVATION_MAX)


def _single_layer(
    rng: np.random.Generator,
    mode: Requantise,
    shape: tuple[int, int, int],
    layer: Convolution | Pool,
    channels: int,
    zero_point: int,
) -> Workload:
    tensors = {
        "x": Tensor("x", shape, 1.0, _INPUT_ZERO_POINT),
        "y": Tensor("y", (channels, *layer.window.output_size(*shape[1:])), 1.0, zero_point),
    }
    graph = Graph(mode=mode, inputs=["x"], outputs=["y"], tensors=tensors, operators=[layer])
    return Workload(graph, _integers(rng, shape))


def _integers(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.int8]:
    return rng.integers(ACTIVATION_MIN, ACTIVATION_MAX + 1, (IMAGES, *shape)).astype(np.int8)


def digits(config: AcceleratorConfig, seed: int) -> Workload:
    """The demo's network, trained in seconds, and its test images."""
    return _quantised_digits(_trained_digits(seed), config)


@cache
def _trained_digits(seed: int) -> nn.Sequential:
    from popshift.gen.train import digits as data

    return data.trained(data.load(), seed)


def smartdeal_digits(row_sparsity: float) -> Build:
    """The same network in SmartDeal form, trained longer; its first layer, too small to gain, stays int8."""

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        from popshift.gen.train.digits import TOO_SMALL

        options = _smartdeal_options(config, row_sparsity=row_sparsity, skip=TOO_SMALL)
        return _quantised_digits(_retrained_digits(seed, options), config)

    return build


@cache
def _retrained_digits(seed: int, options: SmartDealConfig) -> nn.Sequential:
    from popshift.gen.train import digits as data

    return data.smartdeal_trained(data.load(), seed, options)[1]


def _quantised_digits(network: nn.Module, config: AcceleratorConfig) -> Workload:
    from popshift.gen.train import digits as data

    images = data.load()
    graph = _quantised(network, images.train_images, config)
    test = images.test_images.numpy()
    smart = any(smartdeal.is_decomposed(layer) for layer in network.modules())
    ratio = smartdeal.compression(network).ratio if smart else _compression(network)
    return Workload(graph, test, images.test_labels.numpy(), rtl_images=10, compression=ratio)


def _quantised(network: nn.Module, samples: torch.Tensor, config: AcceleratorConfig) -> Graph:
    from popshift.gen.compress.int8 import quantise
    from popshift.gen.frontend.torch_export import from_module

    width = config.accumulator_width
    return quantise(from_module(network, samples[:1]), samples, config.requantise, accumulator_width=width)


def _smartdeal_options(config: AcceleratorConfig, **options: Any) -> SmartDealConfig:
    """What suits the configuration, which must be able to work with SmartDeal weights."""
    smartdeal.require_smartdeal(config)
    return SmartDealConfig.for_target(config, **options)


def smartdeal_convolution(shape: tuple[int, int, int], channels: int, row_sparsity: float) -> Build:
    """One 3x3 convolution with padding over (channels, height, width), Gaussian weights in SmartDeal form."""
    return _untrained(
        lambda seed: gaussian(nn.Sequential(nn.Conv2d(shape[0], channels, 3, padding=1)), seed),
        shape,
        row_sparsity,
    )


def _untrained(
    network: Callable[[int], nn.Module], shape: tuple[int, ...], row_sparsity: float | None
) -> Build:
    """A network with random weights on random images; ``row_sparsity`` None: plain int8."""

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        module = network(seed).eval()
        if row_sparsity is not None:
            options = _smartdeal_options(config, row_sparsity=row_sparsity)
            module, _ = smartdeal.decompose(module, options)
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(_CALIBRATION_IMAGES, *shape, generator=generator)
        ratio = smartdeal.compression(module).ratio
        return Workload(_quantised(module, images, config), images[:IMAGES].numpy(), compression=ratio)

    return build


CASES = {
    "conv64": Case("3x3, 64 to 64 channels, 16x16", convolution((64, 16, 16), 64, kernel=3, padding=1)),
    "conv16": Case("3x3, 16 to 16 channels, 16x16", convolution((16, 16, 16), 16, kernel=3, padding=1)),
    "conv3": Case("3x3, 3 to 16 channels, 32x32", convolution((3, 32, 32), 16, kernel=3, padding=1)),
    "pw64": Case("1x1, 64 to 64 channels, 16x16", convolution((64, 16, 16), 64)),
    "fc64": Case("fully connected, 64 to 64", fully_connected(64, 64)),
    "fc640": Case("fully connected, 640 to 128", fully_connected(640, 128)),
    "pool16": Case("max pool 2x2, 16 channels, 16x16", pool((16, 16, 16), 2)),
    "conv128": Case("3x3, 128 to 128 channels, 16x16", convolution((128, 16, 16), 128, kernel=3, padding=1)),
    "conv128-bin": Case("the same, of bits to bits", binary_convolution((128, 16, 16), 128, 3, 1)),
    "digits": Case("the demo's network on handwritten digits, 8x8", digits),
    "plain20": Case(
        "ResNet-20's layers without shortcuts, 32x32, untrained", _untrained(plain20, _CIFAR, None)
    ),
    "resnet8": Case(
        "MLPerf Tiny's ResNet-8, 32x32, untrained", _untrained(mlperf_tiny.resnet8, _CIFAR, None)
    ),
    "dscnn": Case("its DS-CNN, 49x10, untrained", _untrained(mlperf_tiny.dscnn, (1, 49, 10), None)),
    "mobilenet025": Case(
        "its MobileNetV1 0.25, 96x96, untrained", _untrained(mlperf_tiny.mobilenet025, (3, 96, 96), None)
    ),
    "autoencoder": Case("its autoencoder, 640, untrained", _untrained(mlperf_tiny.autoencoder, (640,), None)),
    "digits-bin": Case("a binary network for the same digits, trained", binary_digits),
    "vgg-small": Case("VGG-Small for CIFAR-10, 32x32, untrained", untrained_binary("vgg_small", False)),
    "vgg-small-bin": Case(
        "the same, binary but for its first and last layer", untrained_binary("vgg_small", True)
    ),
    "resnet20": Case("ResNet-20 for CIFAR-10, 32x32, untrained", untrained_binary("resnet20", False)),
    "resnet20-bin": Case(
        "the same, binary but for its first and last layer", untrained_binary("resnet20", True)
    ),
}
"""Plain int8."""
SMARTDEAL_FORMS = {"sd": 0.0, "sd50": 0.5}
"""Suffixes of the cases with SmartDeal weights: share of rows that are zero."""
for _suffix, _sparsity in SMARTDEAL_FORMS.items():
    CASES |= {
        f"conv64-{_suffix}": Case(
            f"conv64, SmartDeal, {_sparsity:.0%} zero rows",
            smartdeal_convolution((64, 16, 16), 64, _sparsity),
        ),
        f"conv16-{_suffix}": Case(
            f"conv16, SmartDeal, {_sparsity:.0%} zero rows",
            smartdeal_convolution((16, 16, 16), 16, _sparsity),
        ),
        f"digits-{_suffix}": Case(
            f"digits, SmartDeal, {_sparsity:.0%} zero rows, retrained", smartdeal_digits(_sparsity)
        ),
        f"plain20-{_suffix}": Case(
            f"plain20, SmartDeal, {_sparsity:.0%} zero rows", _untrained(plain20, _CIFAR, _sparsity)
        ),
    }


def choose(names: Sequence[str]) -> dict[str, Case]:
    """The cases of these names, or of model files; all standard cases if there is none.

    Raises
    ------
    InputError: there is no such case.
    """
    from popshift.gen.bench.files import file_case
    from popshift.gen.frontend import FRONTENDS

    files = {name: file_case(name) for name in names if Path(name).suffix.lower() in FRONTENDS}
    for name in names:
        if name not in CASES and name not in files:
            remedy = f"{did_you_mean(name, CASES)}name a model file, or one of {', '.join(CASES)}"
            raise InputError(f"no bench case named {name!r}", remedy=remedy)
    short = [Path(name).name for name in files]
    titles = {name: Path(name).name if short.count(Path(name).name) == 1 else name for name in files}
    return {titles.get(name, name): files.get(name) or CASES[name] for name in names or CASES}
