"""Finds words of the activation memory that one unit may read while another writes them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.hw.isa import Opcode


class HazardError(AssertionError):
    """A word is written while it may be read: the program has a race."""


@dataclass
class _Reader:
    """The words (banks, words) that an instruction reads, and how many accumulator halves have been drained
    when it is known to be done; None: that is told, or at the next barrier.
    """

    words: NDArray[np.bool_]
    until: int | None


class HazardChecker:
    """Words that instructions not known to be done read, and words that a POST writes which is not.

    All that a POST writes is there when the next one begins. A MATRIX is done when all that it has filled is
    drained, a CHANNEL when a POST has taken all its windows. So a reader meets the POST in front of it,
    unless it waits, and those that begin before it is done.
    """

    def __init__(self, banks: int, words: int) -> None:
        self._shape = banks, words
        self._readers: list[_Reader] = []
        self._current: dict[Opcode, _Reader] = {}
        self._written, self._by_last_strip = np.zeros((2, banks, words), bool)

    def begin(self, unit: Opcode, *, drained: int = 0, until: int | None = None) -> None:
        """The unit begins an instruction, with so many halves drained (POST)."""
        if unit is Opcode.POST:
            self._check()
            self._written[:] = False
            self._readers = [found for found in self._readers if found.until is None or found.until > drained]
        self._current[unit] = _Reader(np.zeros(self._shape, bool), until)
        self._readers.append(self._current[unit])

    def done(self, unit: Opcode) -> None:
        """What the unit's instruction has read is of no account from the next POST on."""
        self._current[unit].until = 0

    def begin_last_strip(self) -> None:
        """The POST at work begins its last strip."""
        self._by_last_strip[:] = False

    def reads(self, unit: Opcode, banks: NDArray[np.int64], words: NDArray[np.int64]) -> None:
        """The unit's instruction reads these words, broadcast together."""
        self._current[unit].words[banks, words] = True

    def writes(self, banks: slice, words: NDArray[np.int64]) -> None:
        """The POST at work writes these banks of `words`."""
        self._written[banks, words] = self._by_last_strip[banks, words] = True

    def barrier(self) -> None:
        """Every unit is idle.

        Raises
        ------
        HazardError: some word was read and written by instructions that may have been at work together.
        """
        self._check()
        self._written[:] = False
        self._readers.clear()

    def all_but_last_strip(self) -> None:
        """The channel unit is idle, and all is written but the last strip of the POST at work."""
        self._check()
        self._written[:] = self._by_last_strip

    def last_pass(self) -> None:
        """The other units are idle now, but were not when the MATRIX at work has read what it did so far."""
        self._check()
        self._written[:] = False

    def _check(self) -> None:
        read = np.zeros(self._shape, bool)
        for reader in self._readers:
            read |= reader.words
        both = np.argwhere(read & self._written)
        if len(both):
            bank, word = both[0]
            raise HazardError(
                f"{len(both)} words may be read while they are written, the first: bank {bank}, word {word}"
            )
