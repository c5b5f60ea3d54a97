"""A host, memories and a machine in Python around a `CommandUnit`, for its tests."""

import random
from collections.abc import Callable
from typing import Any

from amaranth.sim import Simulator
from cobs import cobs

from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.commands import CommandUnit
from popshift.hw.isa import Counter, Status
from popshift.hw.packet import ANSWER, Frame, Space

READ_LATENCY = 4


class Host:
    """Drives a `CommandUnit`: sends frames, returns answers, records what the unit does."""

    def __init__(self, config: AcceleratorConfig, *, stall: float = 0.0) -> None:
        self.config, self.stall = config, stall
        self.dut = CommandUnit(config=config, read_latency=READ_LATENCY)
        self.sequence = 0
        self.writes: list[tuple] = []
        self.strobes: list[tuple] = []
        self.status, self.layer, self.pc, self.cycles = Status.IDLE, 0, 0, 0
        self.counters = [0] * len(Counter)
        self._counters_set = list(self.counters)
        self.cycle = 0
        self._ctx: Any = None
        self._rng = random.Random(1)
        self._address = [(0, 0)] * (READ_LATENCY + 1)

    def run(self, script: Callable) -> None:
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)

        async def bench(ctx):
            self._ctx = ctx
            await script(self)

        simulator.add_testbench(bench)
        simulator.run()

    @staticmethod
    def activation(bank: int, word: int) -> int:
        return (bank * 57 + word * 11 + (word >> 8)) & 0xFF

    async def _tick(self) -> tuple[bool, bool, int]:
        """One clock with memory and machine; returns (a byte was taken, one came, which)."""
        ctx, dut = self._ctx, self.dut
        ctx.set(dut.status, self.status)
        ctx.set(dut.layer, self.layer)
        ctx.set(dut.pc, self.pc)
        ctx.set(dut.cycles, self.cycles)
        if self.counters != self._counters_set:
            self._counters_set = list(self.counters)
            for index, value in enumerate(self.counters):
                ctx.set(dut.counters[index], value)
        # The data of an address is there `READ_LATENCY` cycles later and then only.
        self._address = [(ctx.get(dut.read_bank), ctx.get(dut.read_address)), *self._address[:-1]]
        ctx.set(dut.read_data, self.activation(*self._address[READ_LATENCY]))
        self._record()
        taken = ctx.get(dut.rx.valid & dut.rx.ready)
        came, byte = ctx.get(dut.tx.valid & dut.tx.ready), ctx.get(dut.tx.payload)
        await ctx.tick()
        self.cycle += 1
        return bool(taken), bool(came), byte

    def _record(self) -> None:
        ctx, dut = self._ctx, self.dut
        if ctx.get(dut.activation_write_valid):
            at = ctx.get(dut.activation_write_address), ctx.get(dut.activation_write_data)
            self.writes.append(("activation", ctx.get(dut.activation_write_mask), *at))
        space = ctx.get(dut.word_write_space)
        if space:
            assert space in (1, 2, 4)
            number = Space(space.bit_length())
            size = word_bytes(self.config, number)
            value = ctx.get(dut.word_write_data) & ((1 << 8 * size) - 1)
            self.writes.append((number, ctx.get(dut.word_write_address), value))
        if ctx.get(dut.start):
            setting = ctx.get(dut.start_pc), ctx.get(dut.pause), ctx.get(dut.cycle_limit)
            self.strobes.append(("start", *setting))
        if ctx.get(dut.proceed):
            self.strobes.append(("proceed",))
        if ctx.get(dut.reset_machine):
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
