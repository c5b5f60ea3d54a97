"""Cases for the matrix unit, and what PyTorch says the accumulators must hold."""

import math
from typing import Any

import numpy as np
import torch
from case_files import draw
from hypothesis import strategies as st
from matrix_words import plain_words

from popshift.firmware_py import weight_words
from popshift.hw import isa
from popshift.hw.config import PAIR, AcceleratorConfig
from popshift.hw.isa import Kind

WORDS = 128
"""Words of the activation memory in use."""
LARGEST_OFFSET = 40
LONGEST_ROW = 32
"""Pixels; a power of two, as depths of accumulators are."""
IMAGES = ("random", "corners", "lowest")
"""Contents of the activation memory: any byte; -128 and 127; -128 only."""
LEVELS = np.array([0, *(sign << power for power in range(7) for sign in (1, -1))])
"""What a SmartDeal coefficient can be."""
COEFFICIENTS = ("random", "largest", "one", "zero filters")
"""Coefficients to be rebuilt: any; ±64 only, with ±127 in the bases; a single one in each column of the array
that is not 0; none in every other column.
"""
PLAIN = {
    (Kind.DENSE, "random"): np.arange(-128, 128),
    (Kind.DENSE, "corners"): np.array([-128, 127]),
    (Kind.DENSE, "lowest"): np.array([-128]),
    (Kind.SHIFT, "random"): LEVELS,
    (Kind.SHIFT, "corners"): np.array([-64, 64, 0]),
    (Kind.SHIFT, "lowest"): np.array([-64]),
}
"""Weights of one number each, by kind and image."""
BINARY = {
    "random": np.arange(256),
    "corners": np.array([0x80, 0x7F]),
    "lowest": np.array([0x80]),
}
"""Weights of 8 binary channels, by image: any; all agree or none; all agree."""
COUNT = np.array([byte.bit_count() for byte in range(256)])
"""Ones in a byte."""
SEQUENCES, SEQUENCE_LENGTH = 6, 8
"""Of instructions without a pause between them."""


def images(config: AcceleratorConfig, seed: int) -> dict[str, np.ndarray]:
    """The contents, int8 (rows, words)."""
    rng = np.random.default_rng(seed)
    shape = (config.rows, WORDS)
    return {
        "random": rng.integers(-128, 128, shape).astype(np.int8),
        "corners": rng.choice([-128, 127], shape).astype(np.int8),
        "lowest": np.full(shape, -128, np.int8),
    }


