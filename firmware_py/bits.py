"""Binary tensors: the signs of 8 channels in a byte, as `popshift.hw.numerics.LANE_CHANNELS` says."""

import numpy as np
from numpy.typing import NDArray

from popshift.hw.numerics import LANE_CHANNELS


def pack_signs(values: NDArray[np.integer] | NDArray[np.floating], axis: int = 0) -> NDArray[np.int8]:
    """Eight consecutive values along `axis` to a byte: bit i is 1 if value i is not negative.

    Bits that are missing in the last byte are 0.
    """
    return np.packbits(values >= 0, axis=axis, bitorder="little").view(np.int8)


def unpack_signs(data: NDArray[np.int8], channels: int | None = None, axis: int = 0) -> NDArray[np.int8]:
    """The inverse: 1 and -1, as many along `axis` as there are `channels` (by default 8 for each byte)."""
    bits = np.unpackbits(data.view(np.uint8), axis=axis, count=channels, bitorder="little")
    return (2 * bits.astype(np.int8) - 1).astype(np.int8)


def packed_size(channels: int) -> int:
    """Bytes that hold one bit of each channel."""
    return -(-channels // LANE_CHANNELS)
