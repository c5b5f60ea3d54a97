"""The matrix unit: control, weight feeder, row gather, mesh and accumulators."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.registers import command_members, connect_command
from popshift.hw.matrix import accumulators as accumulators_module
from popshift.hw.matrix.accumulators import Accumulators
from popshift.hw.matrix.control import FEEDER_FIELDS, MatrixControl
from popshift.hw.matrix.feeder import MESH_BEHIND_GATHER, WeightFeeder, weight_word, weights_latency
from popshift.hw.matrix.gather import RowGather
from popshift.hw.matrix.mesh import Mesh, mesh_latency
from popshift.hw.matrix.windows import Windows
from popshift.hw.memory.activations import ActivationMemory, address_bits
from popshift.hw.pipeline import delayed
from popshift.hw.tech.portable import Portable

GATHER_LATENCY = 1
PIXEL_TO_ACTIVATION = 1 + GATHER_LATENCY + ActivationMemory.LATENCY
"""Cycles from the control's pixel to its activations at row tile 0."""
SWITCH_TO_MESH = PIXEL_TO_ACTIVATION - 1
"""The mesh switches one cycle before the first activation of a pass."""
assert SWITCH_TO_MESH == MESH_BEHIND_GATHER, "weights may be as late as the switch of the mesh"


def pixel_to_accumulator(config: AcceleratorConfig) -> int:
    """Cycles from the control's pixel to the accumulators' `valid` at column tile 0."""
    return PIXEL_TO_ACTIVATION + mesh_latency(config) - accumulators_module.READ_AHEAD


def last_to_full(config: AcceleratorConfig) -> int:
    """Cycles from the control's `last` until the whole half has been written (readable one later)."""
    return pixel_to_accumulator(config) + (config.mesh_cols - 1) + accumulators_module.WRITE_BEHIND


