"""Link packets: what travels between host and accelerator.

A frame is ``sequence (1) | type (1) | address (4) | payload (0 .. 1024) | CRC-32 (4)``, little endian,
encoded with COBS and followed by a zero byte. The CRC is the common one (zlib.crc32) over everything before
it.

Requests carry consecutive sequence numbers. The device executes a request only if its number is the next one
it expects, so a lost, damaged, doubled or reordered frame never does harm:

* the expected number: execute, answer, expect the next;
* one of the 128 numbers before it: a repetition: not executed again (reads, which do no harm, are), answered
  again, whatever state the machine is in by now; a refused request stays refused;
* any other: not executed, answered with a RESEND whose address is the number expected;
* damaged: dropped, counted.

OPEN starts a session: its address is a number drawn at random by the host. The device takes it whatever its
sequence number is, if that session number is not its current one, and expects the sequence number after it.
Before the first OPEN every other request is answered with RESEND. An OPEN does not disturb the machine; RESET
does. Neither changes a memory: a host that comes back asks for the signature of what the device holds
(`signature`) and need not load it again.

Every answer repeats sequence, type (with ANSWER added) and address of its request.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import COUNTER_BITS, Counter, Status

PROTOCOL_VERSION = 2
MAGIC = 0x5350  # "PS"
HEADER = struct.Struct("<BBI")
CRC_BYTES = 4
MAX_PAYLOAD = 1024
MAX_FRAME = HEADER.size + MAX_PAYLOAD + CRC_BYTES
SEQUENCE_BITS = 8
OLD_SEQUENCES = 1 << (SEQUENCE_BITS - 1)
"""How many numbers before the expected one count as repetitions."""
DELIMITER = 0


class Type(IntEnum):
    """Types of requests. Payloads:

    OPEN, RESET: none; the answer carries `Identity`.
    WRITE: whole words of the space in the address (activations: a bank mask first, then bytes for consecutive
    word addresses, each written to all banks of the mask); answered empty.
    READ: two bytes, the number of bytes wanted (1 .. 1024) from one bank of the activation memory,
    consecutive word addresses; answered with them.
    RUN: `Run`; answered empty at once.
    STATUS: none; `State`.
    COUNTERS: none; 32 bits per `Counter`.
    CONTINUE: none; goes on after a pause.
    """

    OPEN = 1
    RESET = 2
    WRITE = 3
    READ = 4
    RUN = 5
    STATUS = 6
    COUNTERS = 7
    CONTINUE = 8


ANSWER = 0x80
"""Added to the type in answers."""
RESEND = 0x7F
"""Type of the answer to an unexpected sequence number (plus ANSWER); its address is the expected one."""
REFUSED = 0x7E
"""Type of the answer to a request that makes no sense (unknown type, length or space; a WRITE, READ or RUN
while running), plus ANSWER. It counts as executed: the sequence goes on.
"""


class Space(IntEnum):
    """Memories, in bits 28 .. 31 of an address; bits 0 .. 23 count words. For READ, bits 16 .. 23 are the
    bank and 0 .. 15 the word.
    """

    ACTIVATION = 0
    WEIGHT = 1
    PARAMETER = 2
    PROGRAM = 3


SPACE_SHIFT = 28
BANK_SHIFT = 16


class Identity(NamedTuple):
    """Answer to OPEN and RESET."""

    magic: int
    version: int
    rows: int
    cols: int
    digest: int


class Run(NamedTuple):
    """Payload of RUN: first program word, whether to pause at marks, the most cycles to spend (0: 2**32)."""

    pc: int
    pause: int
    cycle_limit: int


class State(NamedTuple):
    """Answer to STATUS: status code, layer of the last mark, program counter of the current or failed
    instruction, cycles of the run so far, `signature` of what was loaded.
    """

    status: int
    layer: int
    pc: int
    cycles: int
    signature: int


IDENTITY = struct.Struct("<HBBBxQ")
RUN = struct.Struct("<HBxI")
STATE = struct.Struct("<BxHHxxII")
COUNTERS = struct.Struct(f"<{len(Counter)}I")
assert COUNTER_BITS == 32


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame."""

    sequence: int
    type: int
    address: int
    payload: bytes = b""

    def body(self) -> bytes:
        """The bytes that COBS encodes: header, payload and CRC."""
        data = HEADER.pack(self.sequence, self.type, self.address) + self.payload
        return data + zlib.crc32(data).to_bytes(CRC_BYTES, "little")

    @classmethod
    def parse(cls, body: bytes) -> "Frame | None":
        """The frame in COBS-decoded bytes, or None if it is damaged."""
        if not HEADER.size + CRC_BYTES <= len(body) <= MAX_FRAME:
            return None
        data, crc = body[:-CRC_BYTES], int.from_bytes(body[-CRC_BYTES:], "little")
        if zlib.crc32(data) != crc:
            return None
        sequence, kind, address = HEADER.unpack_from(data)
        return cls(sequence, kind, address, data[HEADER.size :])


def identity(config: AcceleratorConfig) -> Identity:
    """What a device of this configuration answers to OPEN."""
    return Identity(MAGIC, PROTOCOL_VERSION, config.rows, config.cols, config.digest)


def counters(payload: bytes) -> dict[Counter, int]:
    """The counters in an answer to COUNTERS."""
    return dict(zip(Counter, COUNTERS.unpack(payload), strict=True))


def state(payload: bytes) -> State:
    """The state in an answer to STATUS, its status as `Status`."""
    values = State(*STATE.unpack(payload))
    return values._replace(status=Status(values.status))


SIGNATURE_BITS = 32
SIGNATURE_TAPS = 0xEDB8_8320
"""The polynomial of CRC-32, lowest power in the highest bit: primitive, so a step repeats after 2**32 - 1."""


def signature(value: int, payload: bytes) -> int:
    """Signature register (a multiple-input LFSR, as built-in self-tests use it) after one more WRITE to
    another memory than that of the activations.

    A WRITE of word 0 of the program memory starts it anew, with `value` 0; each payload goes in from its last
    byte to its first.
    """
    for byte in reversed(payload):
        value = (value >> 1) ^ (SIGNATURE_TAPS if value & 1 else 0) ^ byte
    return value


def write_address(space: Space, word: int) -> int:
    """Address of a WRITE."""
    return space << SPACE_SHIFT | word


def read_address(bank: int, word: int) -> int:
    """Address of a READ from the activation memory."""
    return Space.ACTIVATION << SPACE_SHIFT | bank << BANK_SHIFT | word


def bank_mask(config: AcceleratorConfig, banks: Sequence[int]) -> bytes:
    """The mask that precedes the data of an activation WRITE."""
    return sum(1 << bank for bank in banks).to_bytes(config.bank_mask_bytes, "little")
