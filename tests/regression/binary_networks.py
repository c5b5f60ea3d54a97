"""Networks with binary layers: alone, and between int8 and SmartDeal layers, so that the array changes its
kind of weights from one instruction to the next.
"""

from typing import Any

import numpy as np
from case_files import draw
from hypothesis import strategies as st

from popshift.firmware_py.bits import pack_signs, packed_size
from popshift.gen.graph import Convolution, Factors, Graph, Pool, Pooling, Requantisation, Tensor, Window
from popshift.hw import numerics
from popshift.hw.config import ACCUMULATOR_WIDTHS, AcceleratorConfig
from popshift.hw.numerics import BASIS_MAX, BASIS_SIZE, EXPONENTS

CHANNELS = 26
"""Most of a binary tensor: three bytes and a part of another."""
POOLS = (None, Window((2, 2), (2, 2)), Window((2, 2)), Window((3, 3), (2, 2), (1, 1, 1, 1)))
_NARROW_EXPONENTS = 3
"""Of coefficients whose sums fit the narrowest accumulators."""
_ACTIVATION = 74
"""Typical magnitude of an int8 activation."""


@st.composite
def _shapes(draw) -> dict[str, Any]:
    """A network of binary layers; the last one may give int8."""
    layers = [
        {
            "channels": draw(st.integers(1, CHANNELS)),
            "kernel": draw(st.sampled_from([(3, 3), (2, 3), (1, 1)])),
            "stride": draw(st.sampled_from([1, 1, 2])),
            "padding": draw(st.integers(0, 1)),
            "pool": draw(st.sampled_from(POOLS)),
        }
        for _ in range(draw(st.integers(1, 2)))
    ]
    return {
        "around": None,
        "channels": draw(st.integers(1, CHANNELS)),
        "size": (draw(st.integers(1, 7)), draw(st.integers(1, 7))),
        "layers": layers,
        "whole": draw(st.booleans()),
        "zero_point": draw(st.integers(-128, 127)),
        "seed": draw(st.integers(0, 1 << 30)),
    }


def _chosen_shapes(config: AcceleratorConfig, seed: int) -> list[dict[str, Any]]:
    """An image of one row, one of one column, a byte of channels, a bit more; and, if there are ``mul`` PEs,
    an image with all sorts of edges between other layers, the first or last of which has SmartDeal weights.
    """
    layer = {"kernel": (3, 3), "stride": 1, "padding": 1, "pool": None}
    common = {"around": None, "whole": False, "zero_point": 3, "seed": seed}
    found = [
        common | {"channels": 8, "size": (1, 7), "layers": [layer | {"channels": 17, "pool": POOLS[3]}]},
        common | {"channels": 9, "size": (5, 1), "layers": [layer | {"channels": 9}]},
    ]
    if "mul" not in config.pe_kinds:
        return found
    layers = [
        layer | {"channels": 8, "pool": POOLS[1]},
        layer | {"channels": 9, "kernel": (1, 1), "padding": 0},
    ]
    square = common | {"channels": 3, "size": (5, 4), "layers": layers, "whole": True}
    # Signs of SmartDeal sums can be written only if the weights are rebuilt.
    possible = {"int8": not config.smartdeal, "first": config.rebuild, "last": config.smartdeal}
    return found + [square | {"around": around} for around, fits in possible.items() if fits]


