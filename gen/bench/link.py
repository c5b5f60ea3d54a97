"""How much of what crosses the link is payload: bytes between driver and simulated hardware, counted."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from popshift.firmware_py.protocol import Link, Request
from popshift.firmware_py.transport import Transport
from popshift.gen.bench.records import tools
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.packet import Space, Type
from popshift.sim.board import open_board
from popshift.sim.faults import FaultRates, FaultyTransport

TRANSFER_BYTES = 64 * 1024
TRANSFERS = 16
"""Of a rate of faults, so that there are some."""
DAMAGED = (0.0, 0.001)
_LATENCY = 1.0


@dataclass(frozen=True, kw_only=True)
class LinkRecord:
    """Transfers in one direction.

    ``damaged``: share of the frames, of both directions, that the wire damages. ``payload_bytes``: of memory
    contents. ``wire_bytes``: in the direction of the contents, everything included. ``efficiency``: their
    ratio, which is the share of the raw byte rate that a transfer gets.
    """

    link: str
    config: str
    config_digest: str
    damaged: float
    payload_bytes: int
    wire_bytes: int
    efficiency: float
    retransmissions: int
    seed: int
    tools: dict[str, str] = field(default_factory=lambda: tools())


class _Counted:
    """A transport that counts the bytes it carries."""

    latency = _LATENCY

    def __init__(self, wire: Transport) -> None:
        self.name = "the simulated board"
        self.written = self.received = 0
        self._wire = wire

    def read(self, timeout: float) -> bytes:
        data = self._wire.read(timeout)
        self.received += len(data)
        return data

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._wire.write(data)

    def close(self) -> None:
        self._wire.close()


def measure_link(config: AcceleratorConfig, seed: int = 0) -> Iterator[LinkRecord]:
    """Transfers of 64 KiB to and from a simulated board, on a good wire and on one that damages frames.

    Raises
    ------
    DeviceError, ToolError: the simulation failed.
    """
    for damaged in DAMAGED:
        for name, requests in (("write", _writes(config)), ("read", _reads(config))):
            with open_board(config) as board:
                counted = _Counted(board)
                rates = FaultRates(damage=damaged, drop=0, double=0, reorder=0)
                link = Link(
                    FaultyTransport(counted, seed, rates), fifo_bytes=config.link_fifo_depth, seed=seed
                )
                link.open()
                before = counted.written, counted.received
                transfers = TRANSFERS if damaged else 1
                for _ in range(transfers):
                    link.submit_many(requests)
                sent, received = counted.written - before[0], counted.received - before[1]
            wire, payload = (sent if name == "write" else received), transfers * TRANSFER_BYTES
            yield LinkRecord(
                link=name,
                config=config.name,
                config_digest=f"{config.digest:016x}",
                damaged=damaged,
                payload_bytes=payload,
                wire_bytes=wire,
                efficiency=payload / wire,
                retransmissions=link.statistics.retransmissions,
                seed=seed,
            )


def _writes(config: AcceleratorConfig) -> list[Request]:
    size = config.weight_word_bytes
    step = packet.MAX_PAYLOAD // size * size
    lengths = [step] * (TRANSFER_BYTES // step)
    rest = TRANSFER_BYTES - sum(lengths)
    words = -(-rest // size)
    lengths += [words * size] if rest else []
    requests: list[Request] = []
    for index, length in enumerate(lengths):
        word = index * (step // size) % (config.weight_depth - step // size)
        contents = (bytes(range(256)) * 4)[:length]
        requests.append((Type.WRITE, packet.write_address(Space.WEIGHT, word), contents))
    return requests


def _reads(config: AcceleratorConfig) -> list[Request]:
    count = min(packet.MAX_PAYLOAD, config.activation_depth)
    asked = count.to_bytes(2, "little")
    return [
        (Type.READ, packet.read_address(index % config.rows, 0), asked)
        for index in range(TRANSFER_BYTES // count)
    ]
