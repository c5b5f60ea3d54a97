"""Cases for the post unit, and what it must write: from the definitions, not from `hw.numerics`."""

from fractions import Fraction
from typing import Any

import numpy as np
from case_files import draw
from hypothesis import strategies as st

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Lane, Source
from popshift.hw.numerics import Requantise

SUM_LIMIT = 1 << 19  # the channel unit's values have 20 bits
FACTORED_LIMIT = 1 << 23  # what is combined with a basis has 24
COMBINED_LIMIT = 1 << 31


def multiply_by_quantised_multiplier(x: int, mantissa: int, exponent: int) -> int:
    """TensorFlow Lite's MultiplyByQuantizedMultiplier (kernels/internal/common.h): two roundings."""
    left, right = max(exponent, 0), max(-exponent, 0)
    product = (x << left) * mantissa
    nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
    total = product + nudge
    high = abs(total) >> 31 if total >= 0 else -(abs(total) >> 31)  # C++ divides towards zero
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (high < 0)
    return (high >> right) + ((high & mask) > threshold)


def round_half_away(x: Fraction) -> int:
    """The nearest integer, ties away from zero."""
    magnitude = int(abs(x) + Fraction(1, 2))
    return magnitude if x >= 0 else -magnitude


ENTRIES = ("any", "corners", "largest", "two")
"""Entries of a basis: any; ±127 only; the same, and all sums as large as 32 bits allow; two of ±127 and
others 0.
"""


class _Factor:
    """A random requantisation factor: as the parameter memory holds it, and as it is meant.

    `limit`: of the magnitude of what it is for, bias included.
    """

    def __init__(self, rng: np.random.Generator, config: AcceleratorConfig, limit: int) -> None:
        self.mode = mode = config.requantise
        self.limit = limit
        if mode is Requantise.EXACT:
            ends = (1 << 30, (1 << 31) - 1)  # the first is a power of two: exact ties
            self.mantissa = int(rng.choice(ends) if rng.random() < 0.6 else rng.integers(*ends))
            self.exponent = int(rng.integers(-31, 4))
            self.multiplier, self.shift = self.mantissa << max(self.exponent, 0), max(-self.exponent, 0)
        else:
            self.multiplier = int(
                rng.choice([0, 1, 1 << 15, 1 << 12, (1 << 16) - 1, *rng.integers(1 << 16, size=3)])
            )
            self.shift = int(rng.choice(mode.shifts))

    def bears(self, x: int) -> bool:
        """Whether the compiler would admit it: no sum and no product overflows."""
        return -self.limit <= x < self.limit and abs(x * self.multiplier) < 1 << 62

    def apply(self, x: int) -> int:
        if self.mode is Requantise.EXACT:
            return multiply_by_quantised_multiplier(x, self.mantissa, self.exponent)
        return round_half_away(Fraction(x * self.multiplier, 1 << self.shift))


@st.composite
def _shapes(draw, config: AcceleratorConfig, source: Source) -> dict[str, Any]:
    low = draw(st.integers(-128, 127))
    most = 2 * config.chunks + 1 if source is Source.MATRIX else 4
    return {
        "source": int(source),
        "x_count": draw(st.integers(1, 5)),
        "y_count": draw(st.integers(1, 4)),
        "x_step": draw(st.integers(-3, 5)),
        "y_step": draw(st.integers(-9, 9)),
        "plane_step": draw(st.integers(-20, 40)),
        "chunks": draw(st.integers(1, most)),
        "period": draw(st.integers(1, config.bank_groups)),
        "mask": draw(st.integers(1, (1 << config.bank_groups) - 1)),
        "uniform": draw(st.integers(0, 1)),
        "zero_point": draw(st.sampled_from([-128, 127, 0]) | st.integers(-128, 127)),
        "low": draw(st.sampled_from([-128, low])),
        "high": draw(st.sampled_from([127]) | st.integers(low, 127)),
        "corners": draw(st.booleans()),
        "pauses": draw(st.sampled_from([0, 0, 7])),
        "seed": draw(st.integers(0, 1 << 30)),
        "stride": draw(st.integers(1, 3)),
        "single": draw(st.integers(0, 1)),
        "entries": draw(st.sampled_from(ENTRIES)),
    }


