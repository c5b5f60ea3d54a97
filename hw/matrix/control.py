"""Loop nest of the MATRIX instruction: column tiles, row tiles (one pass each), pixels."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import ADDRESS_BITS, AcceleratorConfig
from popshift.hw.control.registers import CommandRegisters, command_members, connect_command
from popshift.hw.isa import Opcode
from popshift.hw.matrix.feeder import WEIGHT_ADDRESS_BITS


class MatrixControl(wiring.Component):
    """Issues one pixel a cycle; starts a pass when its weights are loaded and, for a first pass, an
    accumulator half is empty.

    Passes follow each other without a pause if these conditions hold during the last pixel of the one before.

    Members
    -------
    command ports: see `command_members`. idle: the next instruction may come. illegal: the instruction asks
        for a PE kind that does not exist.
    weight_start, weight_base, weight_more, weight_ready: the feeder's.
    half_busy: In: per accumulator half, not yet drained.
    pixel, valid, switch: address of the pixel issued; `switch` with the first of a pass.
    clear: the pass does not add to what the accumulators hold. half: the half it works in.
    take: the half named by `take_half` is taken (from the next cycle on). last: the last pixel of a half's
        last pass.
    outside, overfull: the pixel address is beyond the memory; more pixels than a half holds.
    wait_weights, wait_accumulators: a pass is due and waits for this.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                **command_members(),
                "idle": Out(1),
                "illegal": Out(1),
                "weight_start": Out(1),
                "weight_base": Out(WEIGHT_ADDRESS_BITS),
                "weight_more": Out(1),
                "weight_ready": In(1),
                "half_busy": In(2),
                "pixel": Out(ADDRESS_BITS),
                "valid": Out(1),
                "switch": Out(1),
                "clear": Out(1),
                "half": Out(1),
                "take": Out(1),
                "take_half": Out(1),
                "last": Out(1),
                "outside": Out(1),
                "overfull": Out(1),
                "wait_weights": Out(1),
                "wait_accumulators": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.command = command = CommandRegisters(Opcode.MATRIX)
        connect_command(m, self, command)
        field = command.field

        due, streaming, first = Signal(), Signal(), Signal()
        x, y = Signal.like(field("x_count")), Signal.like(field("y_count"))
        k, n = Signal.like(field("k_tiles")), Signal.like(field("n_tiles"))
        address = Signal(ADDRESS_BITS, reset_less=True)
        count = Signal(range(config.accumulator_depth + 1))
        clear, last_pass, half, next_half = Signal(), Signal(), Signal(), Signal()

        end_of_row, end_of_pass, start = Signal(), Signal(), Signal()
        half_free = ~self.half_busy.bit_select(next_half, 1)
        m.d.comb += [
            end_of_row.eq(x == field("x_count")),
            end_of_pass.eq(streaming & end_of_row & (y == field("y_count"))),
            start.eq(due & self.weight_ready & ((k != 0) | half_free) & (~streaming | end_of_pass)),
        ]
        m.d.sync += first.eq(start)
        with m.If(streaming):
            m.d.sync += [
                x.eq(Mux(end_of_row, 0, x + 1)),
                y.eq(y + end_of_row),
                address.eq(address + Mux(end_of_row, field("y_step"), field("x_step"))),
                count.eq(count + 1),
            ]
        with m.If(end_of_pass):
            m.d.sync += streaming.eq(0)
        with m.If(start):
            m.d.sync += [
                streaming.eq(1),
                x.eq(0),
                y.eq(0),
                address.eq(field("base")),
                count.eq(0),
                clear.eq(k == 0),
                last_pass.eq(k == field("k_tiles")),
                k.eq(k + 1),
            ]
            with m.If(k == field("k_tiles")):
                m.d.sync += [k.eq(0), n.eq(n + 1), due.eq(n != field("n_tiles"))]
            with m.If(k == 0):
                m.d.sync += [half.eq(next_half), next_half.eq(~next_half)]
        with m.If(self.go & ~self.illegal):
            m.d.sync += [due.eq(1), k.eq(0), n.eq(0)]

        m.d.comb += [
            self.idle.eq(~due & ~streaming),
            self.illegal.eq(field("kind") >= len(config.pe_kinds)),
            self.weight_start.eq(self.go),
            self.weight_base.eq(field("weight_base")),
            self.weight_more.eq(due),
            self.pixel.eq(address),
            self.valid.eq(streaming),
            self.switch.eq(first),
            self.clear.eq(clear),
            self.half.eq(half),
            self.take.eq(start & (k == 0)),
            self.take_half.eq(next_half),
            self.last.eq(end_of_pass & last_pass),
            self.outside.eq(streaming & (address >= config.activation_depth)),
            self.overfull.eq(streaming & (count == config.accumulator_depth)),
            self.wait_weights.eq(due & ~streaming & ~self.weight_ready),
            self.wait_accumulators.eq(due & ~streaming & self.weight_ready & (k == 0) & ~half_free),
        ]
        return m
