"""Where a tensor lives in the activation memory: the layout that compiler, executor and driver share.

Channel c of a tensor lives in plane ``c // period`` and in the banks ``c % period + j * period`` for every
copy j. Its pixel (y, x) is at word ``base + plane * plane_step + y * row_pitch + x`` of those banks. Words
between the rows and around them may be padding, which belongs to the buffer and holds ``padding_value``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLayout:
    """A placed tensor of int8 values, or of bits, eight channels to a byte (`popshift.firmware_py.bits`).

    Attributes
    ----------
    name: of the tensor in the network.
    shape: (channels, height, width), of bits (bytes, height, width); a vector is (features, 1, 1).
    scale, zero_point: real value = scale * (integer - zero_point).
    bits: channels of a binary tensor, which are ``scale`` or ``-scale``; 0 if the tensor is int8.
    threshold: real inputs of a binary tensor from this one on become ``scale``.
    base: word of channel 0, row 0, column 0.
    row_pitch, plane_step: words from row to row and from plane to plane.
    period: banks that one copy of the tensor occupies.
    copies: how often it is stored, side by side over the banks.
    dims: shape of a sample in the network's own file if that has channels last, as TensorFlow's; its
        elements are those of (height, width, channels) in row-major order. Empty if channels come first.
    """

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero_point: int
    base: int
    row_pitch: int
    plane_step: int
    period: int
    copies: int
    bits: int = 0
    threshold: float = 0.0
    dims: tuple[int, ...] = ()

    @property
    def planes(self) -> int:
        return -(-self.shape[0] // self.period)

    def banks(self, channel: int) -> list[int]:
        """Every bank that holds `channel`."""
        return [channel % self.period + copy * self.period for copy in range(self.copies)]

    def word(self, channel: int, y: int = 0, x: int = 0) -> int:
        """Word address of a pixel in its banks."""
        return self.base + channel // self.period * self.plane_step + y * self.row_pitch + x

    @property
    def span(self) -> int:
        """Words of one bank from the first pixel of a plane to its last, padding between rows included."""
        return (self.shape[1] - 1) * self.row_pitch + self.shape[2]

    @property
    def end(self) -> int:
        """The word behind the last pixel of the last plane."""
        return self.base + (self.planes - 1) * self.plane_step + self.span

    def plane(self, tensor: NDArray[np.int8], channel: int) -> NDArray[np.int8]:
        """One channel as its banks hold it: int8 (span,), the padding between the rows at the zero point."""
        _, height, width = self.shape
        rows = np.full((height, max(self.row_pitch, width)), self.zero_point, np.int8)
        rows[:, :width] = tensor[channel]
        return rows.reshape(-1)[: self.span]

    def write(self, memory: NDArray[np.int8], tensor: NDArray[np.int8]) -> None:
        """Put an int8 tensor of this shape into a whole activation memory (banks, words), every copy of it.

        As the driver does, this also sets the padding between the rows to the zero point, and no other word.
        """
        for channel in range(self.shape[0]):
            start = self.word(channel)
            memory[self.banks(channel), start : start + self.span] = self.plane(tensor, channel)

    def read(self, memory: NDArray[np.int8]) -> NDArray[np.int8]:
        """The tensor (first copy) out of a whole activation memory of shape (banks, words)."""
        channels, height, width = self.shape
        c, y, x = np.ogrid[:channels, :height, :width]
        return memory[
            c % self.period, self.base + c // self.period * self.plane_step + y * self.row_pitch + x
        ]
