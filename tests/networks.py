"""Small integer networks with random weights, for tests of the whole way."""

import numpy as np

from popshift.gen.graph import Convolution, Graph, Pool, Pooling, Requantisation, Tensor, Window
from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.numerics import Requantise


def random_requantisation(rng: np.random.Generator, channels: int, mode: Requantise) -> Requantisation:
    """Factors that spread accumulators over the int8 range."""
    pairs = [numerics.quantise_multiplier(float(f), mode) for f in rng.uniform(0.0005, 0.02, channels)]
    multiplier, shift = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return Requantisation(multiplier=multiplier, shift=shift, low=-128, high=127)


def small_network(
    config: AcceleratorConfig,
    rng: np.random.Generator,
    *,
    channels: int = 3,
    size: int = 6,
    middle: int = 5,
    outputs: int = 4,
) -> Graph:
    """A convolution with padding, a max pool and a fully connected layer: every unit and source is used."""
    graph = Graph(mode=config.requantise, inputs=["x"], outputs=["z"])
    graph.tensors = {
        "x": Tensor("x", (channels, size, size), 0.1, 3),
        "a": Tensor("a", (middle, size, size), 0.1, -7),
        "p": Tensor("p", (middle, size // 2, size // 2), 0.1, -7),
        "z": Tensor("z", (outputs, 1, 1), 0.1, 5),
    }

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-128, 128, shape).astype(np.int8)

    identity = np.array([numerics.identity_multiplier(config.requantise)] * middle, dtype=np.int64)
    graph.operators = [
        Convolution(
            name="conv",
            input="x",
            output="a",
            window=Window((3, 3), padding=(1, 1, 1, 1)),
            weight=weight(middle, channels, 3, 3),
            bias=rng.integers(-1000, 1000, middle),
            requantisation=random_requantisation(rng, middle, config.requantise),
        ),
        Pool(
            name="pool",
            input="a",
            output="p",
            window=Window((2, 2), stride=(2, 2)),
            operation=Pooling.MAX,
            requantisation=Requantisation(
                multiplier=identity[:, 0], shift=identity[:, 1], low=-128, high=127
            ),
        ),
        Convolution(
            name="fc",
            input="p",
            output="z",
            window=Window((size // 2, size // 2)),
            weight=weight(outputs, middle, size // 2, size // 2),
            bias=rng.integers(-1000, 1000, outputs),
            requantisation=random_requantisation(rng, outputs, config.requantise),
        ),
    ]
    return graph
