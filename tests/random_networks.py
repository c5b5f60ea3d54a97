"""Random integer networks of every operator the graph has but binary ones: shapes, strides, dilations,
padding, groups, zero points, shortcuts and shared tensors as they come.
"""

import random

import numpy as np

from popshift.gen.compress.sums import sum_factors
from popshift.gen.graph import (
    Add,
    Convolution,
    Factor,
    Graph,
    Pool,
    Pooling,
    Requantisation,
    Tensor,
    Window,
)
from popshift.hw import numerics
from popshift.hw.numerics import Requantise

MOST_CHANNELS, LARGEST = 20, 9


class RandomNetwork:
    """`graph` with `operators` operators, `sums` of two tensors among them; the same seed and mode give the
    same network.
    """

    def __init__(self, seed: int, mode: Requantise, operators: int, *, sums: bool = True) -> None:
        self._rng, self._values = random.Random(seed), np.random.default_rng(seed)
        self.graph = Graph(mode=mode, inputs=["x"], outputs=[])
        shape = (
            self._rng.randint(1, MOST_CHANNELS),
            self._rng.randint(1, LARGEST),
            self._rng.randint(1, LARGEST),
        )
        self._tensor("x", shape)
        makers = [self._convolution, self._convolution, self._sum, self._pool, self._linear]
        if not sums:
            makers.remove(self._sum)
        while len(self.graph.operators) < operators:
            self._rng.choice(makers)()
        read = {name for operator in self.graph.operators for name in operator.inputs}
        self.graph.outputs = [name for name in self.graph.tensors if name not in read]
        more = [name for name in read if name != "x"]
        if more and self._rng.random() < 0.3:
            self.graph.outputs.append(min(more))

    def images(self, count: int) -> np.ndarray:
        shape = self.graph.tensors["x"].shape
        return self._values.integers(-128, 128, (count, *shape)).astype(np.int8)

    # ---- operators -----------------------------------------------------------------------------------------

    def _convolution(self) -> None:
        source = self._any()
        channels = source.shape[0]
        groups = self._rng.choice([1, 1, 1, channels, *_divisors(channels)])
        outputs = groups * self._rng.randint(1, max(1, MOST_CHANNELS // groups))
        self._layer(source, self._window(source), outputs, groups)

    def _linear(self) -> None:
        source = self._any()
        self._layer(source, Window(source.shape[1:]), self._rng.randint(1, MOST_CHANNELS), 1)

    def _layer(self, source: Tensor, window: Window, outputs: int, groups: int) -> None:
        inputs = source.shape[0] // groups
        taps = inputs * window.kernel[0] * window.kernel[1]
        largest = min(127, 60_000 // taps)  # sums fit 24 bits
        weight = self._values.integers(-largest, largest + 1, (outputs, inputs, *window.kernel)).astype(
            np.int8
        )
        spread = 74 * (largest + 1) / np.sqrt(3) * np.sqrt(taps)  # standard deviation of a sum of products
        target = self._tensor(None, (outputs, *window.output_size(*source.shape[1:])))
        self.graph.operators.append(
            Convolution(
                name=f"layer {target}",
                input=source.name,
                output=target,
                window=window,
                weight=weight,
                bias=self._values.integers(-5000, 5000, outputs),
                requantisation=self._factors(self._values.uniform(20, 90, outputs) / spread),
                groups=groups,
            )
        )

    def _pool(self) -> None:
        source = self._any()
        window = self._window(source)
        operation = self._rng.choice(list(Pooling))
        average = operation is Pooling.AVERAGE
        inside = average and any(window.padding) and self._rng.random() < 0.5
        raw = average and (inside or not any(window.padding)) and self._rng.random() < 0.5
        counts = set(np.outer(*window.inside(*source.shape[1:])).ravel().tolist()) if inside else set()
        taps = window.kernel[0] * window.kernel[1] if operation is Pooling.AVERAGE else 1
        target = self._tensor(None, (source.shape[0], *window.output_size(*source.shape[1:])))
        factors = np.full(source.shape[0], self._rng.choice([1.0, self._rng.uniform(0.5, 1.5)]) / taps)
        if self._rng.random() < 0.3:
            factors = factors * self._values.uniform(0.5, 1.2, len(factors))
        self.graph.operators.append(
            Pool(
                name=f"pool {target}",
                input=source.name,
                output=target,
                window=window,
                operation=operation,
                requantisation=self._factors(factors),
                raw=raw,
                partial={count: self._factor(count) for count in sorted(counts - {taps})},
            )
        )

    def _sum(self) -> None:
        one = self._any()
        same = [tensor for tensor in self.graph.tensors.values() if tensor.shape == one.shape]
        other = self._rng.choice(same)
        target = self._tensor(None, one.shape)
        scales = one.scale, other.scale, self.graph.tensors[target].scale
        first, second, last = sum_factors(*scales, self.graph.mode)
        low, high = self._limits()
        factors = Requantisation(
            multiplier=np.array([last.multiplier]), shift=np.array([last.shift]), low=low, high=high
        )
        self.graph.operators.append(
            Add(
                name=f"sum {target}",
                input=one.name,
                other=other.name,
                output=target,
                first=first,
                second=second,
                requantisation=factors,
            )
        )

    # ---- pieces --------------------------------------------------------------------------------------------

    def _any(self) -> Tensor:
        """Mostly one of the last tensors, so that networks are deep."""
        tensors = list(self.graph.tensors.values())
        return self._rng.choice(tensors[-3:] if self._rng.random() < 0.8 else tensors)

    def _tensor(self, name: str | None, shape: tuple[int, int, int]) -> str:
        name = name or f"t{len(self.graph.tensors)}"
        scale = 2 ** self._rng.uniform(-6, 0)
        zero_point = self._rng.choice([0, -128, 127, self._rng.randint(-128, 127)])
        self.graph.tensors[name] = Tensor(name, shape, scale, zero_point)
        return name

    def _window(self, source: Tensor) -> Window:
        rng, sides = self._rng, []
        for size in source.shape[1:]:
            kernel, dilation = rng.choice((1, 2, 3, 3, 5)), rng.choice((1, 1, 2))
            reach = dilation * (kernel - 1)
            before, after = rng.randint(0, min(reach, 3)), rng.randint(0, min(reach, 3))
            if size + before + after <= reach:
                kernel, dilation, before, after = 1, 1, 0, 0
            sides.append((kernel, dilation, before, after))
        (tall, down, top, bottom), (wide, across, left, right) = sides
        stride = rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))
        return Window((tall, wide), stride, (top, bottom, left, right), (down, across))

    def _limits(self) -> tuple[int, int]:
        low = self._rng.choice([-128, -128, self._rng.randint(-128, 0)])
        return low, self._rng.choice([127, 127, self._rng.randint(low, 127)])

    def _factor(self, count: int) -> Factor:
        """That divides by `count`; windows beyond the image have none."""
        return Factor(*numerics.quantise_multiplier(1 / max(1, count), self.graph.mode))

    def _factors(self, real: np.ndarray) -> Requantisation:
        pairs = [numerics.quantise_multiplier(float(value), self.graph.mode) for value in real]
        low, high = self._limits()
        return Requantisation(
            multiplier=np.array([multiplier for multiplier, _ in pairs], np.int64),
            shift=np.array([shift for _, shift in pairs], np.int64),
            low=low,
            high=high,
        )


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(2, number) if number % divisor == 0]