def _path(case: dict[str, Any], planes: int) -> np.ndarray:
    """Addresses from 0: (planes, pixels)."""
    pixels, address = [], 0
    for _ in range(case["y_count"]):
        for x in range(case["x_count"]):
            pixels.append(address)
            address += case["x_step"] if x + 1 < case["x_count"] else case["y_step"]
    return np.arange(planes)[:, None] * case["plane_step"] + np.array(pixels)


def _value(rng: np.random.Generator, case, limit: int, factor: _Factor, bias: int) -> int:
    """An accumulator, ``-limit .. limit - 1``."""
    if case["corners"]:
        return int(rng.choice([limit - 1, -limit, 0, 1, -1]))
    value = int(rng.integers(-limit, limit)) >> int(rng.integers(0, limit.bit_length()))
    if factor.multiplier and rng.random() < 0.7:  # aim at a result of 8 bits and a short fraction
        one = Fraction(1 << factor.shift, factor.multiplier)
        one *= 1 << 31 if factor.mode is Requantise.EXACT else 1
        value = round(one * Fraction(int(rng.integers(-4096, 4097)), 32))
    return max(-limit, min(limit - 1, value - bias))


def _complete(case: dict[str, Any], config: AcceleratorConfig) -> dict[str, Any]:
    """Addresses, parameters, values, and the writes in order: (mask, address, lanes)."""
    rng, source = np.random.default_rng(case["seed"]), Source(case["source"])
    per_plane = case["period"]
    groups = case["chunks"] * per_plane if source is Source.CHANNEL else case["chunks"]
    planes = -(-groups // per_plane) if source is not Source.FILL else groups
    path = _path(case, planes)
    span = int(path.max() - path.min())
    base = int(rng.integers(0, config.activation_depth - span)) - int(path.min())
    fill = _combined if source is Source.BASIS else _requantised
    parameters, values, results = fill(rng, case, config, groups, path.shape[1])
    writes = _writes(case, config, source, groups, base + path, results)
    return case | {
        "base": base,
        "parameter_base": int(rng.integers(0, config.parameter_depth - len(parameters) + 1)),
        "parameters": np.frombuffer(b"".join(parameters), np.uint8).reshape(len(parameters), -1),
        "values": values,
        "writes": np.array(writes, np.int64).reshape(-1, 2 + config.post_lanes),
    }


def _requantised(rng: np.random.Generator, case: dict[str, Any], config: AcceleratorConfig, groups, pixels):
    """Parameter words, values and results (groups, pixels, lanes) of every source but BASIS."""
    source, lanes = Source(case["source"]), config.post_lanes
    words = 1 if case["uniform"] else groups
    limit = 1 << (config.accumulator_width - 1)
    factors = [[_Factor(rng, config, limit) for _ in range(lanes)] for _ in range(words)]
    narrow = 14 if source is Source.CHANNEL else 0  # a bias that the values can outweigh
    bits = config.accumulator_width
    most = 1 << (bits - 1)
    biases = rng.integers(-most, most, (words, lanes)) >> rng.integers(narrow, bits, (words, lanes))
    values = np.zeros((groups, pixels, lanes), np.int64)
    results = np.full((groups, pixels, lanes), case["zero_point"])
    for group, pixel, lane in np.ndindex(*values.shape):
        if source is Source.FILL:
            continue
        word = 0 if case["uniform"] else group
        factor, bias = factors[word][lane], int(biases[word, lane])
        limit = SUM_LIMIT if source is Source.CHANNEL else most
        value = _value(rng, case, limit, factor, bias)
        if not factor.bears(value + bias):
            value = 0 if factor.bears(bias) else max(-limit, min(limit - 1, -bias))
        assert factor.bears(value + bias)
        values[group, pixel, lane] = value
        scaled = factor.apply(value + bias)
        results[group, pixel, lane] = min(max(case["zero_point"] + scaled, case["low"]), case["high"])
    parameters = [
        isa.pack_parameter(config, [_lane(rng, config, f, int(b)) for b, f in zip(bias, row, strict=True)])
        for bias, row in zip(biases, factors, strict=True)
    ]
    return parameters, values, results


def _lane(
    rng: np.random.Generator, config: AcceleratorConfig, factor: _Factor, bias: int, basis: Any = None
) -> Lane:
    """One channel's parameters; without a basis to be heeded, any."""
    row = rng.integers(-128, 128, 3) if basis is None else basis
    row = tuple(row.tolist()) if config.has_basis else (0, 0, 0)
    return Lane(bias, factor.multiplier, factor.shift, row)


def _basis_and_inputs(rng: np.random.Generator, entries: str, inputs: tuple[int, ...]):
    """A basis B[j][s], and `inputs` (…, 3) such that any sum of a basis times three of them fits 32 bits."""
    match entries:
        case "any":
            basis, limit = rng.integers(-128, 128, (3, 3)), COMBINED_LIMIT // (9 * 128)
        case "corners":
            basis, limit = rng.choice([-127, 127], (3, 3)), (COMBINED_LIMIT - 1) // (9 * 127)
        case "largest":
            limit = (COMBINED_LIMIT - 1) // (9 * 127)
            signs = rng.choice([-1, 1], 3)
            turns = rng.choice([-1, 1], (*inputs[:-2], 1, 1))
            return np.repeat(127 * signs[:, None], 3, axis=1), np.broadcast_to(turns * signs * limit, inputs)
        case "two":  # so few that the inputs may reach their limits
            basis, limit = np.zeros(9, np.int64), FACTORED_LIMIT
            basis[rng.choice(9, 2, replace=False)] = rng.choice([-127, 127], 2)
            basis = basis.reshape(3, 3)
    if entries == "any":
        return basis, rng.integers(-limit, limit, inputs) >> rng.integers(0, 21, inputs)
    return basis, rng.choice([limit - 1, -limit, 0, 1, -1], inputs, p=[0.4, 0.4, 0.1, 0.05, 0.05])


def _factor_and_bias(
    rng: np.random.Generator, config: AcceleratorConfig, sums: list[int]
) -> tuple[_Factor, int]:
    """Parameters that bear all of a channel's `sums`; mostly such that the results have about 8 bits."""
    for _ in range(1000):
        factor = _Factor(rng, config, COMBINED_LIMIT)
        middle = -sums[int(rng.integers(len(sums)))]
        bias = int(rng.choice([middle, middle // 2, 0, int(rng.integers(-COMBINED_LIMIT, COMBINED_LIMIT))]))
        bias = max(-COMBINED_LIMIT, min(COMBINED_LIMIT - 1, bias))
        if not all(factor.bears(x + bias) for x in sums):
            continue
        largest = max(abs(factor.apply(x + bias)) for x in sums)
        if 8 < largest < 2000 or rng.random() < 0.02:
            return factor, bias
    raise AssertionError("no factor bears such sums")


def _combined(rng: np.random.Generator, case: dict[str, Any], config: AcceleratorConfig, groups, pixels):
    """The same for BASIS: ``y[x] = sum over j, s of B[j][s] * u[j][stride * x + s]``; `single`: only s = 2.

    The values are those of whole halves: three groups of columns of a half for each group of channels.
    """
    lanes, stride = config.post_lanes, case["stride"]
    columns = range(2, 3) if case["single"] else range(3)
    inputs = stride * (case["x_count"] - 1) + len(columns)
    per_half = config.cols // lanes // 3
    halves = -(-groups // per_half)
    shape = (halves, config.chunks, case["y_count"] * inputs, lanes)
    values = rng.integers(-FACTORED_LIMIT, FACTORED_LIMIT, shape)
    results = np.zeros((groups, pixels, lanes), np.int64)
    parameters = []
    for group in range(groups):
        rows: list[list[Lane]] = [[], [], []]
        for lane in range(lanes):
            u = (case["y_count"], inputs, 3)
            basis, u = _basis_and_inputs(rng, case["entries"], u)
            sums = []
            for y, x in np.ndindex(case["y_count"], case["x_count"]):
                taps = [(j, s, stride * x + s - columns[0]) for j in range(3) for s in columns]
                sums.append(sum(int(basis[j, s]) * int(u[y, place, j]) for j, s, place in taps))
            assert all(-COMBINED_LIMIT <= found < COMBINED_LIMIT for found in sums)
            factor, bias = _factor_and_bias(rng, config, sums)
            scaled = [case["zero_point"] + factor.apply(found + bias) for found in sums]
            results[group, :, lane] = [min(max(found, case["low"]), case["high"]) for found in scaled]
            for j in range(3):
                other = (
                    _Factor(rng, config, COMBINED_LIMIT),
                    int(rng.integers(-COMBINED_LIMIT, COMBINED_LIMIT)),
                )
                rows[j].append(_lane(rng, config, *((factor, bias) if j == 2 else other), basis[j]))
                place = values[group // per_half, 3 * (group % per_half) + j]
                place[:, lane] = u[:, :, j].ravel()
        parameters += [isa.pack_parameter(config, row) for row in rows]
    return parameters, values.reshape(halves * config.chunks, -1, lanes), results


def _writes(case, config: AcceleratorConfig, source: Source, groups: int, path, results) -> list[list[int]]:
    """One entry for each write to at least one bank, in the order of the instruction set's definition."""
    found = []
    everything = (1 << config.bank_groups) - 1

    def write(group: int, plane: int, pixel: int) -> None:
        shift = 0 if source is Source.FILL else group % case["period"]
        mask = case["mask"] << shift & everything
        if mask:
            found.append([mask, int(path[plane, pixel]), *results[group, pixel].tolist()])

    pixels = path.shape[1]
    if source is Source.CHANNEL:
        for plane in range(case["chunks"]):
            for pixel in range(pixels):
                for index in range(case["period"]):
                    write(plane * case["period"] + index, plane, pixel)
    else:
        for group in range(groups):
            plane = group if source is Source.FILL else group // case["period"]
            for pixel in range(pixels):
                write(group, plane, pixel)
    return found


def _corner_shapes(config: AcceleratorConfig) -> list[dict[str, Any]]:
    """Several planes of all groups from every source; as many pixels as a half holds, and one half more."""
    common = {"x_count": 3, "y_count": 2, "x_step": 1, "y_step": 7, "plane_step": 40, "mask": 1, "pauses": 0}
    common |= {"zero_point": -128, "low": -128, "high": 127, "corners": False, "seed": 11}
    common |= {"period": config.bank_groups, "uniform": 0, "stride": 1, "single": 0, "entries": "corners"}
    planes = [
        common
        | {"source": int(source), "chunks": 3 if source is Source.CHANNEL else 2 * config.bank_groups + 1}
        for source in isa.sources(config)
    ]
    whole = {
        "source": int(Source.MATRIX),
        "x_count": config.accumulator_depth // 2,
        "chunks": config.chunks + 1,
    }
    found = [*planes, planes[Source.CHANNEL] | {"uniform": 1}, common | whole]
    if config.has_basis:
        rows = [
            (x, y, stride, single)
            for x, y in ((1, 1), (1, 4), (4, 3))
            for stride in (1, 2, 3)
            for single in (0, 1)
        ]
        rows += [(4, 1, 16, 0), (1, config.accumulator_depth // 3, 1, 0), (config.accumulator_depth, 1, 1, 1)]
        found += [
            common
            | {"source": int(Source.BASIS), "x_count": x, "y_count": y, "stride": stride, "single": single}
            | {"chunks": 3, "entries": ENTRIES[index % 4], "pauses": 5 * (index % 2), "seed": index}
            for index, (x, y, stride, single) in enumerate(rows)
        ]
    return found


def post_cases(config: AcceleratorConfig, seed: int, count: int = 14) -> list[dict[str, Any]]:
    """`count` drawn instructions for each source, and corners."""
    shapes = _corner_shapes(config)
    shapes += [
        shape for source in isa.sources(config) for shape in draw(_shapes(config, source), count, seed)
    ]
    return [_complete(shape, config) for shape in shapes]
