"""Loop nest of the POST instruction: which value comes next, and where its result goes."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.loops import Loop
from popshift.hw.control.registers import CommandRegisters, command_members, connect_command
from popshift.hw.isa import EDGE_CLASSES, Edge, Opcode, Source
from popshift.hw.numerics import BASIS_SIZE
from popshift.hw.pipeline import delayed, registered
from popshift.hw.post.elements import ELEMENT, Next, pixel_ends

RELEASE_LATENCY = 1
"""Cycles from the issue of a half's last element to `release`."""

LATE = 2
"""Cycles that the parameters of an accumulator are asked for after its address."""

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
    late_parameter_address: the same for an element from a half, `LATE` cycles later; only with packing.
    packed: signs are written. first_bank: the instruction's.
    overfull: the rectangle has more pixels than an accumulator half.
    zero_point, low, high, base, x_step, y_step, plane_step, mask: the instruction's, for the pipeline's end.
    reading: the matrix unit reads activations: nothing may be written that it does not wait for; 0 without
        ``paired_banks``. committed: something is written, or will be without the matrix unit.
    begin: a new instruction begins. next_strip: the last element of a strip in front of another is issued.
        in_last: the last strip has begun.
    may_take: an accumulator may be taken; without ``residual`` always. adding: the instruction is an ADD; its
        fields are passed on, too.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        self._outside_late = Signal()
        longest = Opcode.ADD if config.residual else Opcode.POST
        self._command = command = CommandRegisters(longest, config)
        passed_on = ["zero_point", "low", "high", "base", "x_step", "y_step", "plane_step", "mask"]
        if config.residual:
            own = isa.PLACEMENTS[Opcode.ADD].keys() - isa.PLACEMENTS[Opcode.POST].keys()
            passed_on += [*sorted(own), "parameter_base"]
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
                "late_parameter_address": Out((config.parameter_depth - 1).bit_length()),
                "packed": Out(1),
                "first_bank": Out(max(1, (config.post_lanes - 1).bit_length())),
                "outside": Out(1),
                "overfull": Out(1),
                "begin": Out(1),
                "next_strip": Out(1),
                "in_last": Out(1),
                "reading": In(1),
                "committed": Out(1),
                "may_take": In(1, init=1),
                "adding": Out(1),
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
        strips = Loop(m, field("strips"), "strip")
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
        columns = Loop(m, self._per_half(source, len(column)), "column")
        issue, area_end, strip_end, release = Signal(), Signal(), Signal(), Signal()
        group_end, last_column = period.last, columns.last
        m.d.comb += [
            issue.eq(
                (fill & ~self.reading)
                | (from_half & half_waits & self.may_take)
                | (from_channel & holds_window)
            ),
            self.adding.eq(command.opcode == Opcode.ADD),
            area_end.eq(x.last & y.last),
        ]
        last_j, completes = self._inputs(m, command, issue & from_basis, x.last)
        last_group = self._groups_of_byte(m, command, issue & ~from_basis & ~fill)
        moves = (from_matrix & last_group) | (from_basis & last_j)  # on to the next accumulator
        next_pixel = Mux(from_channel, group_end, Mux(from_basis, completes, last_group))
        next_word = ~field("uniform") | from_basis
        with m.If(issue & next_pixel):
            x.advance()
            with m.If(x.last):
                y.advance()
            with m.If(area_end):
                chunks.advance()
                m.d.comb += strip_end.eq(chunks.last)
        with m.If(issue & (from_channel | (from_half & next_pixel & area_end))):
            period.advance()
            m.d.sync += group.eq(Mux(group_end, 0, group + 1))
        with m.If(issue & from_half):
            m.d.sync += address.eq(address + moves)
            with m.If(next_pixel & area_end):
                m.d.sync += [
                    address.eq(0),
                    parameter.eq(parameter + next_word),
                    column.eq(column + 1),
                ]
                columns.advance()
                with m.If(last_column | chunks.last):
                    m.d.sync += [half.eq(~half if config.accumulator_halves > 1 else 0), column.eq(0)]
                    columns.restart()
                    m.d.comb += release.eq(1)
            with m.Elif(from_basis):
                step = Mux(last_j, -(BASIS_SIZE - 1), 1)
                m.d.sync += [parameter.eq(parameter + step), column.eq(column + step)]
            if config.has_packing and config.groups_of_byte > 1:
                with m.Elif(self.packed):
                    step = Mux(last_group, -(config.groups_of_byte - 1), 1)
                    m.d.sync += column.eq(column + step)
                    with m.If(next_word):
                        m.d.sync += parameter.eq(parameter + step)
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
        with m.If(strip_end):
            strips.advance()
            with m.If(strips.last):
                m.d.sync += [*(signal.eq(0) for signal in active), holds_window.eq(0)]
        with m.If(Cat(*active).any() & strips.last):
            m.d.sync += self.in_last.eq(1)
        with m.If(command.start):
            m.d.sync += [
                self.in_last.eq(0),
                *(signal.eq(source == s) for signal, s in zip(active, Source, strict=False)),
                column.eq(0),
                address.eq(0),
                holds_window.eq(0),
            ]
            for loop in (x, y, chunks, strips, columns):
                loop.restart()
        with m.If(command.start | strip_end):
            m.d.sync += [
                group.eq(0),
                parameter.eq(field("parameter_base")),
                plane_parameter.eq(field("parameter_base")),
            ]
            period.restart()
        m.d.comb += [
            command.busy.eq(Cat(*active).any() | ~self.drained),
            command.legal.eq(self._legal(command)),
            self.begin.eq(command.start),
            self.next_strip.eq(strip_end & ~strips.last),
            self.channel_active.eq(from_channel & ~self.reading),
            self.committed.eq(fill | from_channel | ~self.drained),
            self.issuing.eq(issue),
            self.element.valid.eq(issue & Mux(from_basis, completes, last_group)),
            self.source.eq(source),
            self.address.eq(address),
            self.chunk.eq(column),
            self.half.eq(half),
            self.group.eq(group),
            self.parameter_address.eq(parameter),
            self.overfull.eq(
                issue & moves & ~(next_pixel & area_end) & (address == config.accumulator_depth - 1)
            ),
        ]
        with m.If(~next_pixel):
            m.d.comb += self.element.next.eq(Next.PIXEL_AGAIN)
        with m.Elif(~x.last):
            m.d.comb += self.element.next.eq(Next.PIXEL)
        with m.Elif(~y.last):
            m.d.comb += self.element.next.eq(Next.ROW)
        with m.Elif(chunks.last):
            m.d.comb += self.element.next.eq(Next.STRIP)
        with m.Else():  # the groups of FILL and CHANNEL are in one plane
            m.d.comb += self.element.next.eq(Mux(~from_half | group_end, Next.PLANE, Next.AREA))
        m.d.comb += [getattr(self, name).eq(field(name)) for name in self._passed_on]
        outside = issue & ~fill & (parameter >= config.parameter_depth)
        if config.has_packing:
            self._classes(m, command, issue & from_matrix, (x, y), parameter)
            outside |= self._outside_late
        m.d.comb += self.outside.eq(outside)
        return m

    def _per_half(self, source, bits: int):
        """Loop limit of what a half holds (`isa.groups_per_half`)."""
        config = self._config
        limit = Const(config.chunks - 1, bits)
        if config.has_basis:
            limit = Mux(source == Source.BASIS, isa.basis_groups(config) - 1, limit)
        if config.has_packing and config.groups_of_byte > 1:
            limit = Mux(self.packed, config.chunks // config.groups_of_byte - 1, limit)
        return limit

    def _legal(self, command: CommandRegisters):
        """As `isa.illegal_fields` has it."""
        config, field = self._config, command.field
        source, period = field("source"), field("period")
        known, short = source < len(isa.sources(config)), period < config.bank_groups
        if config.residual:
            wrong = (source != Source.MATRIX) | self.packed | (field("parameter_base") < isa.ADDEND_WORDS)
            known = known & ~(self.adding & wrong)
        if not config.has_packing:
            return known & short
        whole = (period & (config.groups_of_byte - 1)) == config.groups_of_byte - 1
        bytes_fit = Mux(source == Source.MATRIX, period < config.rows, short & whole)
        packable = ~(field("packed") & (source == Source.BASIS))
        return known & packable & Mux(self.packed, bytes_fit, short)

    def _groups_of_byte(self, m: Module, command: CommandRegisters, issue):
        """Whether the group issued is the last that its element takes: signs of several fill a byte."""
        config, field = self._config, command.field
        if not config.has_packing:
            return Const(1, 1)
        m.d.comb += [
            self.packed.eq(field("packed") & (field("source") != Source.FILL)),
            self.first_bank.eq(field("first_bank") if config.post_lanes > 1 else 0),
        ]
        if config.groups_of_byte == 1:
            return Const(1, 1)
        groups = Loop(m, Const(config.groups_of_byte - 1, 3), "byte_group")
        with m.If(issue):
            groups.advance()
        with m.If(command.start):
            groups.restart()
        return ~self.packed | groups.last

    def _classes(self, m: Module, command: CommandRegisters, issue, loops, parameter) -> None:
        """Parameters of a pixel at an edge, `LATE` cycles later."""
        config, field, words = self._config, command.field, command.field("class_words")
        x, y = loops
        first_x, first_y = Signal(), Signal()
        with m.If(pixel_ends(self.element) & self.issuing):
            m.d.sync += first_x.eq(x.last)
            with m.If(x.last):
                m.d.sync += first_y.eq(y.last)
        with m.If(command.start):
            m.d.sync += [first_x.eq(1), first_y.eq(1)]
        on_edge = {Edge.LEFT: first_x, Edge.RIGHT: x.last, Edge.TOP: first_y, Edge.BOTTOM: y.last}
        thrice = registered(m, words + (words << 1), "class_words_thrice")
        behind = {Edge.LEFT: words, Edge.RIGHT: words << 1, Edge.TOP: thrice, Edge.BOTTOM: thrice << 1}
        sides = {edge: Mux(field("edges")[edge] & on_edge[edge], behind[edge], 0) for edge in Edge}
        across = registered(m, sides[Edge.LEFT] + sides[Edge.RIGHT], "class_across")
        down = registered(m, sides[Edge.TOP] + sides[Edge.BOTTOM], "class_down")
        # From other sources than MATRIX there are no classes: then this is what is added to nothing.
        with m.If(~issue):
            m.d.sync += [across.eq(0), down.eq(0)]
        early = registered(m, parameter, "parameter_early")
        late = registered(m, early + across + down, "parameter_late")
        issued = delayed(m, issue, LATE, "issued_late", reset=True)
        m.d.comb += [
            self.late_parameter_address.eq(late),
            self._outside_late.eq(issued & (late >= config.parameter_depth)),
        ]

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


assert EDGE_CLASSES == {Edge.LEFT: 1, Edge.RIGHT: 2, Edge.TOP: 3, Edge.BOTTOM: 6}, "as `_classes` adds them"
