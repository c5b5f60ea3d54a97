"""Cases for the post unit, and what it must write: from the definitions, not from `hw.numerics`."""

from fractions import Fraction
from typing import Any

import numpy as np
from case_files import draw
from hypothesis import strategies as st

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import EDGE_CLASSES, Edge, Lane, Source
from popshift.hw.numerics import Requantise

FACTORED_LIMIT = 1 << 23  # what is combined with a basis has 24
COMBINED_LIMIT = 1 << 31
BYTE = 8
"""Signs that are packed to one."""
MOST_CLASS_WORDS = 6


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


def packs(case: dict[str, Any], config: AcceleratorConfig) -> bool:
    """Whether signs are written: other configurations and FILL do not heed the bit."""
    heeded = "xnor" in config.pe_kinds and case["source"] in (Source.MATRIX, Source.CHANNEL)
    return bool(case["packed"]) and heeded


@st.composite
def _shapes(draw, config: AcceleratorConfig, source: Source) -> dict[str, Any]:
    low = draw(st.integers(-128, 127))
    packable = source is not Source.BASIS or not config.has_packing  # the only combination that is illegal
    groups = BYTE // config.post_lanes if config.has_packing else 1  # that fill a byte
    packable &= source is not Source.CHANNEL or groups <= config.bank_groups
    found = {"source": int(source), "packed": draw(st.integers(0, 1)) if packable else 0}
    unit, longest, most = 1, config.bank_groups, 2 * config.chunks + 1
    if packs(found, config):
        if source is Source.MATRIX:
            longest, most = config.rows, 2 * config.chunks // groups + 1
        else:
            unit = groups
    return found | {
        "x_count": draw(st.integers(1, 5)),
        "y_count": draw(st.integers(1, 4)),
        "strips": draw(st.sampled_from([1, 1, 2, 3])),
        "x_step": draw(st.integers(-3, 5)),
        "y_step": draw(st.integers(-9, 9)),
        "plane_step": draw(st.integers(-20, 40)),
        "chunks": draw(st.integers(1, most if source is Source.MATRIX else 4)),
        "period": unit * draw(st.integers(1, longest // unit)),
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
        "edges": draw(st.integers(0, (1 << len(Edge)) - 1)),
        "class_words": draw(st.integers(0, MOST_CLASS_WORDS)),
        "first_bank": draw(st.integers(0, 7)),
    }


def _path(case: dict[str, Any], planes: int) -> np.ndarray:
    """Addresses from 0: (strips, planes, pixels)."""
    pixels, address = [], 0
    for _ in range(case["y_count"]):
        for x in range(case["x_count"]):
            pixels.append(address)
            address += case["x_step"] if x + 1 < case["x_count"] else case["y_step"]
    strips = np.arange(case["strips"])[:, None, None] * address
    return strips + np.arange(planes)[:, None] * case["plane_step"] + np.array(pixels)


def _value(rng: np.random.Generator, case, limit: int, factor: _Factor, bias: int, *, sign: bool) -> int:
    """An accumulator, ``-limit .. limit - 1``; `sign`: one whose result is often about 0."""
    if case["corners"]:
        return int(rng.choice([limit - 1, -limit, 0, 1, -1]))
    value = int(rng.integers(-limit, limit)) >> int(rng.integers(0, limit.bit_length()))
    if factor.multiplier and rng.random() < 0.7:  # aim at a result of 8 bits and a short fraction
        one = Fraction(1 << factor.shift, factor.multiplier)
        one *= 1 << 31 if factor.mode is Requantise.EXACT else 1
        aim = Fraction(int(rng.integers(-4096, 4097)), 32)
        if sign:
            aim = Fraction(int(rng.integers(-96, 97)), 32) - case["zero_point"]
        value = round(one * aim)
    return max(-limit, min(limit - 1, value - bias))


def _complete(case: dict[str, Any], config: AcceleratorConfig) -> dict[str, Any]:
    """Addresses, parameters, values, and the writes in order: (mask, lanes, address, byte of each lane)."""
    rng, source = np.random.default_rng(case["seed"]), Source(case["source"])
    per_plane = case["period"]
    items = case["chunks"] * per_plane if source is Source.CHANNEL else case["chunks"]
    planes = -(-items // per_plane) if source is not Source.FILL else items
    path = _path(case, planes)
    span = int(path.max() - path.min())
    base = int(rng.integers(0, config.activation_depth - span)) - int(path.min())
    fill = _combined if source is Source.BASIS else _requantised
    groups = items
    if packs(case, config) and source is Source.MATRIX:
        groups *= BYTE // config.post_lanes
    parameters, values, results = fill(rng, case, config, groups, path.shape[2])
    write, writes = _bytes if packs(case, config) else _writes, []
    for strip in base + path:  # all with the same values
        writes += write(case, config, source, items, strip, results)
    if source is Source.MATRIX and case["strips"] > 1:  # a strip begins a half
        values = np.pad(values, ((0, -len(values) % config.chunks), (0, 0), (0, 0)))
    return case | {
        "base": base,
        "parameter_base": int(rng.integers(0, config.parameter_depth - len(parameters) + 1)),
        "parameters": np.frombuffer(b"".join(parameters), np.uint8).reshape(len(parameters), -1),
        "values": np.tile(values, (case["strips"], 1, 1)),
        "writes": np.array(writes, np.int64).reshape(-1, 3 + config.post_lanes),
    }


def _words_behind(case: dict[str, Any], config: AcceleratorConfig) -> list[int]:
    """Of each pixel: how many words its parameters lie behind those of pixels at no edge."""
    sides = {
        Edge.LEFT: lambda x, y: x == 0,
        Edge.RIGHT: lambda x, y: x == case["x_count"] - 1,
        Edge.TOP: lambda x, y: y == 0,
        Edge.BOTTOM: lambda x, y: y == case["y_count"] - 1,
    }
    if not config.has_packing or case["source"] != Source.MATRIX:
        sides = {}
    sides = {edge: on for edge, on in sides.items() if case["edges"] >> edge & 1}
    return [
        case["class_words"] * sum(EDGE_CLASSES[edge] for edge, on in sides.items() if on(x, y))
        for y in range(case["y_count"])
        for x in range(case["x_count"])
    ]


def _requantised(rng: np.random.Generator, case: dict[str, Any], config: AcceleratorConfig, groups, pixels):
    """Parameter words, values and results (groups, pixels, lanes) of every source but BASIS."""
    source, lanes = Source(case["source"]), config.post_lanes
    behind = _words_behind(case, config)
    words = (1 if case["uniform"] else groups) + max(behind)
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
        word = (0 if case["uniform"] else group) + behind[pixel]
        factor, bias = factors[word][lane], int(biases[word, lane])
        limit = 1 << (config.window_bits - 1) if source is Source.CHANNEL else most
        value = _value(rng, case, limit, factor, bias, sign=packs(case, config))
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
    all_lanes = (1 << config.post_lanes) - 1

    def write(group: int, plane: int, pixel: int) -> None:
        shift = 0 if source is Source.FILL else group % case["period"]
        mask = case["mask"] << shift & everything
        if mask:
            found.append([mask, all_lanes, int(path[plane, pixel]), *results[group, pixel].tolist()])

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


def _bytes(case, config: AcceleratorConfig, source: Source, items: int, path, results) -> list[list[int]]:
    """The same if signs are packed: a byte for one lane, 0 for the others."""
    found, lanes = [], config.post_lanes
    signs = (results >= 0).transpose(1, 0, 2).reshape(results.shape[1], -1, BYTE)  # pixels, bytes, channels
    values = np.packbits(signs, axis=2, bitorder="little")[..., 0].view(np.int8)
    per_plane, order = case["period"], range(values.shape[1])
    if source is Source.CHANNEL:
        per_plane //= BYTE // lanes
        planes = [range(first, first + per_plane) for first in order[::per_plane]]
        steps = [(number, pixel) for plane in planes for pixel in range(len(values)) for number in plane]
    else:
        steps = [(number, pixel) for number in order for pixel in range(len(values))]
    for number, pixel in steps:
        plane, index = divmod(number, per_plane)
        shift, lane = divmod(case["first_bank"] % lanes + index, lanes)
        mask = case["mask"] << shift & ((1 << config.bank_groups) - 1)
        if mask:
            data = [0] * lanes
            data[lane] = int(values[pixel, number])
            found.append([mask, 1 << lane, int(path[plane, pixel]), *data])
    return found


def _packed_corners(config: AcceleratorConfig, common: dict[str, Any]) -> list[dict[str, Any]]:
    """Every first bank, more bytes than banks, edges of rectangles down to one pixel; signs of windows."""
    if not config.has_packing:
        return []
    groups = BYTE // config.post_lanes
    matrix = common | {"source": int(Source.MATRIX), "packed": 1, "class_words": 2}
    found = [
        matrix
        | {
            "first_bank": bank,
            "period": 1 + (config.rows - 1) * (bank % 3 > 0),
            "chunks": 1 + bank,
            "seed": bank,
        }
        | {"pauses": 5 * (bank % 2), "uniform": bank // 7, "edges": bank}
        for bank in range(8)
    ]
    sizes = [(x, y) for x in (1, 2, 4) for y in (1, 2, 3)]
    found += [
        matrix | {"x_count": x, "y_count": y, "edges": 15, "chunks": 2, "packed": index % 2, "seed": index}
        for index, (x, y) in enumerate(sizes)
    ]
    if groups <= config.bank_groups:
        found += [
            matrix
            | {"source": int(Source.CHANNEL), "period": period, "chunks": 3, "first_bank": bank}
            | {"pauses": bank, "seed": bank, "edges": bank}
            for period in range(groups, config.bank_groups + 1, groups)
            for bank in (0, 3, config.post_lanes - 1)
        ]
    return found


def _corner_shapes(config: AcceleratorConfig) -> list[dict[str, Any]]:
    """Several planes of all groups from every source; as many pixels as a half holds, and one half more."""
    common = {"x_count": 3, "y_count": 2, "x_step": 1, "y_step": 7, "plane_step": 40, "mask": 1, "pauses": 0}
    common |= {"zero_point": -128, "low": -128, "high": 127, "corners": False, "seed": 11}
    common |= {"period": config.bank_groups, "uniform": 0, "stride": 1, "single": 0, "entries": "corners"}
    common |= {"packed": 0, "edges": 0, "class_words": 0, "first_bank": 0, "strips": 1}
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
    found = [
        *planes,
        planes[Source.CHANNEL] | {"uniform": 1},
        *(plane | {"strips": 3, "plane_step": 43, "pauses": 3} for plane in planes),
        common | {"source": int(Source.MATRIX), "chunks": 1, "x_count": 1, "y_count": 1, "strips": 20},
        common | whole,
        *_packed_corners(config, common),
    ]
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
