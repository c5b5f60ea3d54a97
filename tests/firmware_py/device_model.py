"""A behavioural accelerator for tests of the driver: the device's rules of `popshift.hw.packet` over plain
arrays.

What the machine does when it runs is a callback, so that the tests decide.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from popshift.firmware_py import framing
from popshift.firmware_py.transport import Transport
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Counter, Status
from popshift.hw.packet import Frame, Space, State, Type

_NOT_IN_WRITES = 0xCF00_0000
"""Bits of an address that no WRITE has: spaces that do not exist, and unused ones."""
LINK_ERRORS_MOST = 255
"""The count of damaged frames stays there until a RESET."""
_LENGTHS = {
    **dict.fromkeys((Type.OPEN, Type.RESET, Type.STATUS, Type.COUNTERS, Type.CONTINUE), 0),
    Type.RUN: packet.RUN.size,
    Type.READ: 2,
}
"""Bytes of payload that a request must have; a WRITE may have more or fewer."""


class MachineStopError(Exception):
    """Raised by a machine to stop with an error status at a program counter."""

    def __init__(self, status: Status, pc: int) -> None:
        self.status, self.pc = status, pc


Machine = Callable[["DeviceModel"], Iterator[int]]
"""A run: works on the device's memories and yields the layer index at every MARK."""


class DeviceModel:
    """The device's side of the protocol; `receive` takes bytes from the host and returns those it sends back.

    A run takes `busy_polls` STATUS requests to get to its next mark or end.
    """

    def __init__(
        self, config: AcceleratorConfig, machine: Machine | None = None, *, busy_polls: int = 0
    ) -> None:
        self.config = config
        self.activations = np.zeros((config.rows, config.activation_depth), np.int8)
        self.memories = {
            Space.WEIGHT: np.zeros((config.weight_depth, config.weight_word_bytes), np.uint8),
            Space.PARAMETER: np.zeros((config.parameter_depth, config.parameter_word_bytes), np.uint8),
            Space.PROGRAM: np.zeros((config.program_depth, 4), np.uint8),
        }
        self.identity = packet.identity(config)
        self.executed: list[Frame] = []
        self.signature, self.signs = 0, config.signature
        self.last_run = packet.Run(0, 0, 0)
        self.counters = dict.fromkeys(Counter, 0)
        self._machine = machine or (lambda device: iter(()))
        self._busy_polls = busy_polls
        self._reader, self._forgotten = framing.FrameReader(), 0
        self._expected, self._session, self._opened = 0, 0, False
        self._refused: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._forgotten = self._reader.damaged
        self.state = State(Status.IDLE, 0, 0, 0, 0)
        self._run: Iterator[int] = iter(())
        self._polls = 0

    def receive(self, data: bytes) -> bytes:
        answers, (*frames, rest) = b"", data.split(b"\0")
        for part in [*(frame + b"\0" for frame in frames), rest]:
            answers += b"".join(framing.encode(self._take(frame)) for frame in self._reader.feed(part))
            damaged = self._reader.damaged - self._forgotten
            self.counters[Counter.LINK_ERRORS] = min(damaged, LINK_ERRORS_MOST)
        return answers

    def _take(self, frame: Frame) -> Frame:
        if (
            frame.type == Type.OPEN
            and not frame.payload
            and (frame.address != self._session or not self._opened)
        ):
            self._opened = True
            self._session, self._expected, self._refused = frame.address, frame.sequence, None
        back = (self._expected - frame.sequence) % 256
        if back > packet.OLD_SEQUENCES or not self._opened:
            return Frame(frame.sequence, packet.RESEND | packet.ANSWER, self._expected)
        if back == 0:
            self.executed.append(frame)
            self._refused = None if self._refused == frame.sequence else self._refused
            self._expected = (self._expected + 1) % 256
        payload = self._answer(frame, execute=back == 0)
        if back and frame.sequence == self._refused:
            payload = None
        if payload is None:
            self._refused = self._refused if back else frame.sequence
            return Frame(frame.sequence, packet.REFUSED | packet.ANSWER, frame.address)
        return Frame(frame.sequence, frame.type | packet.ANSWER, frame.address, payload)

    def _answer(self, frame: Frame, *, execute: bool) -> bytes | None:
        """None: refused. A repetition changes nothing, and what the machine does by then plays no part."""
        running = self.state.status == Status.RUNNING
        if frame.type in _LENGTHS and len(frame.payload) != _LENGTHS[frame.type]:
            return None
        match frame.type:
            case Type.OPEN | Type.RESET:
                if execute and frame.type == Type.RESET:
                    self._reset()
                return packet.IDENTITY.pack(*self.identity)
            case Type.WRITE:
                if frame.address & _NOT_IN_WRITES:
                    return None
                if not execute:
                    return b""
                return None if running else self._write(frame)
            case Type.READ:
                return None if running else self._read(frame)
            case Type.RUN:
                if execute:
                    if self.state.status not in (Status.IDLE, Status.DONE):
                        return None
                    self._start(packet.Run(*packet.RUN.unpack(frame.payload)))
                return b""
            case Type.CONTINUE:
                if execute:
                    if self.state.status != Status.PAUSED:
                        return None
                    self.state = self.state._replace(status=Status.RUNNING)
                    self._polls = 0
                return b""
            case Type.STATUS:
                self._poll()
                return packet.STATE.pack(*self.state._replace(signature=self.signature * self.signs))
            case Type.COUNTERS:
                return packet.COUNTERS.pack(*self.counters.values())
        return None

    def _write(self, frame: Frame) -> bytes | None:
        space, word = frame.address >> packet.SPACE_SHIFT, frame.address & 0xFFF_FFFF
        if space == Space.ACTIVATION:
            size = self.config.bank_mask_bytes
            mask = int.from_bytes(frame.payload[:size], "little")
            data = np.frombuffer(frame.payload[size:], np.int8)
            if not len(data) or word + len(data) > self.config.activation_depth:
                return None
            banks = [bank for bank in range(self.config.rows) if mask >> bank & 1]
            self.activations[banks, word : word + len(data)] = data
            return b""
        if space not in self.memories:
            return None
        memory = self.memories[Space(space)]
        count, rest = divmod(len(frame.payload), memory.shape[1])
        if rest or not count or word + count > len(memory):
            return None
        start = 0 if space == Space.PROGRAM and word == 0 else self.signature
        self.signature = packet.signature(start, frame.payload)
        memory[word : word + count] = np.frombuffer(frame.payload, np.uint8).reshape(count, -1)
        return b""

    def _read(self, frame: Frame) -> bytes | None:
        count = int.from_bytes(frame.payload, "little")
        bank, word = frame.address >> packet.BANK_SHIFT & 0xFF, frame.address & 0xFFFF
        wrong_space = frame.address >> packet.SPACE_SHIFT != Space.ACTIVATION
        too_far = bank >= self.config.rows or word + count > self.config.activation_depth
        if wrong_space or too_far or len(frame.payload) != 2 or not 1 <= count <= packet.MAX_PAYLOAD:
            return None
        return self.activations[bank, word : word + count].tobytes()

    def _start(self, run: packet.Run) -> None:
        self.last_run = run
        errors = self.counters[Counter.LINK_ERRORS]
        self.counters = {**dict.fromkeys(Counter, 0), Counter.LINK_ERRORS: errors}
        self.state = State(Status.RUNNING, 0, run.pc, 0, 0)
        self._run, self._polls = self._machine(self), 0

    def _poll(self) -> None:
        self._polls += 1
        while self.state.status == Status.RUNNING and self._polls > self._busy_polls:
            try:
                layer = next(self._run)
            except MachineStopError as stop:
                self.state = self.state._replace(status=stop.status, pc=stop.pc)
            except StopIteration:
                self.state = self.state._replace(status=Status.DONE)
            else:
                paused = Status.PAUSED if self.last_run.pause else Status.RUNNING
                self.state = self.state._replace(status=paused, layer=layer)
            self.state = self.state._replace(cycles=self.counters[Counter.CYCLES])


