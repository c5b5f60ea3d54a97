"""The post unit: drains accumulators or windows, requantises, writes activations; and fills padding."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import numerics
from popshift.hw.channel.unit import READ_TO_MEMORY, VALUES_LATENCY
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.registers import command_members, connect_command
from popshift.hw.isa import Source, sources
from popshift.hw.matrix.accumulators import Accumulators
from popshift.hw.memory.activations import ActivationMemory, address_bits
from popshift.hw.memory.ram import Ram
from popshift.hw.numerics import BASIS_SIZE
from popshift.hw.pipeline import delayed, registered
from popshift.hw.post import basis, requantise
from popshift.hw.post.basis import BasisLane
from popshift.hw.post.control import LATE, PostControl
from popshift.hw.post.elements import ELEMENT, Walk, area_ends, groups_end, pixel_ends, row_ends
from popshift.hw.post.requantise import RequantiseLane
from popshift.hw.post.sums import SUM_LATENCY, SumLane, Sums
from popshift.hw.tech.portable import Portable

assert BASIS_SIZE + 1 <= basis.LATENCY < 2 * BASIS_SIZE + 1, "factors wait in two registers for their sum"
assert VALUES_LATENCY == Ram.LATENCY, "the channel unit's values and their parameters arrive together"

WRITE_TO_READ = READ_TO_MEMORY - ActivationMemory.WRITE_LATENCY
"""Cycles from when the channel unit decides to read until a write request meets its address at the memory."""


def _factors(config: AcceleratorConfig) -> dict:
    """What requantisation needs of a channel."""
    return {
        "bias": signed(numerics.BIAS_BITS),
        "multiplier": config.requantise.multiplier_bits,
        "shift": numerics.SHIFT_BITS,
    }


def parameter_word(config: AcceleratorConfig) -> data.ArrayLayout:
    """One word of the parameter memory (`popshift.hw.isa.pack_parameter`)."""
    row = {"basis": data.ArrayLayout(signed(numerics.BASIS_BITS), numerics.BASIS_SIZE)}
    lane = data.StructLayout({**_factors(config), **(row if config.has_basis else {})})
    assert lane.size == config.parameter_bits
    return data.ArrayLayout(lane, config.post_lanes)


def issue_to_write(config: AcceleratorConfig, source: Source) -> int:
    """Cycles from an element's issue to its write request to the activation memory; of an ADD there are
    `SUM_LATENCY` more.
    """
    arrival = {
        Source.MATRIX: Accumulators.DRAIN_LATENCY,
        Source.BASIS: Accumulators.DRAIN_LATENCY + basis.LATENCY,
    }
    return arrival.get(source, VALUES_LATENCY) + requantise.latency(config.requantise)


def longest_flight(config: AcceleratorConfig) -> int:
    """The same for the slowest source that the configuration has; the unit is busy as long after any."""
    return max(issue_to_write(config, source) for source in sources(config))


def _travel(m: Module, element: data.View, cycles: int, name: str) -> data.View:
    """An element some cycles later."""
    valid = delayed(m, element.valid, cycles, f"{name}_valid", reset=True)
    rest = delayed(m, element.as_value()[1:], cycles, name)
    return data.View(ELEMENT, Cat(valid, rest))


class PostUnit(wiring.Component):
    """Executes POST instructions; a result a cycle and lane.

    Members
    -------
    command ports. full, release, drain_*, drained: the matrix unit's accumulators.
    window, channel_active: see `PostControl`. window_group: the group of the window wanted. window_values:
        its values, `VALUES_LATENCY` cycles later.
    parameter_address, parameter_data: read port of the parameter memory.
    write_mask (one bit per bank group), write_lanes (one bit per bank of a group), write_address, write_data:
        to the activation memory. bytes_there: only with ``residual``: from there, see `ActivationMemory`.
    last_strip: the last strip of an instruction has begun, and all of those before has been written.
    reading, committed: see `PostControl`. write_soon: `WRITE_TO_READ` cycles later something is written.
    issuing, writing: an element is taken, written in this cycle. outside_parameters, outside_activations,
        overfull: errors.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        lanes = config.post_lanes
        super().__init__(
            {
                **command_members(),
                "full": In(1),
                "release": Out(1),
                "drain_address": Out((config.accumulator_depth - 1).bit_length()),
                "drain_chunk": Out(range(max(2, config.chunks))),
                "drain_half": Out(1),
                "drained": In(data.ArrayLayout(signed(config.accumulator_width), lanes)),
                "window": In(1),
                "channel_active": Out(1),
                "window_group": Out(range(max(2, config.bank_groups))),
                "window_values": In(data.ArrayLayout(signed(config.window_bits), lanes)),
                "parameter_address": Out((config.parameter_depth - 1).bit_length()),
                "parameter_data": In(parameter_word(config)),
                "write_mask": Out(config.bank_groups),
                "write_lanes": Out(config.post_lanes),
                "write_address": Out(address_bits(config)),
                "write_data": Out(data.ArrayLayout(8, lanes)),
                **({"bytes_there": In(data.ArrayLayout(8, config.rows))} if config.residual else {}),
                "last_strip": Out(1),
                "reading": In(1),
                "committed": Out(1),
                "write_soon": Out(1),
                "issuing": Out(1),
                "writing": Out(1),
                "outside_parameters": Out(1),
                "outside_activations": Out(1),
                "overfull": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.control = control = PostControl(config=config)
        connect_command(m, self, control)
        m.d.comb += [
            control.full.eq(self.full),
            control.window.eq(self.window),
            self.release.eq(control.release),
            self.drain_address.eq(control.address),
            self.drain_chunk.eq(control.chunk),
            self.drain_half.eq(control.half),
            self.channel_active.eq(control.channel_active),
            self.window_group.eq(control.group),
            self.issuing.eq(control.issuing),
            self.committed.eq(control.committed),
            control.reading.eq(self.reading),
            self.outside_parameters.eq(control.outside),
            self.overfull.eq(control.overfull),
        ]
        # Registers: the instruction stands still long before its first value comes.
        from_basis = registered(m, control.source == Source.BASIS, "from_basis")
        from_half = registered(m, control.source == Source.MATRIX, "from_matrix")
        if config.has_basis:
            from_half = registered(
                m, (control.source == Source.MATRIX) | (control.source == Source.BASIS), "from_half"
            )
        # Accumulators take longer than the other values: their parameters are asked for later, their elements
        # wait longer.
        wait = Accumulators.DRAIN_LATENCY - VALUES_LATENCY
        late_address = control.late_parameter_address
        if config.has_packing:
            assert wait == LATE
        else:
            late_address = delayed(m, control.parameter_address, wait, "parameter_address")
        sums = None
        if config.residual:
            entry = Accumulators.DRAIN_LATENCY
            sums = Sums(m, control, config, entry=entry, parameters=VALUES_LATENCY)
            m.d.comb += sums.reader.bytes_there.eq(self.bytes_there)
            late_address = sums.parameter_address(late_address)
        m.d.comb += self.parameter_address.eq(Mux(from_half, late_address, control.parameter_address))
        issued = Signal(ELEMENT)
        late_element = _travel(m, control.element, wait, "element_late")
        m.d.comb += issued.eq(Mux(from_half, late_element.as_value(), control.element.as_value()))
        if config.has_basis:
            combined = Signal(ELEMENT)
            latest = _travel(m, late_element, basis.LATENCY, "element_latest")
            m.d.comb += combined.eq(Mux(from_basis, latest.as_value(), issued.as_value()))
            issued = combined
        travel = VALUES_LATENCY + requantise.latency(config.requantise)
        before = _travel(m, issued, travel - WRITE_TO_READ, "element_before")
        m.d.comb += self.write_soon.eq(before.valid)
        early = _travel(m, before, WRITE_TO_READ - 1, "element_early")
        if sums is not None:
            early = sums.early_element(early)
        element = _travel(m, early, 1, "element")
        step = registered(m, Mux(row_ends(early), control.y_step, control.x_step), "step")

        values = self._lanes(m, control, from_half, from_basis, sums)
        if config.has_packing:
            byte = self._packed(m, values)
            values = [Mux(control.packed, byte, value) for value in values]
        self._write(m, control, element, step, sums)
        m.d.comb += [lane.eq(value) for lane, value in zip(self.write_data, values, strict=True)]
        # Busy from the first element until the last has been written.
        longest = longest_flight(config) + 1
        more = SUM_LATENCY if config.residual else 0
        flight, strip_flight = (
            Signal(range(longest + more + 1), name=name) for name in ("flight", "strip_flight")
        )
        for left, begins in ((flight, control.issuing), (strip_flight, control.next_strip)):
            with m.If(begins):
                m.d.sync += left.eq(longest + Mux(control.adding, more, 0))
            with m.Elif(left != 0):
                m.d.sync += left.eq(left - 1)
        m.d.comb += [
            control.drained.eq(flight == 0),
            self.last_strip.eq(control.in_last & (strip_flight == 0)),
        ]
        return m

    def _lanes(
        self,
        m: Module,
        control: PostControl,
        from_half,
        from_basis,
        sums: Sums | None,
    ) -> list[Signal]:
        config = self._config
        fill = registered(m, control.source == Source.FILL, "fill")
        limits = {  # a filled element is one whose clamp leaves nothing but the zero point
            "zero_point": control.zero_point,
            "low": Mux(fill, control.zero_point, control.low),
            "high": Mux(fill, control.zero_point, control.high),
        }
        if sums is not None:
            limits = sums.limits(config.requantise, limits)
            from_half = from_half & sums.takes_accumulator
        else:
            limits |= {name: registered(m, limits[name], name) for name in ("low", "high")}
        results = []
        for index in range(config.post_lanes):
            lane = RequantiseLane(config=config, technology=self._technology)
            m.submodules[f"lane_{index}"] = lane
            factors = Signal(data.StructLayout(_factors(config)), name=f"factors_{index}")
            value = Signal(signed(config.post_bits), name=f"value_{index}")
            other = self.window_values[index]
            if sums is not None:
                m.submodules[f"sum_{index}"] = sum_lane = SumLane(config=config)
                m.d.comb += [
                    sum_lane.turn.eq(sums.turn),
                    sum_lane.scale_result.eq(control.scale_result),
                    sum_lane.byte.eq(sums.reader.bytes[index]),
                    sum_lane.activation.eq(lane.activation),
                    sum_lane.scaled.eq(lane.scaled),
                ]
                other = Mux(sums.adding, sum_lane.value, other)
            m.d.comb += [
                factors.eq(self.parameter_data[index].as_value()[: len(factors.as_value())]),
                value.eq(Mux(from_half, self.drained[index], other)),
            ]
            if config.has_basis:
                value, factors = self._combined(m, index, control, from_basis, value, factors)
            m.d.comb += [
                lane.accumulator.eq(value),
                lane.bias.eq(factors.bias),
                lane.multiplier.eq(factors.multiplier),
                lane.shift.eq(factors.shift),
                *(getattr(lane, name).eq(limit.as_signed()) for name, limit in limits.items()),
            ]
            results.append(lane.activation)
        return results

    def _combined(self, m: Module, index: int, control: PostControl, from_basis, value, factors) -> tuple:
        """The value and its factors, or those of the sum that has been combined with the basis."""
        m.submodules[f"basis_{index}"] = lane = BasisLane(technology=self._technology)
        column = control.column
        latency = Accumulators.DRAIN_LATENCY
        valid = delayed(m, column.valid, latency, f"column_valid_{index}", reset=True)
        first = delayed(m, column.first, latency, f"column_first_{index}")
        last = valid & delayed(m, column.last, latency, f"column_last_{index}")
        # The factors come with the last column of every input, `BASIS_SIZE` cycles apart at least, and wait
        # for the sum.
        early, kept = (Signal(factors.shape(), name=f"kept_{index}_{i}", reset_less=True) for i in range(2))
        with m.If(last):
            m.d.sync += early.eq(factors)
        with m.If(delayed(m, last, BASIS_SIZE, f"column_done_{index}", reset=True)):
            m.d.sync += kept.eq(early)
        m.d.comb += [
            lane.valid.eq(valid),
            lane.first.eq(first),
            lane.single.eq(control.single),
            lane.value.eq(self.drained[index]),
            lane.basis.eq(self.parameter_data[index].basis),
        ]
        chosen = Signal.like(value, name=f"chosen_{index}")
        chosen_factors = Signal(factors.shape(), name=f"chosen_factors_{index}")
        m.d.comb += [
            chosen.eq(Mux(from_basis, lane.sum, value)),
            chosen_factors.eq(Mux(from_basis, kept.as_value(), factors.as_value())),
        ]
        return chosen, chosen_factors

    def _packed(self, m: Module, values: list[Signal]):
        """The signs of the last 8 results, the oldest lowest: groups of a byte come in consecutive cycles."""
        signs = Cat(*(~value[-1] for value in values))
        groups = [signs]
        for number in range(1, self._config.groups_of_byte):
            groups.append(registered(m, groups[-1], f"signs_{number}"))
        return Cat(*reversed(groups))

    def _write(self, m: Module, control: PostControl, element, step: Signal, sums: Sums | None) -> None:
        config, reader = self._config, None if sums is None else sums.reader
        walk = Walk(m, element, step, control, name="write")
        address = walk.address
        mask = Signal(config.bank_groups, reset_less=True)
        lane = Signal.like(control.first_bank, reset_less=True)
        with m.If(element.valid):
            # A channel unit's pixel has all groups, a half's group all pixels; a FILL has one mask.
            from_half = (control.source == Source.MATRIX) | (control.source == Source.BASIS)
            restart = Mux(control.source == Source.CHANNEL, pixel_ends(element), 1)
            with m.If(Mux(from_half, groups_end(element), restart)):
                m.d.sync += [mask.eq(control.mask), lane.eq(control.first_bank)]
            with m.Elif(~from_half | area_ends(element)):
                last_lane = Const(1, 1)
                if config.post_lanes > 1:
                    last_lane = ~control.packed | (lane == config.post_lanes - 1)
                    m.d.sync += lane.eq(lane + 1)
                with m.If(last_lane):
                    m.d.sync += mask.eq(mask << 1)
        with m.If(control.begin):
            walk.begin(m)
            m.d.sync += [mask.eq(control.mask), lane.eq(control.first_bank)]
        outside = address >= config.activation_depth
        m.d.comb += [
            self.writing.eq(element.valid),
            self.outside_activations.eq((element.valid & outside) | (reader.outside if reader else 0)),
            self.write_mask.eq(Mux(element.valid & ~outside, mask, 0)),
            self.write_lanes.eq(~control.packed.replicate(config.post_lanes) | (1 << lane)),
            self.write_address.eq(Mux(reader.element.valid, reader.address, address) if reader else address),
        ]
