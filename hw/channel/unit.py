"""The channel unit: work that stays within a channel, on all banks at once."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.loops import Loop
from popshift.hw.control.registers import CommandRegisters, command_members, connect_command
from popshift.hw.isa import ChannelOperation, Opcode, operations
from popshift.hw.memory.activations import ActivationMemory, address_bits
from popshift.hw.pipeline import choose_near, registered

ACTIVE_LATENCY = 1
"""Cycles from `active` until the unit heeds it."""
READ_TO_MEMORY = 3
"""Cycles from the unit's decision to the address at the memory: the choice of the step, its own register, the
gather's.
"""
READ_LATENCY = READ_TO_MEMORY + ActivationMemory.LATENCY
"""The same to the bytes of all banks."""
FOLD_LATENCY = 2
"""Cycles from the bytes to the window that has taken them in."""
VALUES_LATENCY = 2
"""Cycles from a group to its values: as long as the post unit waits for its parameters."""


class ChannelUnit(wiring.Component):
    """Pooling: folds windows to their maximum, sum or bitwise or, one word (a byte of every bank) a cycle.

    A finished window is held for the post unit, which takes it group by group: windows end at least
    ``period`` cycles apart.

    Members
    -------
    command ports: see `command_members`. Illegal are an operation that does not exist and a period above the
        number of bank groups.
    address: of all banks; `addressing` says that it holds. reading: strobe, two cycles before that.
    activations: the bytes, `READ_LATENCY` cycles after `reading`.
    written: the memory has no time to read in the cycle of this one's address (``paired_banks``).
    active: the post unit takes windows; heeded `ACTIVE_LATENCY` cycles later. window: strobe: a window is
        finished.
    group: the group of channels wanted. values: theirs, `VALUES_LATENCY` cycles later.
    outside: the address lies beyond the memory.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
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
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.command = command = CommandRegisters(Opcode.CHANNEL, config)
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
        m.d.comb += issue.eq(running & active & (~last_tap | spaced) & ~self.written)
        with m.If(~spaced):
            m.d.sync += [spacing.eq(spacing - 1), spaced.eq(spacing == 1)]
        # The step is chosen in the cycle of the issue, added in the next.
        issued = registered(m, issue, "issued", reset=True)
        chosen = Signal.like(steps[0], name="chosen_step", reset_less=True)
        with m.If(issued):
            m.d.sync += address.eq(address + chosen)
        with m.If(issue):
            with m.If(last_tap):
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

        flags = [issue, issue & first_tap, issue & last_tap]
        for step in range(READ_LATENCY + FOLD_LATENCY - 1):
            flags = [
                registered(m, flag, f"{n}_{step}", reset=True)
                for n, flag in zip(("valid", "first", "last"), flags, strict=True)
            ]
        valid, first, last = flags
        own_address = Signal(address_bits(config), reset_less=True)
        m.d.sync += [own_address.eq(address), self.addressing.eq(issued)]
        m.d.comb += [
            command.busy.eq(running),
            command.legal.eq(
                (field("operation") <= max(operations(config))) & (field("period") < config.bank_groups)
            ),
            self.address.eq(own_address),
            self.reading.eq(issue),
            self.outside.eq(issued & (address >= config.activation_depth)),
        ]
        self._fold(m, field("operation"), valid, first, last)
        return m

    def _fold(self, m: Module, operation, valid, first, last) -> None:
        maximum = operation == ChannelOperation.MAX
        config = self._config
        bits = config.window_bits
        held = []
        finished = registered(m, last, "finished", reset=True)
        for bank in range(config.rows):
            value, result = (
                Signal(signed(bits), name=f"fold_{bank}", reset_less=True),
                Signal(signed(bits), name=f"held_{bank}", reset_less=True),
            )
            byte = self.activations[bank]
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
                m.d.sync += result.eq(value)
            held.append(result)
        m.d.comb += self.window.eq(finished)
        for lane in range(config.post_lanes):
            chosen, far = choose_near(m, held[lane :: config.post_lanes], self.group, f"near_{lane}")
            m.d.comb += self.values[lane].eq(registered(m, Array(chosen)[far], f"value_{lane}"))
