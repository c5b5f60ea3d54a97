"""The post unit: drains accumulators or windows, requantises, writes activations; and fills padding."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import numerics
from popshift.hw.channel.unit import VALUES_LATENCY
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.registers import command_members, connect_command
from popshift.hw.isa import Source
from popshift.hw.matrix.accumulators import Accumulators
from popshift.hw.memory.activations import address_bits
from popshift.hw.memory.ram import Ram
from popshift.hw.pipeline import delayed, registered
from popshift.hw.post import requantise
from popshift.hw.post.control import ELEMENT, PostControl
from popshift.hw.post.requantise import RequantiseLane
from popshift.hw.tech.portable import Portable

assert VALUES_LATENCY == Ram.LATENCY, "the channel unit's values and their parameters arrive together"


def parameter_word(config: AcceleratorConfig) -> data.ArrayLayout:
    """One word of the parameter memory (`popshift.hw.isa.pack_parameter`)."""
    lane = data.StructLayout(
        {
            "bias": signed(numerics.BIAS_BITS),
            "multiplier": config.requantise.multiplier_bits,
            "shift": numerics.SHIFT_BITS,
        }
    )
    assert lane.size == config.parameter_bits
    return data.ArrayLayout(lane, config.post_lanes)


def issue_to_write(config: AcceleratorConfig, source: Source) -> int:
    """Cycles from an element's issue to its write request to the activation memory."""
    arrival = Accumulators.DRAIN_LATENCY if source is Source.MATRIX else VALUES_LATENCY
    return arrival + requantise.latency(config.requantise)


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
    write_mask (one bit per bank group), write_address, write_data: to the activation memory.
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
                "write_address": Out(address_bits(config)),
                "write_data": Out(data.ArrayLayout(8, lanes)),
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
            self.issuing.eq(control.element.valid),
            self.outside_parameters.eq(control.outside),
            self.overfull.eq(control.overfull),
        ]
        # Registers: the instruction stands still long before its first value comes.
        from_matrix = registered(m, control.source == Source.MATRIX, "from_matrix")
        # The matrix unit's values take longer than the others: its parameters are asked for later, its
        # elements wait longer.
        wait = Accumulators.DRAIN_LATENCY - VALUES_LATENCY
        late_address = delayed(m, control.parameter_address, wait, "parameter_address")
        m.d.comb += self.parameter_address.eq(Mux(from_matrix, late_address, control.parameter_address))
        issued = Signal(ELEMENT)
        late_element = _travel(m, control.element, wait, "element_late")
        m.d.comb += issued.eq(Mux(from_matrix, late_element.as_value(), control.element.as_value()))
        travel = VALUES_LATENCY + requantise.latency(config.requantise)
        early = _travel(m, issued, travel - 1, "element_early")
        element = _travel(m, early, 1, "element")
        step = registered(m, Mux(early.row_end, control.y_step, control.x_step), "step")

        values = self._lanes(m, control, from_matrix)
        self._write(m, control, element, step)
        m.d.comb += [lane.eq(value) for lane, value in zip(self.write_data, values, strict=True)]
        # Busy from the first element until the last has been written.
        flight = Signal(range(travel + wait + 2))
        with m.If(control.element.valid):
            m.d.sync += flight.eq(travel + wait + 1)
        with m.Elif(flight != 0):
            m.d.sync += flight.eq(flight - 1)
        m.d.comb += control.drained.eq(flight == 0)
        return m

    def _lanes(self, m: Module, control: PostControl, from_matrix) -> list[Signal]:
        config = self._config
        fill = registered(m, control.source == Source.FILL, "fill")
        low, high = Signal(signed(8), reset_less=True), Signal(signed(8), reset_less=True)
        m.d.sync += [  # a filled element is one whose clamp leaves nothing but the zero point
            low.eq(Mux(fill, control.zero_point, control.low)),
            high.eq(Mux(fill, control.zero_point, control.high)),
        ]
        results = []
        for index in range(config.post_lanes):
            lane = RequantiseLane(config=config, technology=self._technology)
            m.submodules[f"lane_{index}"] = lane
            parameters = self.parameter_data[index]
            m.d.comb += [
                lane.accumulator.eq(Mux(from_matrix, self.drained[index], self.window_values[index])),
                lane.bias.eq(parameters.bias),
                lane.multiplier.eq(parameters.multiplier),
                lane.shift.eq(parameters.shift),
                lane.zero_point.eq(control.zero_point.as_signed()),
                lane.low.eq(low),
                lane.high.eq(high),
            ]
            results.append(lane.activation)
        return results

    def _write(self, m: Module, control: PostControl, element, step: Signal) -> None:
        config = self._config
        address = Signal(len(control.base), reset_less=True)
        plane = Signal.like(address)
        mask = Signal(config.bank_groups, reset_less=True)
        next_plane = Signal.like(address)
        m.d.comb += next_plane.eq(plane + control.plane_step)
        with m.If(element.valid):
            with m.If(element.pixel_end & element.area_end):
                with m.If(element.plane_end):
                    m.d.sync += [address.eq(next_plane), plane.eq(next_plane)]
                with m.Else():
                    m.d.sync += address.eq(plane)
            with m.Elif(element.pixel_end):
                m.d.sync += address.eq(address + step)
            with m.If(element.mask_restart):
                m.d.sync += mask.eq(control.mask)
            with m.Elif(element.mask_shift):
                m.d.sync += mask.eq(mask << 1)
        with m.If(control.begin):
            m.d.sync += [address.eq(control.base), plane.eq(control.base), mask.eq(control.mask)]
        outside = address >= config.activation_depth
        m.d.comb += [
            self.writing.eq(element.valid),
            self.outside_activations.eq(element.valid & outside),
            self.write_mask.eq(Mux(element.valid & ~outside, mask, 0)),
            self.write_address.eq(address),
        ]
