"""The channel unit: work that stays within a channel, on all banks at once."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.channel.columns import CHOICE_LATENCY, Columns, sums_latency
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.loops import Loop
from popshift.hw.control.registers import CommandRegisters, command_members, connect_command
from popshift.hw.isa import WINDOW, ChannelOperation, Opcode, operations, tap_words
from popshift.hw.memory.activations import ActivationMemory, address_bits
from popshift.hw.memory.ram import Ram
from popshift.hw.pipeline import choose_near, delayed, registered
from popshift.hw.tech.portable import Portable

ACTIVE_LATENCY = 1
"""Cycles from `active` until the unit heeds it."""
READ_TO_MEMORY = 3
"""Cycles from the unit's decision to the address at the memory: the choice of the step, its own register, the
gather's.
"""
READ_LATENCY = READ_TO_MEMORY + ActivationMemory.LATENCY
"""The same to the bytes of all banks."""
_FOLD_LATENCY = 2
VALUES_LATENCY = 2
"""Cycles from a group to its values: as long as the post unit waits for its parameters."""


def fold_latency(config: AcceleratorConfig) -> int:
    """Cycles from the bytes to the window that has taken them in."""
    return max(_FOLD_LATENCY, sums_latency(config)) if config.depthwise else _FOLD_LATENCY


def loading_cycles(config: AcceleratorConfig) -> int:
    """Cycles in which a DEPTHWISE reads its weights, before its first tap."""
    return config.bank_groups * tap_words(config)


assert READ_LATENCY > Ram.LATENCY, "the first tap's byte meets all weights"


class ChannelUnit(wiring.Component):
    """Pooling: folds windows to their maximum, sum or bitwise or, one word (a byte of every bank) a cycle.
    With ``depthwise``, multiplies them, too (`Columns`).

    A finished window is held for the post unit, which takes it group by group: windows end at least
    ``period`` cycles apart.

    Members
    -------
    command ports: see `command_members`. Illegal are an operation that does not exist, a period above the
        number of bank groups, and columns of DEPTHWISE that are too high or too many.
    address: of all banks; `addressing` says that it holds. reading: strobe, two cycles before that.
    activations: the bytes, `READ_LATENCY` cycles after `reading`.
    written: the memory has no time to read in the cycle of this one's address (``paired_banks``,
        ``depthwise``).
    parameter_reading, parameter_address, parameter_data, outside_parameters: only with ``depthwise``: of the
        parameter memory, whose data come `Ram.LATENCY` cycles later; nobody else reads it then. The address
        lies beyond it.
    active: the post unit takes windows; heeded `ACTIVE_LATENCY` cycles later. window: strobe: a window is
        finished.
    group: the group of channels wanted. values: theirs, `VALUES_LATENCY` cycles later.
    outside: the address lies beyond the memory.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        self._opcode = Opcode.DEPTHWISE if config.depthwise else Opcode.CHANNEL
        self._command = command = CommandRegisters(self._opcode, config)
        parameters = {}
        if config.depthwise:
            parameters = {
                "parameter_reading": Out(1),
                "parameter_address": Out(len(command.field("parameter_base"))),
                "parameter_data": In(config.post_lanes * config.parameter_bits),
                "outside_parameters": Out(1),
            }
        super().__init__(
            {
                **command_members(),
                "address": Out(address_bits(config)),
                "reading": Out(1),
                "written": In(1),
                "addressing": Out(1),
                "activations": In(data.ArrayLayout(signed(8), config.rows)),
                "active": In(1),
                "window": Out(1),
                "group": In(range(max(2, config.bank_groups))),
                "values": Out(data.ArrayLayout(signed(config.window_bits), config.post_lanes)),
                "outside": Out(1),
                **parameters,
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.command = command = self._command
        connect_command(m, self, command)
        field = command.field

        running = Signal()
        address = Signal(len(field("base")), reset_less=True)
        names = ("kx", "ky", "x", "y", "plane")  # innermost first
        counts = [field("planes" if name == "plane" else f"{name}_count") for name in names]
        loops = [Loop(m, count, name) for name, count in zip(names, counts, strict=True)]
        steps = [field(f"{name}_step") for name in names]
        last_tap, first_tap = loops[0].last & loops[1].last, Signal()
        spacing = Signal.like(field("period"))  # cycles until the window before has been taken
        spaced = Signal(init=1)  # spacing == 0
        active, issue = Signal(), Signal()
        m.d.sync += active.eq(self.active)
        ends = last_tap  # a window
        ready = running & active
        if config.depthwise:
            ends = last_tap & self._windows(m, command, issue & last_tap, loops[2].last)
            ready &= self._loaded(m, command, ready)
        m.d.comb += issue.eq(ready & (~ends | spaced) & ~self.written)
        with m.If(~spaced):
            m.d.sync += [spacing.eq(spacing - 1), spaced.eq(spacing == 1)]
        # The step is chosen in the cycle of the issue, added in the next.
        issued = registered(m, issue, "issued", reset=True)
        chosen = Signal.like(steps[0], name="chosen_step", reset_less=True)
        with m.If(issued):
            m.d.sync += address.eq(address + chosen)
        with m.If(issue):
            with m.If(ends):
                m.d.sync += [spacing.eq(field("period")), spaced.eq(field("period") == 0)]
            step, inner = steps[-1], issue
            for loop, own_step in zip(reversed(loops[:-1]), reversed(steps[:-1]), strict=True):
                step = Mux(loop.last, step, own_step)
            m.d.sync += [chosen.eq(step), first_tap.eq(last_tap)]
            for loop in loops:
                with m.If(inner):
                    loop.advance()
                inner = inner & loop.last
            with m.If(inner):
                m.d.sync += running.eq(0)
        with m.If(command.start):
            m.d.sync += [running.eq(1), address.eq(field("base")), first_tap.eq(1)]
            for loop in loops:
                loop.restart()

        flags = [issue, issue & first_tap, issue & ends]
        for step in range(READ_LATENCY + fold_latency(config) - 1):
            flags = [
                registered(m, flag, f"{n}_{step}", reset=True)
                for n, flag in zip(("valid", "first", "last"), flags, strict=True)
            ]
        valid, first, last = flags
        own_address = Signal(address_bits(config), reset_less=True)
        m.d.sync += [own_address.eq(address), self.addressing.eq(issued)]
        m.d.comb += [
            command.busy.eq(running),
            command.legal.eq(self._legal(command)),
            self.address.eq(own_address),
            self.reading.eq(issue),
            self.outside.eq(issued & (address >= config.activation_depth)),
        ]
        sums = None
        if config.depthwise:
            sums = self._columns(m, command, issue, last_tap, loops[2].last, valid, first)
        self._fold(m, field("operation"), valid, first, last, sums)
        return m

    def _legal(self, command: CommandRegisters):
        """As `isa.illegal_fields` has it."""
        config, field = self._config, command.field
        known = field("operation") <= max(operations(config))
        if config.depthwise:
            one = (field("kx_count") == 0) & (field("planes") == 0) & (field("ky_count") < WINDOW)
            known = Mux(self._multiplies(command), one, known)
        return known & (field("period") < config.bank_groups)

    def _multiplies(self, command: CommandRegisters):
        """The instruction is a DEPTHWISE; steady from its second word on."""
        return command.opcode == Opcode.DEPTHWISE

    def _windows(self, m: Module, command: CommandRegisters, column_ends, last_column):
        """Whether the column ends a window: any of a pool does."""
        field = command.field
        left = Signal(len(field("x_every")), name="columns_left")  # in front of the next window's last
        due = Signal(name="window_due", init=1)
        of_line, next_one = field("x_first"), field("x_every")
        following = Mux(last_column, of_line, Mux(due, next_one, left - 1))
        with m.If(column_ends):
            m.d.sync += [left.eq(following), due.eq(following == 0)]
        with m.If(command.start):
            m.d.sync += [left.eq(of_line), due.eq(of_line == 0)]
        return ~self._multiplies(command) | due

    def _loaded(self, m: Module, command: CommandRegisters, may_load):
        """Read the weights; whether this is done, or there is nothing to read."""
        config = self._config
        cycles = loading_cycles(config)
        left, loaded = Signal(range(cycles + 1), name="words_left"), Signal(name="weights_loaded")
        address = Signal.like(self.parameter_address, reset_less=True)
        reading = may_load & ~loaded
        with m.If(reading):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1), loaded.eq(left == 1)]
        with m.If(command.start):
            m.d.sync += [
                address.eq(command.field("parameter_base")),
                left.eq(cycles),
                loaded.eq(~self._multiplies(command)),
            ]
        m.d.comb += [
            self.parameter_reading.eq(reading),
            self.parameter_address.eq(address),
            self.outside_parameters.eq(reading & (address >= config.parameter_depth)),
        ]
        return loaded

    def _columns(self, m: Module, command: CommandRegisters, issue, last_tap, last_column, valid, first):
        """The sums of products; valid, first: as for a fold."""
        config = self._config
        row, begins = Signal(range(WINDOW), name="row"), Signal(name="line_begins")
        with m.If(issue):
            m.d.sync += row.eq(Mux(last_tap, 0, row + 1))
            with m.If(last_tap):
                m.d.sync += begins.eq(last_column)
        with m.If(command.start):
            m.d.sync += [row.eq(0), begins.eq(1)]
        m.submodules.columns = columns = Columns(config=config, technology=self._technology)
        behind = fold_latency(config) - sums_latency(config)  # what pools need longer
        to_bytes = READ_LATENCY - CHOICE_LATENCY + behind
        to_sums = READ_LATENCY + fold_latency(config) - 1
        bytes_now = [delayed(m, byte, behind, f"late_{bank}") for bank, byte in enumerate(self.activations)]
        m.d.comb += [
            columns.load.eq(delayed(m, self.parameter_reading, Ram.LATENCY, "load", reset=True)),
            columns.word.eq(self.parameter_data),
            columns.row.eq(delayed(m, row, to_bytes, "row")),
            *(own.eq(byte) for own, byte in zip(columns.activations, bytes_now, strict=True)),
            columns.valid.eq(valid),
            columns.first.eq(first),
            columns.begins.eq(delayed(m, begins, to_sums, "line_begins")),
        ]
        return columns.sums

    def _fold(self, m: Module, operation, valid, first, last, sums) -> None:
        maximum = operation == ChannelOperation.MAX
        config = self._config
        waits = fold_latency(config) - _FOLD_LATENCY
        bits = config.window_bits
        held = []
        finished = registered(m, last, "finished", reset=True)
        for bank in range(config.rows):
            value, result = (
                Signal(signed(bits), name=f"fold_{bank}", reset_less=True),
                Signal(signed(bits), name=f"held_{bank}", reset_less=True),
            )
            byte = delayed(m, self.activations[bank], waits, f"byte_{bank}")
            x = registered(m, byte, f"activation_{bank}")
            addend = registered(m, Mux(maximum, 0, byte), f"addend_{bank}", shape=byte.shape())
            # A maximum is a byte, whatever a window of sums may hold.
            larger = maximum & (value[:8].as_signed() < x)
            folded = value + addend
            if config.has_packing:
                folded = Mux(operation == ChannelOperation.OR, value | x, folded)
            with m.If(valid):
                m.d.sync += value.eq(Mux(first | larger, x, folded))
            with m.If(finished):
                m.d.sync += result.eq(
                    value if sums is None else Mux(self._multiplies(self._command), sums[bank], value)
                )
            held.append(result)
        m.d.comb += self.window.eq(finished)
        for lane in range(config.post_lanes):
            chosen, far = choose_near(m, held[lane :: config.post_lanes], self.group, f"near_{lane}")
            m.d.comb += self.values[lane].eq(registered(m, Array(chosen)[far], f"value_{lane}"))
