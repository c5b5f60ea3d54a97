"""What the executor's matrix unit adds up."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.bits import unpack_signs
from popshift.hw import isa, numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Instruction

BLOCK_ELEMENTS = 1 << 22
"""Values handled at a time: bounds the memory that one instruction can ask for."""
EXACT_FLOAT32_TERMS = 1 << 10
"""int8 products whose sum is exact in float32, in any order: each is at most 2**14, and there are 24 bits.
Products with 16-bit weights take float64."""


class Array:
    """The PEs, for a batch of images at once.

    Parameters
    ----------
    gather: gives the bytes (…, images) at (banks, addresses), broadcast together.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        images: int,
        gather: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int8]],
    ) -> None:
        self._config, self._images, self._gather = config, images, gather

    def products(
        self, taps: NDArray[np.int16], banks: NDArray[np.int64], addresses: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Sums (columns, pixels, images) of `taps` (columns, terms) times bytes at (banks, addresses).

        Of binary weights (columns, terms, 8): twice the number of channels that agree with the bytes' bits.
        """
        exact = np.float32 if self._config.weight_bits == numerics.WEIGHT_BITS else np.float64
        binary = taps.ndim == 3
        sums = np.zeros((len(taps), addresses.shape[1], self._images), np.int32)
        if binary:  # agreements minus disagreements are what the products below add up to
            sums += np.abs(taps).sum(axis=(1, 2), dtype=np.int32)[:, None, None]
        for r in range(0, taps.shape[1], EXACT_FLOAT32_TERMS):
            terms = slice(r, r + EXACT_FLOAT32_TERMS)
            weights = taps[:, terms].reshape(len(taps), -1).astype(exact)
            step = max(1, BLOCK_ELEMENTS // (weights.shape[1] * self._images))
            for p in range(0, addresses.shape[1], step):
                gathered = self._gather(banks[terms, None], addresses[terms, p : p + step])
                if binary:
                    gathered = unpack_signs(gathered)
                product = weights @ gathered.reshape(weights.shape[1], -1).astype(exact)
                sums[:, p : p + step] += product.astype(np.int32).reshape(len(taps), -1, self._images)
        return sums

    def windows(
        self, item: Instruction, taps: NDArray[np.int16], addresses: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Sums (columns, accumulated pixels, images) where columns work on a bank of their own."""
        rows, cols, tiles = self._config.rows, self._config.cols, item["k_tiles"]
        lines, pixels = isa.accumulated(item)
        height, width = isa.window_block(self._config)
        own = np.arange(min(rows, cols))
        taps = taps.reshape(-1, cols, tiles, rows)
        shared = taps.copy()
        shared[:, own, :, : height * width] = 0
        sums = np.zeros((len(taps), cols, lines * pixels, self._images), np.int32)
        for number, words in enumerate(addresses.reshape(tiles, rows, -1)):
            streamed = self._gather(np.arange(rows)[:, None], words)  # by all rows, whatever their weights
            streamed = streamed.reshape(rows, item["y_count"], item["x_count"], self._images)

            def ago(v: int, u: int, chosen: NDArray[np.int64], streamed: NDArray = streamed) -> NDArray:
                """Of the rows `chosen` what came `v` lines and `u` pixels before each counted pixel."""
                y, x = item["y_first"] - v, item["x_first"] - u
                found = streamed[chosen, y :: item["y_every"], x :: item["x_every"]]
                return found[:, :lines, :pixels].reshape(len(chosen), -1, self._images)

            busy = np.flatnonzero(shared[:, :, number].any(axis=(0, 1)))
            if len(busy):
                weights = shared[:, :, number, busy].astype(np.float64)
                product = weights @ ago(0, 0, busy).reshape(len(busy), -1).astype(np.float64)
                sums += product.astype(np.int32).reshape(sums.shape)
            for v in range(min(height, item["y_first"] + 1)):
                for u in range(min(width, item["x_first"] + 1)):
                    weight = taps[:, own, number, v * isa.WINDOW + u]
                    if weight.any():
                        sums[:, own] += weight[..., None, None].astype(np.int32) * ago(v, u, own)
        return sums.reshape(-1, lines * pixels, self._images)
