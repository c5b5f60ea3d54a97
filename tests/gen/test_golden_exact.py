"""The golden model against pure Python integers and, where a bound can be given, real arithmetic."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from popshift.gen import golden
from popshift.gen.graph import Convolution, Graph, Operator, Pool, Pooling, Requantisation, Tensor, Window
from popshift.hw.errors import InputError
from popshift.hw.numerics import Requantise


def away(x: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    return math.floor(x + Fraction(1, 2)) if x >= 0 else math.ceil(x - Fraction(1, 2))


def requantised(acc: int, multiplier: int, shift: int, mode: Requantise) -> int:
    """The factor's product, rounded as the mode says, in rationals."""
    if mode is Requantise.COMPACT:
        return away(Fraction(acc * multiplier, 1 << shift))
    return away(Fraction(math.floor(Fraction(acc * multiplier, 1 << 31) + Fraction(1, 2)), 1 << shift))


def evaluate_by_loops(graph: Graph, operator: Operator, x: NDArray[np.int8]) -> NDArray[np.int8]:
    """One image through one operator, tap by tap."""
    source, result = graph.tensors[operator.input], graph.tensors[operator.output]
    window, r = operator.window, operator.requantisation
    top, _, left, _ = window.padding
    out = np.empty(result.shape, np.int8)
    for m, oy, ox in np.ndindex(*result.shape):
        terms: list[int] = []
        channels = range(source.shape[0]) if isinstance(operator, Convolution) else [m]
        for c in channels:
            for ky in range(window.kernel[0]):
                for kx in range(window.kernel[1]):
                    y = oy * window.stride[0] - top + ky * window.dilation[0]
                    z = ox * window.stride[1] - left + kx * window.dilation[1]
                    if not (0 <= y < source.shape[1] and 0 <= z < source.shape[2]):
                        continue
                    value = int(x[c, y, z]) - source.zero_point
                    terms.append(
                        value * int(operator.weight[m, c, ky, kx])
                        if isinstance(operator, Convolution)
                        else value
                    )
        if isinstance(operator, Convolution):
            acc = sum(terms) + int(operator.bias[m])
        else:
            acc = max(terms) if operator.operation is Pooling.MAX else sum(terms)
        scaled = requantised(acc, int(r.multiplier[m]), int(r.shift[m]), graph.mode)
        out[m, oy, ox] = min(max(scaled + result.zero_point, r.low), r.high)
    return out


def random_operator(rng: random.Random, mode: Requantise) -> Graph:
    """One operator with random geometry, weights and requantisation, over tensors with random zero points."""
    shape = rng.randint(1, 4), rng.randint(3, 7), rng.randint(3, 7)
    kernel = rng.randint(1, 3), rng.randint(1, 3)
    kind = rng.choice(["convolution", "max", "average"])
    dilation = (1, 1) if kind == "average" else (rng.randint(1, 2), 1)
    # A max pooling window must hold at least one pixel of the image.
    vertical, horizontal = (
        (2, 2) if kind != "max" else (0 if dilation[0] > 1 else kernel[0] - 1, kernel[1] - 1)
    )
    padding = (*(rng.randint(0, vertical) for _ in "tb"), *(rng.randint(0, horizontal) for _ in "lr"))
    assert len(padding) == 4
    window = Window(kernel, (rng.randint(1, 3), rng.randint(1, 2)), padding, dilation)
    rows, columns = window.output_size(shape[1], shape[2])
    if rows < 1 or columns < 1:
        return random_operator(rng, mode)
    channels = rng.randint(1, 5) if kind == "convolution" else shape[0]
    source = Tensor("x", shape, 0.1, rng.choice([-128, 127, 0, rng.randint(-128, 127)]))
    result = Tensor("y", (channels, rows, columns), 0.1, rng.choice([-128, 127, rng.randint(-128, 127)]))
    bits = 34 if mode is Requantise.EXACT else 16
    shifts = (0, 8) if mode is Requantise.EXACT else (8, 26)
    requantisation = Requantisation(
        multiplier=np.array(
            [rng.randrange(1 << rng.choice([bits, bits - 4])) for _ in range(channels)], np.int64
        ),
        shift=np.array([rng.randint(*shifts) for _ in range(channels)], np.int64),
        low=rng.choice([-128, result.zero_point]),
        high=rng.choice([127, max(result.zero_point, 100)]),
    )
    if kind == "convolution":
        weights = [
            rng.choice([-127, 127, rng.randint(-127, 127)])
            for _ in range(channels * shape[0] * math.prod(kernel))
        ]
        operator: Operator = Convolution(
            name="op",
            input="x",
            output="y",
            window=window,
            weight=np.array(weights, np.int8).reshape(channels, shape[0], *kernel),
            bias=np.array([rng.randint(-(2**20), 2**20) for _ in range(channels)], np.int64),
            requantisation=requantisation,
        )
    else:
        operation = Pooling.MAX if kind == "max" else Pooling.AVERAGE
        operator = Pool(
            name="op",
            input="x",
            output="y",
            window=window,
            operation=operation,
            requantisation=requantisation,
        )
    return Graph(
        mode=mode, inputs=["x"], outputs=["y"], tensors={"x": source, "y": result}, operators=[operator]
    )


