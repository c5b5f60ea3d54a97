"""A bad wire on purpose: frames are damaged, dropped, doubled, reordered and delayed, in both directions; the
wire stalls, and is cut.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

from popshift.firmware_py.transport import Transport
from popshift.hw.errors import DeviceError
from popshift.hw.packet import DELIMITER

_END = bytes([DELIMITER])
FAULTS = ("damage", "drop", "double", "reorder", "delay", "stall")
STALL_SECONDS = 0.02
_LATEST = 8
"""Most frames that overtake a delayed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """Probability of each fault for a frame, 0 .. 1; at most one fault befalls a frame.

    ``damage``: a bit is inverted, or a byte is lost or put in, anywhere in the frame, its delimiter included.
    ``drop``: it is lost. ``double``: it comes twice. ``reorder``: it comes after the next one. ``delay``: it
    comes after several later ones. ``stall``: nothing moves for `STALL_SECONDS`, then it comes.
    """

    damage: float = 0.01
    drop: float = 0.01
    double: float = 0.01
    reorder: float = 0.01
    delay: float = 0.0
    stall: float = 0.0

    @classmethod
    def all(cls, rate: float) -> Self:
        """Every fault equally often, at `rate` together."""
        return cls(**{name: rate / len(FAULTS) for name in FAULTS})

    def __post_init__(self) -> None:
        rates = [getattr(self, name) for name in FAULTS]
        if min(rates) < 0 or sum(rates) > 1:
            raise ValueError(f"fault rates must be at least 0 and at most 1 together, not {rates}")


class FaultyTransport:
    """Another transport, seen through a bad wire.

    Parameters
    ----------
    transport: the good one.
    seed: of the faults; the same seed and the same traffic give the same faults.
    rates: of either direction.
    cut_after: bytes, both directions together, after which the connection is gone; None: never.

    Attributes
    ----------
    faults: how often each of `FAULTS` happened so far, both directions together.
    """

    def __init__(
        self,
        transport: Transport,
        seed: int,
        rates: FaultRates | None = None,
        *,
        cut_after: int | None = None,
    ) -> None:
        self.name = f"{getattr(transport, 'name', type(transport).__name__)} with faults (seed {seed})"
        for attribute in ("bytes_per_second", "latency"):
            if hasattr(transport, attribute):
                setattr(self, attribute, getattr(transport, attribute))
        self.faults: Counter[str] = Counter()
        self._transport = transport
        self._bytes_left = cut_after
        rates = rates or FaultRates()
        self._towards_device = _Wire(random.Random(f"{seed} towards device"), rates, self.faults)
        self._towards_host = _Wire(random.Random(f"{seed} towards host"), rates, self.faults)

    def read(self, timeout: float) -> bytes:
        """See `Transport.read`; may return early with nothing when all that came was lost."""
        self._count(0)
        data = self._transport.read(timeout)
        self._count(len(data))
        return self._towards_host.carry(data)

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        self._count(0)
        if carried := self._towards_device.carry(data[: self._bytes_left]):
            self._transport.write(carried)
        self._count(len(data))

    def close(self) -> None:
        """See `Transport.close`."""
        self._transport.close()

    def _count(self, carried: int) -> None:
        if self._bytes_left is None:
            return
        self._bytes_left -= carried
        if self._bytes_left <= 0:
            self._bytes_left = 0
            raise DeviceError("the wire is cut", where=self.name, remedy="connect again")


class _Wire:
    """One direction. An unfinished frame waits for its delimiter, a reordered one for the next frame."""

    def __init__(self, source: random.Random, rates: FaultRates, faults: Counter[str]) -> None:
        self._random = source
        self._names = (*FAULTS, "none")
        chosen = [getattr(rates, name) for name in FAULTS]
        self._weights = [*chosen, 1 - sum(chosen)]
        self._faults = faults
        self._rest = b""
        self._held = b""
        self._late: list[tuple[int, bytes]] = []  # frames still to overtake, and the frame

    def carry(self, data: bytes) -> bytes:
        """What arrives when `data` is sent."""
        *frames, self._rest = (self._rest + data).split(_END)
        return b"".join(self._frame(frame + _END) + self._arrived() for frame in frames)

    def _arrived(self) -> bytes:
        self._late = [(left - 1, frame) for left, frame in self._late]
        arrived = [frame for left, frame in self._late if left < 0]
        self._late = [entry for entry in self._late if entry[0] >= 0]
        return b"".join(arrived)

    def _frame(self, frame: bytes) -> bytes:
        (fault,) = self._random.choices(self._names, self._weights)
        if fault != "none":
            self._faults[fault] += 1
        if fault == "reorder" and not self._held:
            self._held = frame
            return b""
        held, self._held = self._held, b""
        match fault:
            case "delay":
                self._late.append((self._random.randint(1, _LATEST), frame))
                return held
            case "stall":
                time.sleep(STALL_SECONDS)
                return frame + held
            case "damage":
                return self._damage(frame) + held
            case "drop":
                return held
            case "double":
                return frame + frame + held
            case _:
                return frame + held

    def _damage(self, frame: bytes) -> bytes:
        place = self._random.randrange(len(frame))
        before, byte, after = frame[:place], frame[place], frame[place + 1 :]
        match self._random.choice(("invert", "lose", "insert")):
            case "invert":
                return before + bytes([byte ^ 1 << self._random.randrange(8)]) + after
            case "lose":
                return before + after
            case _:
                return before + bytes([self._random.randrange(256), byte]) + after