class _Builder:
    """Appends layers to a graph; the tensor made last is the next one's input."""

    def __init__(self, config: AcceleratorConfig, shape: dict[str, Any]) -> None:
        self._mode, self._zero_point = config.requantise, shape["zero_point"]
        narrow = config.accumulator_width < max(ACCUMULATOR_WIDTHS)
        self._exponents = _NARROW_EXPONENTS if narrow else EXPONENTS
        self._rng = np.random.default_rng(shape["seed"])
        self.graph = Graph(mode=config.requantise, inputs=["x"], outputs=[])
        self._add_tensor("x", shape["channels"], *shape["size"], binary=shape["around"] is None)

    def _add_tensor(self, name: str, channels: int, height: int, width: int, *, binary: bool) -> None:
        if binary:
            self.last = Tensor(name, (packed_size(channels), height, width), 1.0, 0, bits=channels)
        else:
            self.last = Tensor(name, (channels, height, width), 1.0, self._zero_point)
        self.graph.tensors[name] = self.last

    def _append(self, operator: Convolution | Pool, channels: int, *, binary: bool) -> None:
        self.graph.operators.append(operator)
        self._add_tensor(
            operator.output, channels, *operator.window.output_size(*self.last.shape[1:]), binary=binary
        )

    def _names(self) -> dict[str, str]:
        number = len(self.graph.operators)
        return {"name": f"layer {number}", "input": self.last.name, "output": f"t{number}"}

    def convolution(self, channels: int, window: Window, *, binary: bool, smartdeal: bool = False) -> None:
        """With ±1 for a binary input, else with int8 or SmartDeal weights; to a binary output or int8."""
        rng, factors, activation = self._rng, None, _ACTIVATION
        shape = (channels, self.last.channels, *window.kernel)
        if self.last.bits:
            weight, activation = rng.choice([-1, 1], shape).astype(np.int8), 1
        elif smartdeal:
            factors = self._factors(channels, self.last.channels * window.kernel[0])
            weight = factors.weight(shape)
        else:
            weight = rng.integers(-127, 128, shape).astype(np.int8)
        typical = activation * np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)).mean())
        operator = Convolution(
            **self._names(),
            window=window,
            weight=weight,
            bias=np.rint(rng.normal(0, typical / 2, channels)).astype(np.int64),
            requantisation=Requantisation.identity(channels, self._mode)
            if binary
            else self._scaled(channels, float(typical)),
            factors=factors,
        )
        self._append(operator, channels, binary=binary)

    def pool(self, window: Window) -> None:
        """The maximum of every bit."""
        channels = self.last.channels
        factors = Requantisation.identity(packed_size(channels), self._mode)
        operator = Pool(**self._names(), window=window, operation=Pooling.MAX, requantisation=factors)
        self._append(operator, channels, binary=True)

    def _factors(self, filters: int, rows: int) -> Factors:
        """Of a kernel three wide, with rows that are zero in all filters and others in some."""
        rng, size = self._rng, (filters, 1, rows, BASIS_SIZE)
        coefficients = rng.choice([0, -1, 1], size) << rng.integers(0, self._exponents, size)
        coefficients *= (rng.random((rows, 1)) < 0.7) & (rng.random((filters, 1, rows, 1)) < 0.9)
        basis = rng.integers(-BASIS_MAX, BASIS_MAX + 1, (filters, 1, BASIS_SIZE, BASIS_SIZE))
        taps = np.arange(rows * BASIS_SIZE).reshape(1, rows, BASIS_SIZE)
        return Factors(coefficients=coefficients.astype(np.int8), basis=basis.astype(np.int8), taps=taps)

    def _scaled(self, channels: int, typical: float) -> Requantisation:
        """Factors that spread sums of a typical magnitude over the int8 range."""
        factors = np.minimum(
            self._rng.uniform(30, 90, channels) / max(typical, 1), self._mode.factor_limit / 2
        )
        return _requantisation([numerics.quantise_multiplier(float(f), self._mode) for f in factors])


def _requantisation(pairs: list[tuple[int, int]]) -> Requantisation:
    multiplier, shift = np.array(pairs, np.int64).T
    return Requantisation(multiplier=multiplier, shift=shift, low=-128, high=127)


def _fitting(window: Window, size: tuple[int, int]) -> Window:
    """With a kernel no larger than the padded image."""
    padding = window.padding
    sides = (size[0] + padding[0] + padding[1], size[1] + padding[2] + padding[3])
    kernel = (min(window.kernel[0], sides[0]), min(window.kernel[1], sides[1]))
    return Window(kernel, window.stride, padding)


def _graph(config: AcceleratorConfig, shape: dict[str, Any]) -> Graph:
    made, around = _Builder(config, shape), shape["around"]
    same_size = Window((3, 3), padding=(1, 1, 1, 1))
    if around:
        made.convolution(10, same_size, binary=True, smartdeal=around == "first")
    for layer in shape["layers"]:
        window = Window(layer["kernel"], (layer["stride"],) * 2, (layer["padding"],) * 4)
        made.convolution(layer["channels"], _fitting(window, made.last.shape[1:]), binary=True)
        if layer["pool"] is not None:
            made.pool(_fitting(layer["pool"], made.last.shape[1:]))
    if shape["whole"]:
        made.convolution(5, Window(made.last.shape[1:]), binary=False)
    if around:
        made.convolution(7, same_size, binary=False, smartdeal=around == "last")
    made.graph.outputs = [made.last.name]
    return made.graph


def binary_graphs(config: AcceleratorConfig, seed: int, count: int = 1) -> list[tuple[str, Graph]]:
    """Names and networks: chosen ones, and `count` drawn; none without ``xnor`` PEs."""
    if not config.has_packing:
        return []
    _, *drawn = draw(_shapes(), 1 + count, seed)  # the first is the smallest there is
    shapes = [*_chosen_shapes(config, seed), *drawn]
    return [(f"binary {shape}", _graph(config, shape)) for shape in shapes]


def binary_images(tensor: Tensor, images: int, seed: int) -> np.ndarray:
    """Random bits, and as the last image all of them 1; int8 (images, bytes, height, width)."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1, 1], (images, tensor.bits, *tensor.shape[1:]))
    values[-1] = 1
    return pack_signs(values, axis=1)
