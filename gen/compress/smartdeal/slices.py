"""Weights as tall matrices, and back: the reshaping and slicing of SmartDeal (arXiv 2101.01163)."""

import math
from dataclasses import dataclass

import torch

VECTOR_COLUMNS = 3
"""Columns of the matrix that a filter without kernel columns (1 x 1, Linear) is folded into."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """How each filter of a layer is cut: `slices` matrices of `rows` x `columns`.

    A row holds the weights of one channel and kernel row, or `columns` consecutive channels where the kernel
    has one column. Zeros fill up what is missing in the last slice (and, there, in the last row).
    """

    shape: tuple[int, ...]
    slices: int
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: tuple[int, ...], most_rows: int) -> "Slicing":
        """For weights of `shape` (filters, channels, height, width) or (filters, inputs).

        Slices have whole channels and are as equal as can be.
        """
        height, width = shape[2:] if len(shape) == 4 else (1, 1)
        folded = width == 1
        columns = VECTOR_COLUMNS if folded else width
        unit = 1 if folded else height  # rows that stay together
        units = math.ceil(math.prod(shape[1:]) / columns) if folded else shape[1]
        slices = math.ceil(units / max(1, most_rows // unit))
        return cls(tuple(shape), slices, math.ceil(units / slices) * unit, columns)

    def cut(self, weight: torch.Tensor) -> torch.Tensor:
        """(filters, slices, rows, columns) of weights."""
        flat = weight.reshape(self.shape[0], -1)
        missing = self.slices * self.rows * self.columns - flat.shape[1]
        return torch.nn.functional.pad(flat, (0, missing)).reshape(
            self.shape[0], self.slices, self.rows, self.columns
        )

    def join(self, matrices: torch.Tensor) -> torch.Tensor:
        """Weights of `shape` from (filters, slices, rows, columns)."""
        return matrices.reshape(self.shape[0], -1)[:, : math.prod(self.shape[1:])].reshape(self.shape)