@pytest.mark.parametrize("mode", Requantise)
@pytest.mark.parametrize("seed", range(80))
def test_operator_equals_integer_loops(seed: int, mode: Requantise) -> None:
    rng = random.Random(seed)
    graph = random_operator(rng, mode)
    generator = np.random.default_rng(seed)
    x = generator.integers(-128, 128, (3, *graph.tensors["x"].shape), np.int8)
    x[0] = generator.choice(np.array([-128, 127], np.int8), x[0].shape)
    result = golden.run(graph, x)
    np.testing.assert_array_equal(result["x"], x)
    for image, found in zip(x, result["y"], strict=True):
        np.testing.assert_array_equal(found, evaluate_by_loops(graph, graph.operators[0], image))


def wide_layer(inputs: int, multiplier: int, shift: int) -> Graph:
    """A fully connected layer whose accumulator comes close to 32 bits."""
    requantisation = Requantisation(
        multiplier=np.array([multiplier], np.int64), shift=np.array([shift], np.int64), low=-128, high=127
    )
    operator = Convolution(
        name="op",
        input="x",
        output="y",
        window=Window((1, 1)),
        weight=np.full((1, inputs, 1, 1), 127, np.int8),
        bias=np.array([-3], np.int64),
        requantisation=requantisation,
    )
    tensors = {"x": Tensor("x", (inputs, 1, 1), 1.0, 127), "y": Tensor("y", (1, 1, 1), 1.0, 0)}
    return Graph(mode=Requantise.EXACT, inputs=["x"], outputs=["y"], tensors=tensors, operators=[operator])


def test_accumulators_near_the_limit_are_exact() -> None:
    inputs = 66_000
    graph = wide_layer(inputs, (1 << 31) - 1, 24)
    x = np.full((2, inputs, 1, 1), -128, np.int8)
    x[1, 17] = 126
    for image, found in zip(x, golden.run(graph, x)["y"], strict=True):
        acc = sum((int(value) - 127) * 127 for value in image.ravel()) - 3
        assert acc < -(1 << 30)
        assert found.item() == requantised(acc, (1 << 31) - 1, 24, Requantise.EXACT)


def test_chunks_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_operator(random.Random(3), Requantise.EXACT)
    x = np.random.default_rng(3).integers(-128, 128, (7, *graph.tensors["x"].shape), np.int8)
    whole = golden.run(graph, x)
    monkeypatch.setattr(golden, "_CHUNK_BYTES", 1)
    for name, values in golden.run(graph, torch.from_numpy(x)).items():
        np.testing.assert_array_equal(values, whole[name])


def test_float_input_is_quantised_as_the_driver_does() -> None:
    graph = wide_layer(4, 1 << 30, 2)
    integers = np.array([[-128, 127, 5, -77]], np.int8).reshape(1, 4, 1, 1)
    reals = (integers.astype(np.float64) - 127) * 1.0
    np.testing.assert_array_equal(golden.run(graph, reals + 0.49)["x"][0, 2:], integers[0, 2:])
    np.testing.assert_array_equal(golden.run(graph, reals)["y"], golden.run(graph, integers)["y"])


def test_wrong_input_is_refused() -> None:
    graph = wide_layer(4, 1 << 30, 2)
    with pytest.raises(InputError, match=r"input x: the shape must be"):
        golden.run(graph, np.zeros((1, 5, 1, 1), np.int8))
    with pytest.raises(InputError, match=r"input x: the value at index .* is nan"):
        golden.run(graph, np.full((1, 4), np.nan))
