"""Weights as tall matrices, and back: the reshaping and slicing of SmartDeal (arXiv 2101.01163)."""

import math
from dataclasses import dataclass

import torch

from popshift.hw.numerics import BASIS_SIZE

MISSING = -1
"""In a table of taps: no weight. As an index it names the zero that `Slicing.cut` appends."""


@dataclass(frozen=True, slots=True, eq=False)
class Slicing:
    """How each filter of a layer is cut: `slices` matrices of `rows` x `columns`.

    A row holds three neighbouring weights of a kernel row. Kernels that are narrower than that have instead
    the weights of three channels at one kernel position, `banks` apart so that one bank has them all.

    Attributes
    ----------
    shape: of the weight, (filters, channels, height, width) or (filters, inputs).
    taps: int64 (slices, rows, columns), each the number of a weight of one filter in row-major order, or
        `MISSING`, where the matrix is zero; rows with fewer weights lack the first ones.
    channels: int64 (slices, rows), the channel of a row's last weight, or `MISSING` for rows without any,
        which are the last ones of the last slice.
    """

    shape: tuple[int, ...]
    taps: torch.Tensor
    channels: torch.Tensor
    _places: torch.Tensor
    """Where in all matrices of a filter each of its weights is."""

    @classmethod
    def of(cls, shape: tuple[int, ...], most_rows: int, banks: int = 1) -> "Slicing":
        """For weights of `shape`, see `SmartDealConfig` for `most_rows` and `banks`.

        Slices have whole blocks of `banks` channels (thrice as many where rows hold three), or single ones
        if a block has more than `most_rows`, and are as equal as can be.
        """
        channels, height, width = shape[1], *(shape[2:] if len(shape) == 4 else (1, 1))
        if width < BASIS_SIZE:
            rows, unit = _across_channels(channels, height * width, banks), height * width
        else:
            rows, unit = _along_kernel_rows(channels, height, width), height * -(-width // BASIS_SIZE)
        # What a row lacks stands in front, where the hardware expects it.
        rows = rows.gather(1, (rows != MISSING).byte().argsort(dim=1, stable=True))
        block = unit * banks if unit * banks <= most_rows else unit
        blocks = math.ceil(len(rows) / block)
        slices = math.ceil(blocks / max(1, most_rows // block))
        length = min(math.ceil(blocks / slices) * block, len(rows))
        taps = torch.full((slices * length, BASIS_SIZE), MISSING)
        taps[: len(rows)] = rows
        used = taps.flatten() != MISSING
        places = torch.empty(math.prod(shape[1:]), dtype=torch.int64)
        places[taps.flatten()[used]] = used.nonzero().squeeze(1)
        taps = taps.reshape(slices, length, BASIS_SIZE)
        last = taps[:, :, -1].div(height * width, rounding_mode="floor")  # MISSING stays -1
        return cls(tuple(shape), taps, last, places)

    @property
    def slices(self) -> int:
        return self.taps.shape[0]

    @property
    def rows(self) -> int:
        return self.taps.shape[1]

    @property
    def columns(self) -> int:
        return self.taps.shape[2]

    def cut(self, weight: torch.Tensor) -> torch.Tensor:
        """(filters, slices, rows, columns) of weights."""
        return torch.nn.functional.pad(weight.reshape(self.shape[0], -1), (0, 1))[:, self.taps]

    def join(self, matrices: torch.Tensor) -> torch.Tensor:
        """Weights of `shape` from (filters, slices, rows, columns)."""
        return matrices.reshape(self.shape[0], -1).index_select(1, self._places).reshape(self.shape)


def _along_kernel_rows(channels: int, height: int, width: int) -> torch.Tensor:
    """Taps (rows, columns): rows in the order of channels, kernel rows and thirds of a wide kernel row."""
    missing = -width % BASIS_SIZE
    flat = torch.arange(channels * height * width).reshape(-1, width)
    return torch.nn.functional.pad(flat, (0, missing), value=MISSING).reshape(-1, BASIS_SIZE)


def _across_channels(channels: int, positions: int, banks: int) -> torch.Tensor:
    """Taps (rows, columns): rows in the order of blocks of channels, channels and kernel positions.

    The last block may have fewer than three channels in a row; a layer of less than one block has its
    channels a third of them apart.
    """
    distance = min(banks, -(-channels // BASIS_SIZE))
    flat = torch.arange(channels * positions).reshape(channels, positions)
    blocks = []
    for part in flat.split(BASIS_SIZE * banks):
        here = min(distance, len(part))
        block = torch.full((BASIS_SIZE * here, positions), MISSING)
        block[: len(part)] = part
        blocks.append(block.reshape(BASIS_SIZE, -1).mT)
    return torch.cat(blocks)
