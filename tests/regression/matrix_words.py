"""Weight words for the matrix unit's cases; without PyTorch, which takes seconds to load in a simulation."""

import numpy as np

from popshift.firmware_py import weight_words
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Kind


def plain_words(
    config: AcceleratorConfig, kind: Kind, offsets: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Words (…) for weights (…, cols) of one number each; binary ones of a byte, in rows that are on."""
    if kind is Kind.XNOR:
        return weight_words.binary_words(config, offsets, offsets >= 0, weights.astype(np.uint8))
    pack = {Kind.DENSE: weight_words.dense_words, Kind.SHIFT: weight_words.shift_words}[kind]
    return pack(config, offsets.astype(np.int64), weights.astype(np.int8))
