"""Random integer networks for the mapper's tests, and what they compute, tap by tap."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from popshift.gen.graph import Convolution, Graph, Operator, Pool, Pooling, Requantisation, Tensor, Window
from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.numerics import Requantise


def configuration(name: str, rows: int, cols: int, post_lanes: int, **changes) -> AcceleratorConfig:
    sizes = {"activation_depth": 4096, "weight_depth": 8192, "accumulator_depth": 64}
    return AcceleratorConfig(name=name, rows=rows, cols=cols, post_lanes=post_lanes, **{**sizes, **changes})


CONFIGS = [
    configuration("square", 4, 4, 2),
    configuration("wide", 4, 8, 4),
    configuration("tall", 8, 2, 1, requantise="compact"),
    configuration("one-lane", 6, 3, 1, accumulator_depth=16),
    configuration("one-group", 4, 4, 4, requantise="compact", accumulator_depth=32),
    configuration("one-row", 1, 1, 1, activation_depth=8192, weight_depth=1 << 15),
]


def factors(
    rng: np.random.Generator, channels: int, terms: int, mode: Requantise, uniform: bool = False
) -> Requantisation:
    """Multipliers that spread accumulators of `terms` products (0: activations) over the int8 range."""
    real = rng.uniform(0.3, 1.5, channels) / (32 * np.sqrt(terms) if terms else 1)
    if uniform:
        real[:] = real[0]
    pairs = [numerics.quantise_multiplier(float(value), mode) for value in real]
    multiplier, shift = (np.array(values, np.int64) for values in zip(*pairs, strict=True))
    low, high = sorted(rng.choice([-128, -100, 100, 127], 2, replace=False).tolist())
    return Requantisation(multiplier=multiplier, shift=shift, low=low, high=high)


def corner_values(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """int8 values of the whole range, every third or so at an end of it."""
    values = rng.integers(-128, 128, shape)
    ends = rng.choice([-128, 127], shape)
    return np.where(rng.random(shape) < 0.3, ends, values).astype(np.int8)


def convolution(
    rng: np.random.Generator,
    graph: Graph,
    source: str,
    name: str,
    channels: int,
    window: Window,
    zero_point: int = 0,
) -> str:
    """Append a convolution that writes tensor `name`; gives the name."""
    shape = graph.tensors[source].shape
    weight = corner_values(rng, (channels, shape[0], *window.kernel))
    bias = rng.integers(-5000, 5000, channels)
    terms = weight[0].size * 70
    graph.tensors[name] = Tensor(name, (channels, *window.output_size(*shape[1:])), 1.0, zero_point)
    graph.operators.append(
        Convolution(
            name=f"layer {name}",
            input=source,
            output=name,
            window=window,
            weight=weight,
            bias=bias,
            requantisation=factors(rng, channels, terms, graph.mode),
        )
    )
    return name


def pool(
    rng: np.random.Generator,
    graph: Graph,
    source: str,
    name: str,
    operation: Pooling,
    window: Window,
    zero_point: int = 0,
    uniform: bool = True,
) -> str:
    """Append a pool that writes tensor `name`; gives the name."""
    shape = graph.tensors[source].shape
    graph.tensors[name] = Tensor(name, (shape[0], *window.output_size(*shape[1:])), 1.0, zero_point)
    graph.operators.append(
        Pool(
            name=f"layer {name}",
            input=source,
            output=name,
            window=window,
            operation=operation,
            requantisation=factors(rng, shape[0], 0, graph.mode, uniform),
        )
    )
    return name


def network(config: AcceleratorConfig, shape: tuple[int, int, int], zero_point: int = 0) -> Graph:
    """A graph with one input, `x`, and no operator yet."""
    return Graph(
        mode=config.requantise, inputs=["x"], outputs=[], tensors={"x": Tensor("x", shape, 1.0, zero_point)}
    )


def windows(height: int, width: int, kernel: int = 5) -> st.SearchStrategy[Window]:
    """Windows with asymmetric padding, stride and dilation that fit an input of `height` x `width`."""

    def fits(window: Window) -> bool:
        return min(window.output_size(height, width)) >= 1

    size = st.integers(1, kernel)
    return st.builds(
        Window,
        kernel=st.tuples(size, size),
        stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        padding=st.tuples(*[st.integers(0, 2)] * 4),
        dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    ).filter(fits)


# ---- what the network computes -----------------------------------------------------------------------------


def evaluate(graph: Graph, inputs: dict[str, NDArray[np.int8]]) -> dict[str, NDArray[np.int8]]:
    """Every tensor, tap by tap in int64."""
    values = dict(inputs)
    for operator in graph.operators:
        values[operator.output] = _operator(graph, operator, values[operator.input].astype(np.int64))
    return values


def _operator(graph: Graph, operator: Operator, x: NDArray[np.int64]) -> NDArray[np.int8]:
    source, target, window = graph.tensors[operator.input], graph.tensors[operator.output], operator.window
    is_max = isinstance(operator, Pool) and operator.operation is Pooling.MAX
    top, bottom, left, right = window.padding
    sides = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x, sides, constant_values=-128 if is_max else source.zero_point) - source.zero_point
    _, rows, columns = target.shape
    acc = None
    for ky in range(window.kernel[0]):
        for kx in range(window.kernel[1]):
            y, x_start = ky * window.dilation[0], kx * window.dilation[1]
            tap = padded[:, :, y :: window.stride[0], x_start :: window.stride[1]][:, :, :rows, :columns]
            if isinstance(operator, Convolution):
                tap = np.einsum("nchw,mc->nmhw", tap, operator.weight[:, :, ky, kx].astype(np.int64))
            acc = tap if acc is None else np.maximum(acc, tap) if is_max else acc + tap
    assert acc is not None
    if isinstance(operator, Convolution):
        acc = acc + operator.bias[:, None, None]
    r = operator.requantisation
    return numerics.requantise(
        acc,
        r.multiplier[:, None, None],
        r.shift[:, None, None],
        zero_point=target.zero_point,
        low=r.low,
        high=r.high,
        mode=graph.mode,
    ).astype(np.int8)
