"""Loop nest of the MATRIX instruction: column tiles, row tiles (one pass each), pixels."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.loops import Loop
from popshift.hw.control.registers import CommandRegisters, command_members, connect_command
from popshift.hw.isa import After, Kind, Opcode
from popshift.hw.pipeline import registered

FEEDER_FIELDS = ("kind", "k_tiles", "slice_tiles", "replays")
"""Fields of the instruction that the weight feeder needs, too."""
WINDOW_FIELDS = ("windows", "x_first", "y_first")
"""Fields of the instruction that the windows need, too."""
PASS_TO_IDLE = 2
"""Cycles from the start of an instruction's last pass until the unit is idle."""
_STREAM_FIELDS = ("x_count", "y_count", "x_step", "y_step", *WINDOW_FIELDS, "x_every", "y_every")
"""Fields that are needed as long as pixels are issued."""


def _bits(field: str) -> int:
    return isa.PLACEMENTS[Opcode.MATRIX][field].field.bits


class MatrixControl(wiring.Component):
    """Issues one pixel a cycle; starts a pass when its weights are loaded and, for a first pass, an
    accumulator half is empty.

    Passes follow each other without a pause if these conditions hold during the last pixel of the one before,
    also from one instruction to the next: the unit is idle when an instruction's last pass has begun, and of
    what that needs there is a copy.

    Members
    -------
    command ports: see `command_members`. Illegal are a PE kind that does not exist and windows that are not
        built, too wide, or of another kind than `DENSE`.
    weight_start, weight_base, weight_more, weight_ready, weight_again, kind, k_tiles, slice_tiles, replays:
        the feeder's.
    half_busy: In: per accumulator half, not yet drained. others_done: the other units are idle and all halves
        are drained. last_strip: all but a POST's last strip is written. others_idle: only with
        ``depthwise``: both other units are idle.
    writing: In: the post unit writes or will, whatever else happens; with ``paired_banks`` no half begins.
        reading: a half's passes are under way.
    pixel, valid, switch: address of the pixel issued; `switch` with the first of a pass.
    counted: the pixel issued has an accumulator. line: it is the first of a line. windows, x_first, y_first:
        the instruction's, raw.
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
                "others_done": In(1),
                "last_strip": In(1),
                **({"others_idle": In(1)} if config.depthwise else {}),
                "writing": In(1),
                "reading": Out(1),
                "pixel": Out(isa.heeded_bits("base", config)),
                "valid": Out(1),
                "switch": Out(1),
                "counted": Out(1),
                "line": Out(1),
                **{name: Out(_bits(name)) for name in WINDOW_FIELDS},
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
        stream = {name: Signal.like(field(name), name=f"stream_{name}") for name in _STREAM_FIELDS}
        x, y = Loop(m, stream["x_count"], "x"), Loop(m, stream["y_count"], "y")
        k, n = Loop(m, field("k_tiles"), "k"), Loop(m, field("n_tiles"), "n")
        first_k = Signal()  # the next pass is the first of a half
        address = Signal(len(field("base")), reset_less=True)
        shifted = Signal.like(address)  # where the next replay begins
        count = Signal(range(config.accumulator_depth + 1))
        clear, last_pass, half, next_half = Signal(), Signal(), Signal(), Signal()

        end_of_pass, start, counted = Signal(), Signal(), Signal()
        prepare = Signal()  # a pass may start: that decides about little, so that it may be known late
        held = Signal()  # the instruction waits for what was handed over in front
        waiting = held | self._last_pass_held(m, command, k.last) if config.depthwise else held
        half_free = ~self.half_busy.bit_select(next_half, 1)
        if config.paired_banks:
            half_free &= ~self.writing
        m.d.comb += [
            end_of_pass.eq(streaming & x.last & y.last),
            prepare.eq(~streaming | end_of_pass),
            start.eq(due & ~waiting & self.weight_ready & (~first_k | half_free) & prepare),
        ]
        m.d.sync += first.eq(start)
        with m.If(streaming):
            m.d.sync += [
                address.eq(address + Mux(x.last, stream["y_step"], stream["x_step"])),
                count.eq(count + counted),
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
            with m.If(first_k & (config.accumulator_halves > 1)):
                m.d.sync += [half.eq(next_half), next_half.eq(~next_half)]
        with m.If(prepare):
            m.d.sync += [copy.eq(field(name)) for name, copy in stream.items()]
            x.restart(field("x_count"))
            y.restart(field("y_count"))
        m.d.comb += counted.eq(self._counted(m, field, stream, x, streaming, prepare))
        # Which pass is next can wait a cycle: its weights are not ready so soon.
        with m.If(first):
            m.d.sync += [first_k.eq(k.last), shifted.eq(address + field("again_step"))]
            k.advance()
            with m.If(k.last):
                n.advance()
                m.d.sync += due.eq(~n.last)
        with m.If(self.take):
            m.d.sync += self.reading.eq(1)
        with m.Elif(self.last):
            m.d.sync += self.reading.eq(0)
        with m.If(self.others_done | (self.last_strip & field("after")[1])):
            m.d.sync += held.eq(0)
        waits_at_start = field("after") != After.NOTHING
        if config.depthwise:
            waits_at_start &= field("after") != After.ALL_FOR_LAST_PASS
        with m.If(command.start):
            m.d.sync += [due.eq(1), first_k.eq(1), held.eq(waits_at_start)]
            for loop in (k, n):
                loop.restart()

        waits, windows = due & ~held & ~streaming, field("windows")
        legal = ~windows
        if config.window_depth:
            legal |= (field("kind") == Kind.DENSE) & (field("x_count") < config.window_depth)
        m.d.comb += [
            command.busy.eq(due),
            command.legal.eq(Cat(field("kind") == kind for kind in isa.kinds(config)).any() & legal),
            *(getattr(self, name).eq(field(name)) for name in FEEDER_FIELDS),
            *(getattr(self, name).eq(stream[name]) for name in WINDOW_FIELDS),
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
            self.counted.eq(counted),
            self.line.eq(registered(m, prepare | x.last, "line")),
            self.overfull.eq(counted & (count == config.accumulator_depth)),
            self.wait_weights.eq(waits & ~self.weight_ready),
            self.wait_accumulators.eq(waits & self.weight_ready & first_k & ~half_free),
        ]
        return m

    def _last_pass_held(self, m: Module, command: CommandRegisters, is_last):
        """The next pass waits for what was handed over in front (`After.ALL_FOR_LAST_PASS`)."""
        held = Signal(name="last_pass_held")
        with m.If(self.others_idle):
            m.d.sync += held.eq(0)
        with m.If(command.start):
            m.d.sync += held.eq(command.field("after") == After.ALL_FOR_LAST_PASS)
        return held & is_last

    def _counted(self, m: Module, field, stream: dict, x: Loop, streaming: Signal, prepare: Signal):
        """Whether the pixel issued has an accumulator."""
        if not self._config.window_depth:
            return streaming
        waits = {axis: Signal(range(8), name=f"{axis}_wait", reset_less=True) for axis in "xy"}
        ends = {axis: waits[axis] == 0 for axis in "xy"}
        following = {axis: Mux(ends[axis], stream[f"{axis}_every"], waits[axis] - 1) for axis in "xy"}
        with m.If(x.last):
            m.d.sync += [waits["x"].eq(stream["x_first"]), waits["y"].eq(following["y"])]
        with m.Else():
            m.d.sync += waits["x"].eq(following["x"])
        with m.If(prepare):
            m.d.sync += [waits[axis].eq(field(f"{axis}_first")) for axis in "xy"]
        return streaming & (~stream["windows"] | (ends["x"] & ends["y"]))
