"""Cases for the matrix unit, and what PyTorch says the accumulators must hold."""

from typing import Any

import numpy as np
import torch
from case_files import draw
from hypothesis import strategies as st

from popshift.hw.config import AcceleratorConfig

WORDS = 128
"""Words of the activation memory in use."""
LARGEST_OFFSET = 40
IMAGES = ("random", "corners", "lowest")
"""Contents of the activation memory: any byte; -128 and 127; -128 only."""


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
def _shapes(draw, config: AcceleratorConfig) -> dict[str, Any]:
    """Loop counts, steps and delays of one instruction."""
    x = draw(st.integers(1, 6))
    return {
        "image": draw(st.sampled_from(IMAGES)),
        "x_count": x,
        "y_count": draw(st.integers(1, min(5, config.accumulator_depth // x))),
        "x_step": draw(st.integers(-2, 6)),
        "y_step": draw(st.integers(-9, 9)),
        "k_tiles": draw(st.integers(1, 4)),
        "n_tiles": draw(st.integers(1, 4)),
        "longest_delay": draw(st.sampled_from([0, 3, 60])),
        "seed": draw(st.integers(0, 1 << 30)),
    }


def _corner_shapes(config: AcceleratorConfig) -> list[dict[str, Any]]:
    """Single pixels, passes about as long as loading weights takes, full halves, late and early release."""
    common = {"image": "corners", "y_count": 1, "x_step": 1, "y_step": 0, "seed": 5}
    single = [
        {"x_count": 1, "k_tiles": k, "n_tiles": n, "longest_delay": delay}
        for k, n, delay in ((1, 1, 0), (1, 4, 0), (3, 2, 0), (6, 2, 0), (2, 4, 90))
    ]
    overhead = [
        {"x_count": config.rows + more, "k_tiles": 3, "n_tiles": 2, "longest_delay": 0} for more in range(6)
    ]
    few = [{"x_count": x, "k_tiles": 5, "n_tiles": 1, "longest_delay": 0} for x in range(2, 6)]
    whole = {"x_count": config.accumulator_depth, "k_tiles": 2, "n_tiles": 3, "longest_delay": 0}
    return [common | case for case in (*single, *overhead, *few, whole)]


def _pixels(case: dict[str, Any]) -> np.ndarray:
    """Addresses in order, from 0: a step is added when its loop advances."""
    found, address = [], 0
    for _ in range(case["y_count"]):
        for x in range(case["x_count"]):
            found.append(address)
            address += case["x_step"] if x + 1 < case["x_count"] else case["y_step"]
    return np.array(found)


def _complete(case: dict[str, Any], config: AcceleratorConfig, memories) -> dict[str, Any]:
    """Addresses, weights, delays and the sums."""
    rng = np.random.default_rng(case["seed"])
    pixels = _pixels(case)
    span = int(pixels.max() - pixels.min())
    if span + LARGEST_OFFSET >= WORDS:  # too far apart: walk closer
        case = case | {"x_step": 1, "y_step": 1 - case["x_count"]}
        pixels = _pixels(case)
        span = int(pixels.max() - pixels.min())
    base = int(rng.integers(0, WORDS - LARGEST_OFFSET - span)) - int(pixels.min())
    tiles = (case["n_tiles"], case["k_tiles"])
    offsets = rng.integers(0, LARGEST_OFFSET, (*tiles, config.rows))
    low = case["image"] == "lowest"
    choices = np.array([-128, 127]) if case["image"] == "corners" else np.arange(-128, -127 if low else 128)
    weights = rng.choice(choices, (*tiles, config.rows, config.cols))
    memory = torch.from_numpy(memories[case["image"]].astype(np.int64))
    rows = torch.arange(config.rows)
    sums = torch.zeros(case["n_tiles"], len(pixels), config.cols, dtype=torch.int64)
    for n in range(case["n_tiles"]):
        for k in range(case["k_tiles"]):
            where = torch.from_numpy(base + pixels)[:, None] + torch.from_numpy(offsets[n, k])
            sums[n] += memory[rows, where] @ torch.from_numpy(weights[n, k])
    return _finished(case, config, rng, base, offsets, weights, sums.numpy())


def _finished(case, config: AcceleratorConfig, rng, base: int, offsets, weights, sums) -> dict[str, Any]:
    words = offsets.size
    return case | {
        "base": base,
        "weight_base": int(rng.integers(0, config.weight_depth - words + 1)),
        "offsets": offsets.reshape(words),
        "weights": weights.reshape(words, config.cols).astype(np.int8),
        "delays": rng.integers(0, case["longest_delay"] + 1, case["n_tiles"]),
        "sums": sums,
    }


def _convolution(config: AcceleratorConfig, memories, stride: int) -> dict[str, Any]:
    """A 3 x 3 convolution of 7 x 9 pixels: one tap a pass."""
    rng = np.random.default_rng(stride)
    height, width, n_tiles = 7, 9, 2
    weight = torch.from_numpy(rng.integers(-128, 128, (n_tiles * config.cols, config.rows, 3, 3)))
    image = torch.from_numpy(memories["random"][:, : height * width].astype(np.float64))
    result = torch.nn.functional.conv2d(
        image.reshape(1, config.rows, height, width), weight.to(torch.float64), stride=stride
    )
    _, channels, out_height, out_width = result.shape
    sums = result.to(torch.int64).reshape(n_tiles, channels // n_tiles, -1).transpose(1, 2)
    taps = [(ky, kx) for ky in range(3) for kx in range(3)]
    offsets = np.array([ky * width + kx for ky, kx in taps])
    tiles = weight.numpy().reshape(n_tiles, config.cols, config.rows, 9).transpose(0, 3, 2, 1)
    case = {
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
    return _finished(case, config, rng, 0, everywhere, tiles, sums.numpy())


def matrix_cases(config: AcceleratorConfig, seed: int, count: int = 12) -> list[dict[str, Any]]:
    """Corners, convolutions and `count` drawn shapes, ordered by image."""
    memories = images(config, seed)
    shapes = [*_corner_shapes(config), *draw(_shapes(config), count, seed)]
    cases = [_complete(shape, config, memories) for shape in shapes]
    cases += [_convolution(config, memories, stride) for stride in (1, 2)]
    return sorted(cases, key=lambda case: IMAGES.index(case["image"]))