@st.composite
def _shapes(draw, config: AcceleratorConfig, kind: Kind) -> dict[str, Any]:
    """Loop counts, steps and delays of one instruction."""
    x = draw(st.integers(1, 6))
    rebuilt = {
        "k_tiles": draw(st.integers(1, 7)),
        "slice_tiles": draw(st.sampled_from([1, 2, 2, 5])),
        "replays": draw(st.integers(1, 4)),
        "again_step": draw(st.integers(-6, 6)),
        "coefficients": draw(st.sampled_from(COEFFICIENTS)),
    }
    return {
        "kind": int(kind),
        "image": draw(st.sampled_from(IMAGES)),
        "x_count": x,
        "y_count": draw(st.integers(1, min(5, config.accumulator_depth // x))),
        "x_step": draw(st.integers(-2, 6)),
        "y_step": draw(st.integers(-9, 9)),
        "k_tiles": draw(st.integers(1, 4)),
        "n_tiles": draw(st.integers(1, 4)),
        "longest_delay": draw(st.sampled_from([0, 3, 60])),
        "seed": draw(st.integers(0, 1 << 30)),
        **(rebuilt if kind is Kind.REBUILD else {}),
        **({"on": draw(st.sampled_from([0.7, 1, 0]))} if kind is Kind.XNOR else {}),
    }


def _corner_shapes(config: AcceleratorConfig, kind: Kind) -> list[dict[str, Any]]:
    """Single pixels, passes about as long as loading weights takes, full halves, late and early release."""
    common = {"kind": int(kind), "image": "corners", "y_count": 1, "x_step": 1, "y_step": 0, "seed": 5}
    single = [
        {"x_count": 1, "k_tiles": k, "n_tiles": n, "longest_delay": delay}
        for k, n, delay in ((1, 1, 0), (1, 4, 0), (3, 2, 0), (6, 2, 0), (2, 4, 90))
    ]
    overhead = [
        {"x_count": config.rows + more, "k_tiles": 3, "n_tiles": 2, "longest_delay": 0} for more in range(6)
    ]
    few = [{"x_count": x, "k_tiles": 5, "n_tiles": 1, "longest_delay": 0} for x in range(2, 6)]
    # All of a half, in rows that lie on each other if its pixels would not lie within the words in use.
    width = math.gcd(config.accumulator_depth, LONGEST_ROW)
    whole = {"x_count": width, "y_count": config.accumulator_depth // width, "y_step": 1 - width}
    whole |= {"k_tiles": 2, "n_tiles": 3, "longest_delay": 0}
    if kind is Kind.XNOR:
        common["on"] = 0.7
    return [common | case for case in (*single, *overhead, *few, whole)]


def _rebuilt_corners(config: AcceleratorConfig) -> list[dict[str, Any]]:
    """The same with bases, tiles replayed in passes shorter and longer than a load, last tiles cut short; and
    all that there can be in one weight.
    """
    plain = [
        shape | {"slice_tiles": 1 + index % 2, "replays": 1, "again_step": 0, "coefficients": "random"}
        for index, shape in enumerate(_corner_shapes(config, Kind.REBUILD))
    ]
    common = plain[0] | {"n_tiles": 2, "seed": 6}
    lengths = (1, config.rows + 1, config.rows + isa.BASIS_WORDS + 3)
    replayed = [
        common
        | {"x_count": x, "k_tiles": k, "replays": replays, "slice_tiles": tiles, "again_step": 2 - replays}
        for x in lengths
        for k, replays, tiles in ((3, 3, 1), (5, 3, 1), (5, 3, 2), (7, 2, 1), (7, 2, 3), (1, 3, 2), (8, 4, 1))
    ]
    extremes = [
        common
        | {"image": image, "coefficients": how, "x_count": 5, "k_tiles": 4, "replays": 3, "again_step": 7}
        for image in IMAGES
        for how in COEFFICIENTS
    ]
    return [*plain, *replayed, *extremes]


def _pixels(case: dict[str, Any]) -> np.ndarray:
    """Addresses in order, from 0: a step is added when its loop advances."""
    found, address = [], 0
    for _ in range(case["y_count"]):
        for x in range(case["x_count"]):
            found.append(address)
            address += case["x_step"] if x + 1 < case["x_count"] else case["y_step"]
    return np.array(found)


def _placed(case: dict[str, Any], rng) -> tuple[dict[str, Any], np.ndarray]:
    """With a base such that all pixels lie within the words in use; and their addresses."""
    again = np.arange(case.get("replays", 1)) * case.get("again_step", 0)
    reached = (_pixels(case)[:, None] + again).ravel()
    if np.ptp(reached) + LARGEST_OFFSET >= WORDS:  # too far apart: walk closer
        case = case | {"x_step": 1, "y_step": 1 - case["x_count"]}
        reached = (_pixels(case)[:, None] + again).ravel()
    base = int(rng.integers(0, WORDS - LARGEST_OFFSET - np.ptp(reached)) - reached.min())
    return case | {"base": base}, base + _pixels(case)


def _complete(case: dict[str, Any], config: AcceleratorConfig, memories) -> dict[str, Any]:
    """Addresses, weights of one number each, delays and the sums."""
    rng, kind = np.random.default_rng(case["seed"]), Kind(case["kind"])
    case, pixels = _placed(case, rng)
    tiles = (case["n_tiles"], case["k_tiles"])
    offsets = rng.integers(0, LARGEST_OFFSET, (*tiles, config.rows))
    weights = rng.choice(PLAIN[kind, case["image"]], (*tiles, config.rows, config.cols))
    memory = torch.from_numpy(memories[case["image"]].astype(np.int64))
    rows = torch.arange(config.rows)
    sums = torch.zeros(case["n_tiles"], len(pixels), config.cols, dtype=torch.int64)
    for n in range(case["n_tiles"]):
        for k in range(case["k_tiles"]):
            where = torch.from_numpy(pixels)[:, None] + torch.from_numpy(_heeded(offsets[n, k], config))
            sums[n] += memory[rows, where] @ torch.from_numpy(weights[n, k])
    words = plain_words(config, kind, offsets, weights).reshape(offsets.size, -1)
    if kind is Kind.SHIFT:
        _negative_zeros(words, weights.reshape(offsets.size, -1), rng)
    return _finished(case, config, rng, words, sums.numpy())


def _heeded(offsets: np.ndarray, config: AcceleratorConfig) -> np.ndarray:
    """Of the offsets (rows,): both rows of a pair have that of the first."""
    return np.repeat(offsets[::PAIR], PAIR) if config.paired_banks else offsets


def _binary(case: dict[str, Any], config: AcceleratorConfig, memories) -> dict[str, Any]:
    """The same for bytes of binary weights: twice the channels that agree, in the rows that are on."""
    rng = np.random.default_rng(case["seed"])
    case, pixels = _placed(case, rng)
    tiles = (case["n_tiles"], case["k_tiles"], config.rows)
    offsets = rng.integers(0, LARGEST_OFFSET, tiles)
    lanes = rng.choice(BINARY[case["image"]], (*tiles, config.cols)).astype(np.uint8)
    on = rng.random(tiles) < case["on"]
    memory, rows = memories[case["image"]].view(np.uint8), np.arange(config.rows)
    sums = np.zeros((case["n_tiles"], len(pixels), config.cols), np.int64)
    for n in range(case["n_tiles"]):
        for k in range(case["k_tiles"]):
            found = memory[rows, pixels[:, None] + offsets[n, k]]
            agree = 8 - COUNT[found[:, :, None] ^ lanes[n, k]]
            sums[n] += 2 * agree[:, on[n, k]].sum(axis=1)
    words = weight_words.binary_words(config, offsets, on, lanes)
    words[~on, 0] = offsets[
        ~on
    ]  # rows that are off keep their weights, and an offset that leads nowhere wrong
    return _finished(case, config, rng, words.reshape(offsets.size, -1), sums)


def _negative_zeros(words: np.ndarray, coefficients: np.ndarray, rng) -> None:
    """Set the sign of about half of the coefficients (words, …) that are 0, in place."""
    coefficients = coefficients.reshape(len(words), -1)
    bits = np.unpackbits(words, axis=1, bitorder="little")
    index, number = np.nonzero((coefficients == 0) & (rng.random(coefficients.shape) < 0.5))
    bits[index, 16 + 4 * number + 3] = 1
    words[:] = np.packbits(bits, axis=1, bitorder="little")


def _coefficients(case: dict[str, Any], config: AcceleratorConfig, tiles: int, slices: int, rng):
    """Coefficients (tiles, rows, cols, 3) and bases (slices, cols, 3, 3) of one column tile."""
    how, cols = case["coefficients"], config.cols
    if how == "largest":  # signs such that every weight reaches its limit, 3 * 64 * 127, and a column's agree
        signs = rng.choice([-1, 1], (cols, 3))
        bases = 127 * signs[:, :, None] * rng.choice([-1, 1], (slices, cols, 1, 3))
        return np.broadcast_to(64 * signs, (tiles, config.rows, cols, 3)), bases
    coefficients = rng.choice(LEVELS, (tiles, config.rows, cols, 3))
    if how == "one":
        kept = rng.integers(0, tiles * config.rows * 3, cols)
        place = np.arange(coefficients.size // cols)[:, None] == kept
        place = place.reshape(tiles, config.rows, 3, cols).transpose(0, 1, 3, 2)
        coefficients = np.where(place, rng.choice(LEVELS[1:], coefficients.shape), 0)
    if how == "zero filters":
        coefficients[:, :, ::2] = 0
    return coefficients, rng.integers(-128, 128, (slices, cols, 3, 3))


def _rebuilt(case: dict[str, Any], config: AcceleratorConfig, memories) -> dict[str, Any]:
    """The same for weights that the feeder rebuilds: row r's is ``sum over j of Ce[r][j] * B[j][column]``."""
    rng = np.random.default_rng(case["seed"])
    case, pixels = _placed(case, rng)
    replays, k_tiles = case["replays"], case["k_tiles"]
    tiles = -(-k_tiles // replays)
    slices = -(-tiles // case["slice_tiles"])
    memory = torch.from_numpy(memories[case["image"]].astype(np.int64))
    sums = torch.zeros(case["n_tiles"], len(pixels), config.cols, dtype=torch.int64)
    words = []
    for n in range(case["n_tiles"]):
        coefficients, bases = _coefficients(case, config, tiles, slices, rng)
        offsets = rng.integers(0, LARGEST_OFFSET, (tiles, config.rows))
        columns = rng.integers(0, 4, (tiles, config.rows))
        for tile in range(tiles):
            basis = bases[tile // case["slice_tiles"]]
            if tile % case["slice_tiles"] == 0:
                words.append(weight_words.basis_words(config, basis.astype(np.int8)))
            found = weight_words.coefficient_words(
                config, offsets[tile], columns[tile], coefficients[tile].astype(np.int8)
            )
            _negative_zeros(found, coefficients[tile], rng)
            words.append(found)
            for k in range(tile * replays, min((tile + 1) * replays, k_tiles)):
                turn = k - tile * replays
                for row in range(config.rows):
                    column = columns[tile, row] + turn
                    if column < 3:
                        weights = (coefficients[tile, row] * basis[:, :, column]).sum(axis=1)
                        where = pixels + turn * case["again_step"] + offsets[tile, row]
                        sums[n] += torch.outer(memory[row, where], torch.from_numpy(weights))
    return _finished(case, config, rng, np.concatenate(words), sums.numpy())


def _finished(case, config: AcceleratorConfig, rng, words: np.ndarray, sums) -> dict[str, Any]:
    limit = 1 << (config.accumulator_width - 1)
    assert -limit <= sums.min() and sums.max() < limit
    return (
        {"again_step": 0, "slice_tiles": 1, "replays": 1}
        | case
        | {
            "weight_base": int(rng.integers(0, config.weight_depth - len(words) + 1)),
            "words": words,
            "delays": rng.integers(0, case["longest_delay"] + 1, case["n_tiles"]),
            "sums": sums,
        }
    )


def _convolution(config: AcceleratorConfig, kind: Kind, memories, stride: int) -> dict[str, Any]:
    """A 3 x 3 convolution of 7 x 9 pixels: one tap a pass."""
    rng = np.random.default_rng(stride)
    height, width, n_tiles = 7, 9, 2
    image = memories["random"][:, : height * width]
    filters = n_tiles * config.cols
    if (
        kind is Kind.XNOR
    ):  # 1 and -1, 8 channels in a byte of every bank; PyTorch's sums differ by their number
        lanes = rng.integers(0, 256, (filters, config.rows, 9)).astype(np.uint8)
        weight, image, more = _signs(lanes, 1), _signs(image.view(np.uint8), 0), 8 * config.rows * 9
    else:
        weight, more = rng.choice(PLAIN[kind, "random"], (filters, config.rows, 9)), 0
    result = torch.nn.functional.conv2d(
        torch.from_numpy(image.astype(np.float64)).reshape(1, -1, height, width),
        torch.from_numpy(weight.astype(np.float64)).reshape(filters, -1, 3, 3),
        stride=stride,
    )
    _, _, out_height, out_width = result.shape
    sums = result.to(torch.int64).reshape(n_tiles, config.cols, -1).transpose(1, 2) + more
    taps = [(ky, kx) for ky in range(3) for kx in range(3)]
    offsets = np.array([ky * width + kx for ky, kx in taps])
    case = {
        "kind": int(kind),
        "base": 0,
        "image": "random",
        "x_count": out_width,
        "y_count": out_height,
        "x_step": stride,
        "y_step": stride * width - stride * (out_width - 1),
        "k_tiles": 9,
        "n_tiles": n_tiles,
        "longest_delay": 0,
        "seed": stride,
    }
    everywhere = np.broadcast_to(offsets[None, :, None], (n_tiles, 9, config.rows))
    if kind is Kind.XNOR:
        weight = lanes
    words = plain_words(config, kind, everywhere, _tiles(weight, n_tiles))
    return _finished(case, config, rng, words.reshape(everywhere.size, -1), sums.numpy())


def _signs(lanes: np.ndarray, axis: int) -> np.ndarray:
    """1 and -1 for every bit, the channels of a byte one after the other along `axis`."""
    return np.unpackbits(lanes, axis=axis, bitorder="little").astype(np.int64) * 2 - 1


def _tiles(weight: np.ndarray, n_tiles: int) -> np.ndarray:
    """Of filters (filters, rows, taps) the tiles (n_tiles, taps, rows, cols)."""
    return weight.reshape(n_tiles, -1, *weight.shape[1:]).transpose(0, 3, 2, 1)


def matrix_cases(config: AcceleratorConfig, seed: int, count: int = 12) -> list[dict[str, Any]]:
    """Corners, convolutions and `count` drawn shapes of each kind, ordered by image."""
    memories = images(config, seed)
    cases = []
    for kind in isa.kinds(config):
        drawn = draw(_shapes(config, kind), count, seed)
        if kind is Kind.REBUILD:
            cases += [_rebuilt(shape, config, memories) for shape in (*_rebuilt_corners(config), *drawn)]
        else:
            complete = _binary if kind is Kind.XNOR else _complete
            shapes = [*_corner_shapes(config, kind), *drawn]
            cases += [complete(shape, config, memories) for shape in shapes]
            cases += [_convolution(config, kind, memories, stride) for stride in (1, 2)]
    return sorted(cases, key=lambda case: IMAGES.index(case["image"]))


def sequences(config: AcceleratorConfig, cases: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Some of `cases`, of all kinds in any order, whose weights are in memory at the same time; `sequence`:
    which of them follow each other.
    """
    rng, found = np.random.default_rng(seed), []
    for sequence in range(SEQUENCES):
        image = IMAGES[sequence % len(IMAGES)]
        near = [case for case in cases if case["image"] == image]
        place = 0
        for index in rng.permutation(len(near))[:SEQUENCE_LENGTH]:
            words = len(near[index]["words"])
            if place + words <= config.weight_depth:
                found.append(near[index] | {"sequence": sequence, "weight_base": place})
                place += words
    used = {case["kind"] for case in found}
    assert used == set(isa.kinds(config)), "a kind is missing"
    return found
