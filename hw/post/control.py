"""Loop nest of the POST instruction: which value comes next, and where its result goes."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.loops import Loop
from popshift.hw.control.registers import CommandRegisters, command_members, connect_command
from popshift.hw.isa import Opcode, Source
from popshift.hw.numerics import BASIS_SIZE

RELEASE_LATENCY = 1
"""Cycles from the issue of a half's last element to `release`."""

ELEMENT = data.StructLayout(
    {
        "valid": 1,
        "row_end": 1,  # the next pixel begins a row
        "pixel_end": 1,  # the next element belongs to another pixel
        "area_end": 1,  # the next pixel begins the x/y rectangle again
        "plane_end": 1,  # and does so one plane further
        "mask_restart": 1,  # the next element belongs to the first group again
        "mask_shift": 1,  # or to the next group
    }
)
"""What travels through the pipeline with every element, so that the writing side needs no counters."""


COLUMN = data.StructLayout({"valid": 1, "first": 1, "last": 1})
"""One column of an input, from a half with sums over columns of Ce; it may be the input's first or last."""


class PostControl(wiring.Component):
    """Walks through the elements of an instruction, one a cycle.

    Members
    -------
    command ports: see `command_members`. Illegal are a source that does not exist and a period above the
        number of bank groups.
    full: strobe: another accumulator half can be drained. release: strobe: the current one has been,
        `RELEASE_LATENCY` cycles before.
    window: strobe: the channel unit delivers a finished window. channel_active: it may deliver.
    drained: the pipeline is empty.
    issuing: a value is taken. column: what it is if it is a column of an input. single: the instruction's.
    element: of this cycle; not every column completes one. source: where its value comes from.
    address, chunk, half: of the accumulators. group: of the channel unit's window.
    parameter_address: of the element's parameters. outside: it lies beyond the parameter memory.
    overfull: the rectangle has more pixels than an accumulator half.
    zero_point, low, high, base, x_step, y_step, plane_step, mask: the instruction's, for the pipeline's end.
    begin: a new instruction begins.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        self._command = command = CommandRegisters(Opcode.POST, config)
        passed_on = ("zero_point", "low", "high", "base", "x_step", "y_step", "plane_step", "mask")
        self._passed_on = passed_on
        super().__init__(
            {
                **command_members(),
                "full": In(1),
                "release": Out(1),
                "window": In(1),
                "channel_active": Out(1),
                "drained": In(1),
                "issuing": Out(1),
                "single": Out(1),
                "element": Out(ELEMENT),
                "column": Out(COLUMN),
                "source": Out(Source),
                "address": Out((config.accumulator_depth - 1).bit_length()),
                "chunk": Out(range(max(2, config.chunks))),
                "half": Out(1),
                "group": Out(range(max(2, config.bank_groups))),
                "parameter_address": Out((config.parameter_depth - 1).bit_length()),
                "outside": Out(1),
                "overfull": Out(1),
                "begin": Out(1),
                **{name: Out(len(command.field(name))) for name in passed_on},
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.command = command = self._command
        connect_command(m, self, command)
        field = command.field
        source = field("source")

        x, y = Loop(m, field("x_count"), "x"), Loop(m, field("y_count"), "y")
        chunks, period = Loop(m, field("chunks"), "chunk"), Loop(m, field("period"), "group")
        group = Signal(range(max(2, config.bank_groups)))  # within the plane
        column = Signal.like(self.chunk)  # group of columns within the half
        address = Signal.like(self.address)
        parameter = Signal(len(field("parameter_base")), reset_less=True)
        plane_parameter = Signal.like(parameter)
        waiting_halves, half_waits = Signal(2), Signal()
        half, holds_window = Signal(), Signal()

        # Elements are still to be issued, from the source named.
        active = [Signal(name=f"from_{s.name.lower()}") for s in isa.sources(config)]
        from_matrix, from_channel, fill = active[:3]
        from_basis = active[3] if config.has_basis else Const(0, 1)
        from_half = from_matrix | from_basis
        per_half = Mux(source == Source.BASIS, isa.basis_groups(config) - 1, config.chunks - 1)
        columns = Loop(m, per_half if config.has_basis else Const(config.chunks - 1, len(column)), "column")
        issue, area_end, done, release = Signal(), Signal(), Signal(), Signal()
        group_end, last_column = period.last, columns.last
        m.d.comb += [
            issue.eq(fill | (from_half & half_waits) | (from_channel & holds_window)),
            area_end.eq(x.last & y.last),
        ]
        last_j, completes = self._inputs(m, command, issue & from_basis, x.last)
        moves = from_matrix | (from_basis & last_j)  # on to the next accumulator
        next_pixel = Mux(from_channel, group_end, ~from_basis | completes)
        with m.If(issue & next_pixel):
            x.advance()
            with m.If(x.last):
                y.advance()
            with m.If(area_end):
                chunks.advance()
                m.d.comb += done.eq(chunks.last)
        with m.If(issue & (from_channel | (from_half & next_pixel & area_end))):
            period.advance()
            m.d.sync += group.eq(Mux(group_end, 0, group + 1))
        with m.If(issue & from_half):
            m.d.sync += address.eq(address + moves)
            with m.If(next_pixel & area_end):
                m.d.sync += [
                    address.eq(0),
                    parameter.eq(parameter + (~field("uniform") | from_basis)),
                    column.eq(column + 1),
                ]
                columns.advance()
                with m.If(last_column | chunks.last):
                    m.d.sync += [half.eq(~half), column.eq(0)]
                    columns.restart()
                    m.d.comb += release.eq(1)
            with m.Elif(from_basis):
                step = Mux(last_j, -(BASIS_SIZE - 1), 1)
                m.d.sync += [parameter.eq(parameter + step), column.eq(column + step)]
        with m.If(issue & from_channel):
            m.d.sync += parameter.eq(parameter + ~field("uniform"))
            with m.If(group_end):
                m.d.sync += [parameter.eq(plane_parameter), holds_window.eq(self.window)]
                with m.If(area_end & ~field("uniform")):
                    m.d.sync += [parameter.eq(parameter + 1), plane_parameter.eq(parameter + 1)]
        with m.Else(), m.If(self.window):
            m.d.sync += holds_window.eq(1)
        m.d.sync += self.release.eq(release)
        with m.If(self.full & ~release):
            m.d.sync += [waiting_halves.eq(waiting_halves + 1), half_waits.eq(1)]
        with m.Elif(release & ~self.full):
            m.d.sync += [waiting_halves.eq(waiting_halves - 1), half_waits.eq(waiting_halves != 1)]
        with m.If(done):
            m.d.sync += [*(signal.eq(0) for signal in active), holds_window.eq(0)]
        with m.If(command.start):
            m.d.sync += [
                *(signal.eq(source == s) for signal, s in zip(active, Source, strict=False)),
                group.eq(0),
                column.eq(0),
                address.eq(0),
                parameter.eq(field("parameter_base")),
                plane_parameter.eq(field("parameter_base")),
                holds_window.eq(0),
            ]
            for loop in (x, y, chunks, period, columns):
                loop.restart()
        m.d.comb += [
            command.busy.eq(Cat(*active).any() | ~self.drained),
            command.legal.eq((source < len(active)) & (field("period") < config.bank_groups)),
            self.begin.eq(command.start),
            self.channel_active.eq(from_channel),
            self.issuing.eq(issue),
            self.element.valid.eq(issue & (~from_basis | completes)),
            self.element.row_end.eq(x.last),
            self.element.pixel_end.eq(next_pixel),
            self.element.area_end.eq(area_end),
            self.element.plane_end.eq(fill | from_channel | group_end),
            self.element.mask_restart.eq(fill | (group_end & (from_channel | area_end))),
            self.element.mask_shift.eq(from_channel | area_end),
            self.source.eq(source),
            self.address.eq(address),
            self.chunk.eq(column),
            self.half.eq(half),
            self.group.eq(group),
            self.parameter_address.eq(parameter),
            self.outside.eq(issue & ~fill & (parameter >= config.parameter_depth)),
            self.overfull.eq(
                issue & moves & ~(next_pixel & area_end) & (address == config.accumulator_depth - 1)
            ),
        ]
        m.d.comb += [getattr(self, name).eq(field(name)) for name in self._passed_on]
        return m

    def _inputs(self, m: Module, command: CommandRegisters, issue, row_end) -> tuple:
        """The columns of the inputs that a row of outputs is combined from, and which input completes one.

        A row begins with `BASIS_SIZE` inputs for the first output; then every output takes `stride` more.
        """
        if not self._config.has_basis:
            return Const(0, 1), Const(1, 1)
        at = [Signal(name=f"column_{j}", init=j == 0) for j in range(BASIS_SIZE)]
        left, completes = Signal(5), Signal()  # inputs left before the one that completes an output
        last_j = at[-1]
        with m.If(issue):
            m.d.sync += Cat(*at).eq(Cat(at[-1], *at[:-1]))
        of_first = Mux(command.field("single"), 0, BASIS_SIZE - 1)
        more = Mux(row_end, of_first, command.field("stride"))
        with m.If(issue & last_j):
            m.d.sync += [left.eq(left - 1), completes.eq(left == 1)]
            with m.If(completes):
                m.d.sync += [left.eq(more), completes.eq(more == 0)]
        with m.If(command.start):
            m.d.sync += [left.eq(of_first), completes.eq(of_first == 0)]
        m.d.comb += [
            self.single.eq(command.field("single")),
            self.column.valid.eq(issue),
            self.column.first.eq(at[0]),
            self.column.last.eq(last_j),
        ]
        return last_j, last_j & completes
