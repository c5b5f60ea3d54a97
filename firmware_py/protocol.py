"""The packet protocol's host side: requests complete and in order, however bad the wire."""

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from popshift.firmware_py import framing
from popshift.firmware_py.framing import FrameReader
from popshift.firmware_py.transport import Transport
from popshift.firmware_py.window import FRAMES, SEQUENCES, Outstanding, Window
from popshift.hw import packet
from popshift.hw.errors import DeviceError
from popshift.hw.packet import Type

Request = tuple[Type, int, bytes]
"""Type, address and payload of a request."""

FIFO_BYTES = 256
"""`fifo_bytes` unless told otherwise: the smallest of the shipped configurations."""
_IDLE_SLICE = 0.02
_MAX_BACKOFF = 4


@dataclass(slots=True)
class LinkStatistics:
    """What happened on a link so far.

    ``requests``: sent for the first time; ``retransmissions``: sent again; ``timeouts``: silences that led to
    it; ``damaged``: frames from the device with a wrong CRC; ``ignored``: stale or doubled answers.
    """

    requests: int = 0
    retransmissions: int = 0
    timeouts: int = 0
    damaged: int = 0
    ignored: int = 0


class Link:
    """A session with a device.

    Parameters
    ----------
    transport: the byte stream to the device.
    fifo_bytes: what the device takes in while it is busy answering (`AcceleratorConfig.link_fifo_depth`).
    bytes_per_second, latency: speed of the wire, and seconds until a healthy device begins to answer; by
        default as the transport says, else fast and 0.25 s. Time-outs follow from them.
    tries: silences in a row after which the device is given up; each is waited for up to four times as long
        as the first.
    seed: of the random session and sequence numbers, for reproducible tests.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        fifo_bytes: int = FIFO_BYTES,
        bytes_per_second: float | None = None,
        latency: float | None = None,
        tries: int = 6,
        seed: int | None = None,
    ) -> None:
        self.transport = transport
        self.name: str = getattr(transport, "name", type(transport).__name__)
        self.statistics = LinkStatistics()
        speed = getattr(transport, "bytes_per_second", 1e6) if bytes_per_second is None else bytes_per_second
        self._seconds_per_byte = 1 / speed
        self._latency: float = getattr(transport, "latency", 0.25) if latency is None else latency
        self._fifo_bytes = fifo_bytes
        self._tries = tries
        self._random = random.Random(seed)
        self._reader = FrameReader()
        self._sequence: int | None = None  # of the next request; None: no session
        self._answered = False  # anything, ever: tells a silent device from one that fell silent

    def open(self) -> packet.Identity:
        """Start a session; what an earlier one left on the wire is ignored from now on.

        Raises
        ------
        DeviceError: the device is silent, or is no accelerator of this protocol version.
        """
        self._sequence = self._random.randrange(SEQUENCES)
        session = self._random.randrange(1, 1 << 32)
        self.transport.write(
            framing.DELIMITER
        )  # ends a frame that an interrupted program may have left half sent
        (answer,) = self.submit_many([(Type.OPEN, session, b"")])
        try:
            return parse_identity(answer, self.name)
        except DeviceError:
            self._sequence = None
            raise

    def request(self, type: Type, address: int = 0, payload: bytes = b"") -> bytes:
        """Send one request and wait for the payload of its answer; errors as `submit_many`."""
        return self.submit_many([(type, address, payload)])[0]

    def submit_many(
        self, requests: Iterable[Request], on_progress: Callable[[int], None] | None = None
    ) -> list[bytes]:
        """Send requests, many at a time; the device executes each exactly once and in this order.

        Parameters
        ----------
        requests: drawn as the window has room for them.
        on_progress: called with the number of requests answered so far, whenever it grows.

        Returns
        -------
        The payloads of the answers, in the order of the requests.

        Raises
        ------
        DeviceError: no session is open; the device fell silent (the session is over then), or refused a
            request.
        """
        if self._sequence is None:
            raise DeviceError("no session is open", where=self.name, remedy="call open() first")
        first, self._sequence = self._sequence, None  # an interrupted exchange ends the session
        exchange = _Exchange(self, requests, first, on_progress)
        answers = exchange.run()
        self._sequence = exchange.sequence
        if exchange.refused:
            raise self._refusal(exchange.refused)
        return answers

    def wait(self, seconds: float) -> None:
        """Let time pass for the device: a simulated board runs while it is read, a real one anyway."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.statistics.ignored += len(self.receive(min(left, _IDLE_SLICE)))

    def close(self) -> None:
        """End the session and close the transport."""
        self._sequence = None
        self.transport.close()

    # ---- for _Exchange -------------------------------------------------------------------------------------

    def new_window(self) -> Window:
        return Window(fifo_bytes=self._fifo_bytes, frames=FRAMES)

    def receive(self, timeout: float) -> list[packet.Frame]:
        """The good frames that arrive within `timeout` seconds, returning at the first bytes."""
        frames = self._reader.feed(self.transport.read(timeout))
        self.statistics.damaged = self._reader.damaged
        self._answered |= bool(frames)
        return frames

    def patience(self, wire_bytes: int, silences: int) -> float:
        """Seconds to wait for news with `wire_bytes` under way and the last `silences` waits in vain."""
        backoff = min(1 << silences, _MAX_BACKOFF)
        return backoff * (self._latency + 2 * wire_bytes * self._seconds_per_byte)

    def give_up(self, silences: int, request: Outstanding, foreign_resends: int) -> None:
        """Raise if there have been too many silences in a row."""
        if silences < self._tries:
            return
        doing = f"{Type(request.frame.type).name} at 0x{request.frame.address:08x}, {silences} attempts"
        if foreign_resends:
            what, remedy = (
                "has lost the session",
                "it was restarted, or another program uses it: close that and connect again",
            )
        elif self._answered:
            what, remedy = "stopped answering", "check its power and cable, reset it and connect again"
        elif self.statistics.damaged:
            what = "sends bytes that are no frames"
            remedy = "check the baud rate, and that this is the accelerator's port"
        else:
            what = "does not answer"
            remedy = (
                "check its power and cable, that it is programmed with an accelerator, and the baud rate: it "
                "changes with the clock that was built"
            )
        raise DeviceError(f"the device {what} ({doing})", where=self.name, remedy=remedy)

    def _refusal(self, request: packet.Frame) -> DeviceError:
        return DeviceError(
            f"the device refused {Type(request.type).name} at 0x{request.address:08x} "
            f"with {len(request.payload)} bytes",
            where=self.name,
            remedy="a program may be running there, or it has another configuration: reset it and load again",
        )


