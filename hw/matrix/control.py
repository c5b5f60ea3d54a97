"""Loop nest of the MATRIX instruction: column tiles, row tiles (one pass each), pixels."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.loops import Loop
from popshift.hw.control.registers import CommandRegisters, command_members, connect_command
from popshift.hw.isa import Opcode

FEEDER_FIELDS = ("kind", "k_tiles", "slice_tiles", "replays")
"""Fields of the instruction that the weight feeder needs, too."""


def _bits(field: str) -> int:
    return isa.PLACEMENTS[Opcode.MATRIX][field].field.bits


class MatrixControl(wiring.Component):
    """Issues one pixel a cycle; starts a pass when its weights are loaded and, for a first pass, an
    accumulator half is empty.

    Passes follow each other without a pause if these conditions hold during the last pixel of the one before.

    Members
    -------
    command ports: see `command_members`. Illegal is a PE kind that does not exist.
    weight_start, weight_base, weight_more, weight_ready, weight_again, kind, k_tiles, slice_tiles, replays:
        the feeder's.
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
                "weight_start": Out(1),
                "weight_base": Out(isa.heeded_bits("weight_base", config)),
                "weight_more": Out(1),
                "weight_ready": In(1),
                "weight_again": In(1),
                **{name: Out(_bits(name)) for name in FEEDER_FIELDS},
                "half_busy": In(2),
                "pixel": Out(isa.heeded_bits("base", config)),
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
        m.submodules.command = command = CommandRegisters(Opcode.MATRIX, config)
        connect_command(m, self, command)
        field = command.field

        due, streaming, first = Signal(), Signal(), Signal()
        x, y = Loop(m, field("x_count"), "x"), Loop(m, field("y_count"), "y")
        k, n = Loop(m, field("k_tiles"), "k"), Loop(m, field("n_tiles"), "n")
        first_k = Signal()  # the next pass is the first of a half
        address = Signal(len(field("base")), reset_less=True)
        shifted = Signal.like(address)  # where the next replay begins
        count = Signal(range(config.accumulator_depth + 1))
        clear, last_pass, half, next_half = Signal(), Signal(), Signal(), Signal()

        end_of_pass, start = Signal(), Signal()
        half_free = ~self.half_busy.bit_select(next_half, 1)
        m.d.comb += [
            end_of_pass.eq(streaming & x.last & y.last),
            start.eq(due & self.weight_ready & (~first_k | half_free) & (~streaming | end_of_pass)),
        ]
        m.d.sync += first.eq(start)
        with m.If(streaming):
            m.d.sync += [
                address.eq(address + Mux(x.last, field("y_step"), field("x_step"))),
                count.eq(count + 1),
            ]
            x.advance()
            with m.If(x.last):
                y.advance()
        with m.If(end_of_pass):
            m.d.sync += streaming.eq(0)
        with m.If(start):
            m.d.sync += [
                streaming.eq(1),
                address.eq(Mux(self.weight_again, shifted, field("base"))),
                count.eq(0),
                clear.eq(first_k),
                last_pass.eq(k.last),
            ]
            with m.If(first_k):
                m.d.sync += [half.eq(next_half), next_half.eq(~next_half)]
        # Which pass is next can wait a cycle: its weights are not ready so soon.
        with m.If(first):
            m.d.sync += [first_k.eq(k.last), shifted.eq(address + field("again_step"))]
            k.advance()
            with m.If(k.last):
                n.advance()
                m.d.sync += due.eq(~n.last)
        with m.If(command.start):
            m.d.sync += [due.eq(1), first_k.eq(1)]
            for loop in (x, y, k, n):
                loop.restart()

        m.d.comb += [
            command.busy.eq(due | streaming),
            command.legal.eq(Cat(field("kind") == kind for kind in isa.kinds(config)).any()),
            *(getattr(self, name).eq(field(name)) for name in FEEDER_FIELDS),
            self.weight_start.eq(command.start),
            self.weight_base.eq(field("weight_base")),
            self.weight_more.eq(due),
            self.pixel.eq(address),
            self.valid.eq(streaming),
            self.switch.eq(first),
            self.clear.eq(clear),
            self.half.eq(half),
            self.take.eq(start & first_k),
            self.take_half.eq(next_half),
            self.last.eq(end_of_pass & last_pass),
            self.outside.eq(streaming & (address >= config.activation_depth)),
            self.overfull.eq(streaming & (count == config.accumulator_depth)),
            self.wait_weights.eq(due & ~streaming & ~self.weight_ready),
            self.wait_accumulators.eq(due & ~streaming & self.weight_ready & first_k & ~half_free),
        ]
        return m
