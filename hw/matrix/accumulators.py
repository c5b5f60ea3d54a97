"""Accumulators: two halves per column, one filled by the mesh while the other is drained by the post unit."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.memory.ram import Ram
from popshift.hw.pipeline import choose_near, registered
from popshift.hw.tech.portable import Portable

READ_AHEAD = Ram.LATENCY + 2
"""Cycles from `valid` until the sum it belongs to must be there: address, memory, old value."""
WRITE_BEHIND = READ_AHEAD + 1
"""Cycles from `valid` until the new value can be read."""


class Accumulators(wiring.Component):
    """Read, add, write: ``half[pixel] = (clear ? 0 : half[pixel]) + sum``, pixels counted from 0 in every
    pass.

    A pixel may be visited again `REVISIT` cycles later.

    Members
    -------
    valid, first, clear, half: one pixel's sums come `READ_AHEAD` cycles later at column tile 0, and a cycle
        later for each further column tile; `first`, with a valid pixel or before one, restarts the count.
    sums: one per column, skewed by column tile.
    drain_address, drain_chunk, drain_half: read `post_lanes` columns of the other half.
    drained: their values, `DRAIN_LATENCY` cycles later.
    """

    DRAIN_LATENCY = Ram.LATENCY + 2
    REVISIT = WRITE_BEHIND

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        bits = (config.accumulator_depth - 1).bit_length()
        self._bits = bits
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "clear": In(1),
                "half": In(1),
                "sums": In(data.ArrayLayout(signed(config.psum_bits), config.cols)),
                "drain_address": In(bits),
                "drain_chunk": In(range(max(2, config.chunks))),
                "drain_half": In(1),
                "drained": Out(data.ArrayLayout(signed(config.accumulator_width), config.post_lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        address = Signal(self._bits, reset_less=True)
        valid, clear, half = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [valid.eq(self.valid), clear.eq(self.clear), half.eq(self.half)]
        with m.If(self.valid | self.first):
            m.d.sync += address.eq(Mux(self.first, (~self.valid).replicate(len(address)), address + 1))
        wave = (valid, address, clear, half)

        stored: list[list[Signal]] = []
        for j in range(config.mesh_cols):
            if j:
                wave = self._next(m, wave, f"wave_{j}")
            stages = [wave]
            for step in range(WRITE_BEHIND - 1):
                stages.append(self._next(m, stages[-1], f"stage_{j}_{step}"))
            for c in range(config.tile_cols):
                stored.append(self._column(m, j * config.tile_cols + c, stages))
        self._drain(m, stored)
        return m

    @staticmethod
    def _next(m: Module, wave, name: str) -> tuple[Signal, ...]:
        valid, *rest = wave
        later = (registered(m, value, f"{name}_{i}") for i, value in enumerate(rest))
        return registered(m, valid, f"{name}_valid", reset=True), *later

    def _column(self, m: Module, column: int, stages) -> list[Signal]:
        """The memory of each half of one column, and its adder; returns what their read ports show."""
        config, width = self._config, self._config.accumulator_width
        valid, address, _, half = stages[0]
        write_valid, write_address, _, write_half = stages[WRITE_BEHIND - 1]
        total = Signal(signed(width), name=f"total_{column}", reset_less=True)
        reads = []
        for index in range(config.accumulator_halves):
            ram = self._technology.ram(width=width, depth=config.accumulator_depth)
            m.submodules[f"column_{column}_half_{index}"] = ram
            m.d.comb += [
                ram.read_address.eq(Mux(valid & (half == index), address, self.drain_address)),
                ram.write_enable.eq(write_valid & (write_half == index)),
                ram.write_address.eq(write_address),
                ram.write_data.eq(total),
            ]
            reads.append(ram.read_data)
        _, _, clear, from_half = stages[Ram.LATENCY]
        old = Signal(signed(width), name=f"old_{column}", reset_less=True)
        m.d.sync += [
            old.eq(Mux(clear, 0, Mux(from_half, reads[-1], reads[0]))),
            total.eq(old + self.sums[column]),
        ]
        return reads

    def _drain(self, m: Module, stored: list[list[Signal]]) -> None:
        config = self._config
        chunk, half = self.drain_chunk, self.drain_half
        for step in range(Ram.LATENCY):
            chunk, half = (
                registered(m, chunk, f"chunk_{step}"),
                registered(m, half, f"half_{step}"),
            )
        half = registered(m, half, "half_select")
        for lane in range(config.post_lanes):
            found = []
            for index in range(config.accumulator_halves):
                columns = [memories[index] for memories in stored[lane :: config.post_lanes]]
                chosen, far = choose_near(m, columns, chunk, f"lane_{lane}_half_{index}")
                found.append(Array(chosen)[far])
            value = Mux(half, found[-1], found[0])
            m.d.comb += self.drained[lane].eq(registered(m, value, f"lane_{lane}"))