class ModelTransport:
    """A wire to a `DeviceModel` in the same thread; `silent` swallows everything."""

    name = "the model"
    latency = 0.01

    def __init__(self, device: DeviceModel) -> None:
        self.device = device
        self.silent = False
        self.answers_before_silence: int | None = None
        self.closed = False
        self._answers: deque[bytes] = deque()

    def write(self, data: bytes) -> None:
        if not self.silent:
            self._answers.extend(part + b"\0" for part in self.device.receive(data).split(b"\0")[:-1])

    def read(self, timeout: float) -> bytes:
        if not self.silent and self._answers:
            if self.answers_before_silence is not None:
                self.answers_before_silence -= 1
                self.silent = self.answers_before_silence <= 0
            return self._answers.popleft()
        time.sleep(min(timeout, 0.001))
        return b""

    def close(self) -> None:
        self.closed = True


class SlowWire:
    """A wire to a `DeviceModel` in units of one byte time, with the device's FIFO, which can overrun.

    While the device sends an answer it takes nothing out of its FIFO. Both directions move one byte per byte
    time.
    """

    name = "the slow model"
    latency = 0.01

    def __init__(self, device: DeviceModel, fifo_bytes: int) -> None:
        self.overruns = 0
        self.most_waiting = 0
        self._device, self._fifo_bytes = device, fifo_bytes
        self._towards_device: deque[int] = deque()
        self._fifo: deque[int] = deque()
        self._sending: deque[int] = deque()

    def write(self, data: bytes) -> None:
        self._towards_device.extend(data)

    def read(self, timeout: float) -> bytes:
        arrived = bytearray()
        for _ in range(64):
            if self._towards_device:
                byte = self._towards_device.popleft()
                if len(self._fifo) < self._fifo_bytes:
                    self._fifo.append(byte)
                else:
                    self.overruns += 1
            self.most_waiting = max(self.most_waiting, len(self._fifo))
            if self._sending:
                arrived.append(self._sending.popleft())
            while self._fifo and not self._sending:
                self._sending.extend(self._device.receive(bytes([self._fifo.popleft()])))
        if not (arrived or self._towards_device or self._fifo or self._sending):
            time.sleep(min(timeout, 0.001))
        return bytes(arrived)

    def close(self) -> None:
        """Nothing to give free."""


class DeviceThread:
    """Lets a `DeviceModel` answer on a transport of its own (the other end of a serial line) until closed."""

    def __init__(self, device: DeviceModel, wire: Transport) -> None:
        self._device, self._wire = device, wire
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while not self._stop.is_set():
            if data := self._wire.read(0.02):
                self._wire.write(self._device.receive(data))

    def __enter__(self) -> "DeviceThread":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()