class _Exchange:
    """One call of `Link.submit_many`."""

    def __init__(
        self,
        link: Link,
        requests: Iterable[Request],
        sequence: int,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self.sequence = sequence
        self.refused: packet.Frame | None = None
        self._link = link
        self._window = link.new_window()
        self._source = iter(requests)
        self._next: Outstanding | None = None
        self._on_progress = on_progress
        self._answers: list[bytes] = []
        self._drawn = 0

    def run(self) -> list[bytes]:
        silences = 0
        self._draw()
        while self._fill() or self._window:
            if self._receive(self._link.patience(self._window.wire_bytes, silences)):
                silences = 0
                continue
            silences += 1
            self._link.statistics.timeouts += 1
            self._link.give_up(silences, self._window.oldest, self._window.foreign_resends)
            self._link.transport.write(framing.DELIMITER)  # a damaged delimiter would merge two frames
            self._repeat(self._window.unanswered())
        return self._answers

    def _draw(self) -> None:
        self._next = None
        request = next(self._source, None)
        if request is not None:
            type, address, payload = request
            assert len(payload) <= packet.MAX_PAYLOAD
            frame = packet.Frame(self.sequence, type, address, payload)
            self._next = Outstanding(self._drawn, frame, framing.encode(frame), answer_payload(type, payload))
            self._drawn += 1

    def _fill(self) -> bool:
        """Send what the window has room for, nothing behind a refusal; whether anything was sent."""
        sent = False
        while self._next and not self.refused and self._window.has_room(len(self._next.encoded)):
            self._link.transport.write(self._next.encoded)
            self._link.statistics.requests += 1
            self._window.push(self._next)
            self.sequence = (self.sequence + 1) % SEQUENCES
            self._draw()
            sent = True
        return sent

    def _receive(self, patience: float) -> bool:
        """Read until an answer gives news; False if none came in time."""
        deadline = time.monotonic() + patience
        while True:
            news = False
            for frame in self._link.receive(max(deadline - time.monotonic(), 0.0)):
                finished, repeat, fresh = self._window.accept(frame)
                self._finish(finished)
                self._repeat(repeat)
                news |= fresh
                self._link.statistics.ignored += not (fresh or repeat)
            if news:
                return True
            if time.monotonic() >= deadline:
                return False

    def _finish(self, finished: list[Outstanding]) -> None:
        for request in finished:
            assert request.answer
            if request.answer.type == packet.REFUSED | packet.ANSWER:
                # What is under way is waited for: that keeps the numbers in step.
                self.refused = self.refused or request.frame
            self._answers.append(request.answer.payload)
        if finished and self._on_progress:
            self._on_progress(len(self._answers))

    def _repeat(self, requests: list[Outstanding]) -> None:
        for request in requests:
            self._link.transport.write(request.encoded)
            self._link.statistics.retransmissions += 1


def answer_payload(type: Type, payload: bytes) -> int:
    """Bytes of payload in the answer to a request."""
    match type:
        case Type.OPEN | Type.RESET:
            return packet.IDENTITY.size
        case Type.READ:
            return int.from_bytes(payload, "little")
        case Type.STATUS:
            return packet.STATE.size
        case Type.COUNTERS:
            return packet.COUNTERS.size
        case _:
            return 0


def parse_identity(payload: bytes, where: str) -> packet.Identity:
    """The identity in an answer to OPEN or RESET.

    Raises
    ------
    DeviceError: not an accelerator, or one of another protocol version.
    """
    identity = packet.Identity(*packet.IDENTITY.unpack(payload))
    if identity.magic != packet.MAGIC:
        raise DeviceError("the device is no popshift accelerator", where=where, remedy="check the port")
    if identity.version != packet.PROTOCOL_VERSION:
        raise DeviceError(
            f"the device speaks version {identity.version} of the protocol, "
            f"this driver version {packet.PROTOCOL_VERSION}",
            where=where,
            remedy="generate and program the accelerator anew with this version of popshift",
        )
    return identity
