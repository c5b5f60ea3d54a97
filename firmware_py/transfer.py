"""Which link requests move a tensor or a memory image between host and device, in few frames."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py import framing
from popshift.firmware_py.layout import TensorLayout
from popshift.firmware_py.protocol import Request
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.packet import Space, Type

# Reading words that nobody wants is cheaper than another request up to about the size of one.
_READ_GAP_BYTES = 2 * framing.wire_bytes(0)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """One READ: `count` consecutive words of one bank."""

    bank: int
    word: int
    count: int

    @property
    def request(self) -> Request:
        return Type.READ, packet.read_address(self.bank, self.word), self.count.to_bytes(2, "little")


def memory_writes(space: Space, words: NDArray[np.uint8]) -> Iterator[Request]:
    """Requests that write ``words``, uint8 (words, bytes of one word), to a memory from its word 0 on."""
    count, word_bytes = words.shape
    step = packet.MAX_PAYLOAD // word_bytes
    for start in range(0, count, step):
        yield Type.WRITE, packet.write_address(space, start), words[start : start + step].tobytes()


def signature_of(requests: Iterable[Request]) -> int:
    """What the device's signature is (`popshift.hw.packet`) when it has executed these WRITEs of memory
    images, the program's first."""
    value = 0
    for _, _, payload in requests:
        value = packet.signature(value, payload)
    return value


def tensor_writes(
    config: AcceleratorConfig, layout: TensorLayout, tensor: NDArray[np.int8]
) -> Iterator[Request]:
    """Requests that write an int8 tensor (channels, height, width), every copy of it at once.

    The padding between the rows, which belongs to the buffer, is written with them (at the zero point): that
    takes one run of words per plane, and the planes of a bank that touch become one run.
    """
    for bank in range(min(layout.period, layout.shape[0])):
        mask = packet.bank_mask(config, layout.banks(bank))
        step = packet.MAX_PAYLOAD - len(mask)
        for start, words in _runs(layout, tensor, bank):
            for offset in range(0, len(words), step):
                address = packet.write_address(Space.ACTIVATION, start + offset)
                yield Type.WRITE, address, mask + words[offset : offset + step]


def _runs(layout: TensorLayout, tensor: NDArray[np.int8], bank: int) -> Iterator[tuple[int, bytes]]:
    """(first word, bytes) of every contiguous part of the tensor in one bank of its first copy."""
    start, parts = layout.word(bank), []
    for channel in range(bank, layout.shape[0], layout.period):
        if parts and layout.word(channel) != start + sum(map(len, parts)):
            yield start, b"".join(parts)
            start, parts = layout.word(channel), []
        parts.append(layout.plane(tensor, channel).tobytes())
    yield start, b"".join(parts)


def tensor_reads(layout: TensorLayout) -> list[ReadBack]:
    """What must be read to have the first copy of a tensor."""
    reads = []
    for bank in range(min(layout.period, layout.shape[0])):
        starts = [layout.word(channel) for channel in range(bank, layout.shape[0], layout.period)]
        begin = end = starts[0]
        for start in starts:
            if start - end > _READ_GAP_BYTES:
                reads += _cut(bank, begin, end)
                begin = start
            end = start + layout.span
        reads += _cut(bank, begin, end)
    return reads


def _cut(bank: int, begin: int, end: int) -> list[ReadBack]:
    step = packet.MAX_PAYLOAD
    return [ReadBack(bank, word, min(step, end - word)) for word in range(begin, end, step)]


def assemble_tensor(
    layout: TensorLayout, reads: Iterable[ReadBack], answers: Sequence[bytes]
) -> NDArray[np.int8]:
    """The int8 tensor (channels, height, width) from the answers to `reads`."""
    memory = np.zeros((layout.period, layout.end - layout.base), np.int8)
    for read, answer in zip(reads, answers, strict=True):
        first = read.word - layout.base
        memory[read.bank, first : first + read.count] = np.frombuffer(answer, np.int8)
    return replace(layout, base=0).read(memory)
