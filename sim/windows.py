"""What the executor's channel unit makes of the words it reads."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from popshift.hw.isa import WINDOW, ChannelOperation, Instruction

_FOLD = {
    ChannelOperation.MAX: np.maximum,
    ChannelOperation.SUM: np.add,
    ChannelOperation.OR: np.bitwise_or,
}


def taps_of(strides: dict[str, int], item: Instruction) -> NDArray[np.int64]:
    """Addresses of a window's taps, or of a column's, relative to the first."""
    rows = np.arange(item["ky_count"], dtype=np.int64)[:, None] * strides["ky"]
    return (rows + np.arange(item["kx_count"], dtype=np.int64) * strides["kx"]).ravel()


def lines(strides: dict[str, int], item: Instruction, at_once: int) -> Iterator[NDArray[np.int64]]:
    """Addresses (lines, pixels or columns of a line) of the first taps, relative to the base; of at most
    `at_once` lines, which belong to one plane.
    """
    x = np.arange(item["x_count"], dtype=np.int64) * strides["x"]
    for plane in range(item["planes"]):
        for start in range(0, item["y_count"], at_once):
            y = np.arange(start, min(start + at_once, item["y_count"]), dtype=np.int64)
            yield plane * strides["plane"] + y[:, None] * strides["y"] + x


def folded(item: Instruction, gathered: NDArray[np.int8]) -> NDArray[np.int32]:
    """Windows (lines, pixels, banks, images) of bytes (lines, pixels, taps, banks, images)."""
    fold = _FOLD[ChannelOperation(item["operation"])]
    return fold.reduce(gathered, axis=2, dtype=np.int32)


def multiplied(item: Instruction, gathered: NDArray[np.int8], weights: NDArray[np.int8]) -> NDArray[np.int32]:
    """The same of columns (lines, columns, taps, banks, images) for DEPTHWISE; weights (banks, `WINDOW` rows,
    columns).
    """
    first, every = item["x_first"], item["x_every"]
    count = max(0, -(-(item["x_count"] - first) // every))
    number, _, height, banks, images = gathered.shape
    sums = np.zeros((number, count, banks, images), np.int32)
    for column in range(WINDOW):
        back = WINDOW - 1 - column
        skipped = max(0, -(-(back - first) // every))  # windows that begin in front of the line
        if skipped >= count:
            continue
        start = first + skipped * every - back
        own = gathered[:, start : start + (count - skipped - 1) * every + 1 : every].astype(np.int32)
        sums[:, skipped:] += np.einsum("lcrbi,br->lcbi", own, weights[:, :height, column].astype(np.int32))
    return sums
