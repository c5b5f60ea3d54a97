"""A host, memories and a machine in Python around a `CommandUnit`, for its tests."""

import random
from collections.abc import Callable
from typing import Any

from amaranth.hdl import Cat
from amaranth.sim import Simulator
from cobs import cobs

from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.commands import CommandUnit
from popshift.hw.isa import Counter, Status
from popshift.hw.packet import ANSWER, Frame, Space, Type
from popshift.hw.tech import Simulated

READ_LATENCY = 4


class Host:
    """Drives a `CommandUnit`: sends frames, returns answers, records what the unit does."""

    def __init__(self, config: AcceleratorConfig, *, stall: float = 0.0, opened: bool = True) -> None:
        self.config, self.stall, self.opened = config, stall, opened
        self.dut = CommandUnit(config=config, read_latency=READ_LATENCY, technology=Simulated())
        self.sequence = 0
        self.writes: list[tuple] = []
        self.strobes: list[tuple] = []
        self.status, self.layer, self.pc, self.cycles = Status.IDLE, 0, 0, 0
        self.counters = [0] * len(Counter)
        self._machine: tuple[int, ...] = ()
        self.cycle = 0
        self._ctx: Any = None
        self._rng = random.Random(1)
        self._addresses = [(0, 0)] * READ_LATENCY

    def run(self, script: Callable) -> None:
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)

        async def bench(ctx):
            self._ctx = ctx
            if self.opened:  # by a session whose last number is 255
                await self.send(encode(Frame(255, Type.OPEN, 0xFFFF_FFFF)))
            self._rng.seed(1)
            await script(self)

        simulator.add_testbench(bench)
        simulator.run()

    @staticmethod
    def activation(bank: int, word: int) -> int:
        return (bank * 57 + word * 11 + (word >> 8)) & 0xFF

    async def _tick(self) -> tuple[bool, bool, int]:
        """One clock with memory and machine; returns (a byte was taken, one came, which)."""
        ctx, dut = self._ctx, self.dut
        machine = (self.status, self.layer, self.pc, self.cycles, *self.counters)
        if machine != self._machine:
            self._machine = machine
            for signal, value in zip(
                (dut.status, dut.layer, dut.pc, dut.cycles, *dut.counters), machine, strict=True
            ):
                ctx.set(signal, value)
        # The data of an address is there `READ_LATENCY` cycles later, whatever the address has become.
        ctx.set(dut.read_data, self.activation(*self._addresses.pop(0)))
        sample = await ctx.tick().sample(
            Cat(dut.rx.valid & dut.rx.ready, dut.tx.valid & dut.tx.ready, dut.tx.payload),
            Cat(dut.activation_write_valid, dut.word_write_space, dut.start, dut.proceed, dut.reset_machine),
            dut.read_bank,
            dut.read_address,
            Cat(dut.activation_write_mask, dut.activation_write_address, dut.activation_write_data),
            Cat(dut.word_write_address, dut.word_write_data),
            Cat(dut.start_pc, dut.pause, dut.cycle_limit),
        )
        link, strobes, bank, address, *values = sample[2:]
        self._addresses.append((bank, address))
        if strobes:
            self._record(strobes, *values)
        self.cycle += 1
        return bool(link & 1), bool(link & 2), link >> 2

    def _record(self, strobes: int, activation: int, word: int, run: int) -> None:
        rows = self.config.rows
        if strobes & 1:
            mask, at = activation & ((1 << rows) - 1), activation >> rows
            self.writes.append(("activation", mask, at & 0xFFFF, at >> 16))
        space = strobes >> 1 & 7
        if space:
            assert space in (1, 2, 4), "two memories are written at once"
            number = Space(space.bit_length())
            size = word_bytes(self.config, number)
            self.writes.append((number, word & 0xFFFFFF, word >> 24 & ((1 << 8 * size) - 1)))
        if strobes & 0x10:
            self.strobes.append(("start", run & 0xFFFF, run >> 16 & 1, run >> 17))
        if strobes & 0x20:
            self.strobes.append(("proceed",))
        if strobes & 0x40:
            self.strobes.append(("reset",))

    async def send(self, stream: bytes, answers: int = 1, *, spare: int = 40) -> list[Frame]:
        """Send bytes; returns the answers, after making sure that `spare` more cycles bring none."""
        ctx, dut, data = self._ctx, self.dut, list(stream)
        received, limit = bytearray(), self.cycle + 60 * len(stream) + 30_000
        left = spare
        while left:
            ctx.set(dut.rx.valid, bool(data) and self._rng.random() >= self.stall)
            ctx.set(dut.rx.payload, data[0] if data else 0)
            ctx.set(dut.tx.ready, self._rng.random() >= self.stall)
            taken, came, byte = await self._tick()
            if taken:
                data.pop(0)
            if came:
                received.append(byte)
            if not data and received.count(0) >= answers:
                left -= 1
            assert self.cycle < limit, f"{received.count(0)} of {answers} answers in time"
        ctx.set(dut.rx.valid, 0)
        parsed = [Frame.parse(cobs.decode(bytes(part))) for part in bytes(received).split(b"\0")[:-1]]
        assert len(parsed) == answers and None not in parsed
        return [frame for frame in parsed if frame is not None]

    async def request(
        self, kind: int, address: int = 0, payload: bytes = b"", *, sequence: int | None = None
    ) -> Frame:
        """One request and its answer, whose sequence, type and address are checked."""
        if sequence is None:
            sequence, self.sequence = self.sequence, (self.sequence + 1) % 256
        frame = Frame(sequence, kind, address, payload)
        (answer,) = await self.send(encode(frame))
        assert answer.sequence == sequence
        if answer.type == ANSWER | packet.RESEND:
            assert answer.payload == b""
        elif answer.type == ANSWER | packet.REFUSED:
            assert (answer.address, answer.payload) == (address, b"")
        else:
            assert (answer.type, answer.address) == (ANSWER | kind, address)
        return answer

    async def done(self, kind: int, address: int = 0, payload: bytes = b"", **options) -> bytes:
        """A request that has to be executed; returns the payload of its answer."""
        answer = await self.request(kind, address, payload, **options)
        assert answer.type == ANSWER | kind
        return answer.payload

    async def refused(self, kind: int, address: int = 0, payload: bytes = b"", **options) -> None:
        """A request that has to be refused without any effect."""
        before = len(self.writes), len(self.strobes)
        answer = await self.request(kind, address, payload, **options)
        assert answer.type == ANSWER | packet.REFUSED
        assert (len(self.writes), len(self.strobes)) == before


def encode(frame: Frame) -> bytes:
    return cobs.encode(frame.body()) + b"\0"


def word_bytes(config: AcceleratorConfig, space: Space) -> int:
    return (1, config.weight_word_bytes, config.parameter_word_bytes, 4)[space]


def depth(config: AcceleratorConfig, space: Space) -> int:
    return (config.activation_depth, config.weight_depth, config.parameter_depth, config.program_depth)[space]