class MatrixUnit(wiring.Component):
    """Executes MATRIX instructions; see `MatrixControl` for the command ports.

    Members
    -------
    activation_addresses, activations: every bank's read port. common, common_address: all banks read this
        instead.
    weight_address, weight_data: read port of the weight memory.
    full: strobe: the next accumulator half can be drained. release: strobe: the oldest full half has been
        drained.
    drain_address, drain_chunk, drain_half, drained: see `Accumulators`.
    busy_halves: accumulator halves not yet drained.
    others_done, last_strip, others_idle, writing, reading: see `MatrixControl`.
    streaming, loading: an activation row, a weight row is read in this cycle.
    outside_activations, outside_weights, overfull: errors.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        self._accumulators = Accumulators(config=config, technology=technology)
        self._mesh = Mesh(config=config, technology=technology)
        bits = address_bits(config)
        accumulators = self._accumulators
        super().__init__(
            {
                **command_members(),
                "activation_addresses": Out(data.ArrayLayout(bits, config.rows)),
                "activations": In(data.ArrayLayout(signed(8), config.rows)),
                "common": In(1),
                "common_address": In(bits),
                "weight_address": Out((config.weight_depth - 1).bit_length()),
                "weight_data": In(weight_word(config)),
                "full": Out(1),
                "release": In(1),
                "drain_address": In(len(accumulators.drain_address)),
                "drain_chunk": In(len(accumulators.drain_chunk)),
                "drain_half": In(1),
                "drained": Out(accumulators.drained.shape()),
                "busy_halves": Out(2),
                "others_done": In(1),
                "last_strip": In(1),
                **({"others_idle": In(1)} if config.depthwise else {}),
                "writing": In(1),
                "reading": Out(1),
                "streaming": Out(1),
                "loading": Out(1),
                "wait_weights": Out(1),
                "wait_accumulators": Out(1),
                "outside_activations": Out(1),
                "outside_weights": Out(1),
                "overfull": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.control = control = MatrixControl(config=config)
        m.submodules.feeder = feeder = WeightFeeder(config=config, technology=self._technology)
        m.submodules.gather = gather = RowGather(config=config)
        m.submodules.mesh = mesh = self._mesh
        m.submodules.accumulators = accumulators = self._accumulators

        connect_command(m, self, control)
        m.d.comb += [
            feeder.start.eq(control.weight_start),
            feeder.base.eq(control.weight_base),
            feeder.more.eq(control.weight_more),
            feeder.switched.eq(control.switch),
            control.weight_ready.eq(feeder.ready),
            control.weight_again.eq(feeder.again),
            *(getattr(feeder, name).eq(getattr(control, name)) for name in FEEDER_FIELDS),
            feeder.read_data.eq(self.weight_data),
            control.half_busy.eq(self.busy_halves),
            control.others_done.eq(self.others_done),
            control.last_strip.eq(self.last_strip),
            control.writing.eq(self.writing),
            self.reading.eq(control.reading),
            self.weight_address.eq(feeder.read_address),
        ]
        if config.depthwise:
            m.d.comb += control.others_idle.eq(self.others_idle)
        pixel, valid = Signal(address_bits(config), reset_less=True), Signal()
        m.d.sync += [pixel.eq(control.pixel), valid.eq(control.valid)]
        m.d.comb += [
            gather.pixel.eq(pixel),
            gather.pixel_valid.eq(valid),
            gather.switch.eq(control.switch),
            gather.load.eq(feeder.load),
            gather.load_tile.eq(feeder.load_tile),
            gather.load_offset.eq(feeder.load_offset),
            gather.common.eq(self.common),
            gather.common_address.eq(self.common_address),
            self.activation_addresses.eq(gather.addresses),
        ]
        switch = delayed(m, control.switch, SWITCH_TO_MESH, "switch", reset=True)
        switches = [switch]
        for i in range(1, config.mesh_rows):
            switches.append(delayed(m, switches[-1], 1, f"switch_tile_{i}", reset=True))
        if config.window_depth:
            m.submodules.windows = windows = Windows(config=config)
            m.d.comb += [
                windows.activations.eq(self.activations),
                windows.line.eq(delayed(m, control.line, PIXEL_TO_ACTIVATION - 1, "line", reset=True)),
                windows.used.eq(delayed(m, control.windows, PIXEL_TO_ACTIVATION - 1, "windows", reset=True)),
                mesh.taps.eq(windows.taps),
                mesh.chosen.eq(windows.chosen),
            ]
            for name in ("x_first", "y_first"):
                value = delayed(m, getattr(control, name), PIXEL_TO_ACTIVATION - 1, name)
                m.d.comb += getattr(windows, name).eq(value)
        m.d.comb += [
            mesh.activations.eq(self.activations),
            mesh.switch.eq(Cat(*switches)),
            mesh.load.eq(delayed(m, gather.load_tiles, weights_latency(config), "load_tiles", reset=True)),
            mesh.weights.eq(feeder.weights),
            accumulators.sums.eq(mesh.sums),
        ]
        for name in ("valid", "first", "clear", "half"):
            source = getattr(control, {"first": "switch", "valid": "counted"}.get(name, name))
            m.d.comb += getattr(accumulators, name).eq(
                delayed(m, source, pixel_to_accumulator(config), name, reset=name == "valid")
            )
        m.d.comb += [
            accumulators.drain_address.eq(self.drain_address),
            accumulators.drain_chunk.eq(self.drain_chunk),
            accumulators.drain_half.eq(self.drain_half),
            self.drained.eq(accumulators.drained),
            self.full.eq(delayed(m, control.last, last_to_full(config), "last", reset=True)),
        ]
        oldest = Signal()
        with m.If(control.take):
            m.d.sync += self.busy_halves.bit_select(control.take_half, 1).eq(1)
        with m.If(self.release):
            m.d.sync += self.busy_halves.bit_select(oldest, 1).eq(0)
            if config.accumulator_halves > 1:
                m.d.sync += oldest.eq(~oldest)
        m.d.comb += [
            self.streaming.eq(control.valid),
            self.loading.eq(feeder.reading),
            self.wait_weights.eq(control.wait_weights),
            self.wait_accumulators.eq(control.wait_accumulators),
            self.outside_activations.eq(control.outside | gather.outside),
            self.outside_weights.eq(feeder.outside),
            self.overfull.eq(control.overfull),
        ]
        return m
