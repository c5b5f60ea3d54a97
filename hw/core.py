"""The machine without its link: units, memories and sequencer."""

from amaranth.hdl import Array, Cat, Module, Mux, ResetInserter, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.channel.unit import ChannelUnit
from popshift.hw.config import ADDRESS_BITS, WORD_ADDRESS_BITS, AcceleratorConfig
from popshift.hw.control.counters import Counters
from popshift.hw.control.sequencer import UNITS, Sequencer
from popshift.hw.isa import COUNTER_BITS, WORD_BITS, Counter, Status
from popshift.hw.matrix.feeder import weight_word
from popshift.hw.matrix.unit import MatrixUnit
from popshift.hw.memory.activations import ActivationMemory
from popshift.hw.pipeline import choose_near, registered
from popshift.hw.post.unit import PostUnit, parameter_word
from popshift.hw.tech.portable import Portable

IDLE_LATENCY = 1
"""Cycles from a unit's `idle` until the sequencer heeds it."""
HOST_READ_LATENCY = 6
"""Cycles from the command unit's read address to the byte: address and gather registers, memory, bank
selection.
"""


class Core(wiring.Component):
    """Executes programs; the command unit loads, starts and reads it.

    Members (named as the command unit's)
    -------
    activation_write_valid, _mask, _address, _data: write one byte into one word of every bank in the mask.
    word_write_space: strobe, one bit each for weight, parameter and program memory; word_write_address,
        word_write_data.
    read_bank, read_address, read_data: activation memory, `HOST_READ_LATENCY` cycles, while no program runs.
    start, start_pc, pause, cycle_limit, proceed, reset_machine, status, layer, pc, cycles: see `Sequencer`.
    counters: see `Counters`.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable | None = None) -> None:
        self._config = config
        self._technology = technology or Portable()
        super().__init__(
            {
                "activation_write_valid": In(1),
                "activation_write_mask": In(config.rows),
                "activation_write_address": In(ADDRESS_BITS),
                "activation_write_data": In(8),
                "word_write_space": In(3),
                "word_write_address": In(WORD_ADDRESS_BITS),
                "word_write_data": In(
                    8 * max(config.weight_word_bytes, config.parameter_word_bytes, WORD_BITS // 8)
                ),
                "read_bank": In(range(max(2, config.rows))),
                "read_address": In(ADDRESS_BITS),
                "read_data": Out(8),
                "start": In(1),
                "start_pc": In(16),
                "pause": In(1),
                "cycle_limit": In(32),
                "proceed": In(1),
                "reset_machine": In(1),
                "status": Out(Status),
                "layer": Out(16),
                "pc": Out(16),
                "cycles": Out(32),
                "running": Out(1),
                "counters": Out(data.ArrayLayout(unsigned(COUNTER_BITS), len(Counter))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, technology = self._config, self._technology
        m.submodules.sequencer = sequencer = Sequencer(config=config)
        m.submodules.counters = counters = Counters(config=config)
        abort = sequencer.abort
        m.submodules.matrix = ResetInserter(abort)(matrix := MatrixUnit(config=config, technology=technology))
        m.submodules.post = ResetInserter(abort)(post := PostUnit(config=config, technology=technology))
        m.submodules.channel = ResetInserter(abort)(
            channel := ChannelUnit(config=config, technology=technology)
        )
        self._control(m, sequencer, counters, matrix, post, channel)
        self._activations(m, sequencer, matrix, post, channel)
        self._word_memories(m, sequencer, matrix, post, channel)
        self._units(m, matrix, post, channel)
        return m

    def _control(self, m, sequencer, counters, matrix, post, channel) -> None:
        units = dict(zip(UNITS, (matrix, post, channel), strict=True))
        for name in ("start", "start_pc", "pause", "cycle_limit", "proceed", "reset_machine"):
            m.d.comb += getattr(sequencer, name).eq(getattr(self, name))
        for name in ("status", "layer", "pc", "cycles", "running"):
            m.d.comb += getattr(self, name).eq(getattr(sequencer, name))
        for index, unit in enumerate(units.values()):
            m.d.comb += [
                unit.command_write.eq(sequencer.command_write[index]),
                unit.command_index.eq(sequencer.command_index),
                unit.command_word.eq(sequencer.command_word),
                unit.go.eq(sequencer.go[index]),
            ]
            # A unit that is just told to go looks idle for another cycle.
            m.d.sync += sequencer.unit_idle[index].eq(unit.idle & ~sequencer.go[index])
        outside_parameters = post.outside_parameters
        if self._config.depthwise:
            outside_parameters |= channel.outside_parameters
        errors = Cat(
            matrix.illegal | post.illegal | channel.illegal,
            matrix.outside_activations | post.outside_activations | channel.outside,
            matrix.outside_weights,
            outside_parameters,
            matrix.overfull | post.overfull,
        )
        config = self._config
        halves_busy = matrix.busy_halves != 0
        others_done = ~halves_busy & post.idle & channel.idle
        m.d.sync += [
            sequencer.errors.eq(errors),
            matrix.others_done.eq(others_done),
            matrix.last_strip.eq(channel.idle & (post.idle | post.last_strip)),
            sequencer.all_idle.eq(matrix.idle & others_done),
            sequencer.progress.eq(matrix.streaming | matrix.loading | post.issuing | channel.reading),
        ]
        m.d.comb += [
            counters.clear.eq(sequencer.begin),
            counters.cycles.eq(sequencer.cycles),
            counters.running.eq(sequencer.running),
            self.counters.eq(counters.values),
        ]
        if config.paired_banks:
            m.d.comb += [matrix.writing.eq(post.committed), post.reading.eq(matrix.reading)]
        if config.paired_banks or config.depthwise:
            m.d.comb += channel.written.eq(post.write_soon)
        if config.depthwise:
            m.d.sync += matrix.others_idle.eq(post.idle & channel.idle)
            m.d.comb += counters.second_read.eq(matrix.streaming & channel.reading)
        events = {
            Counter.MATRIX: matrix.streaming,
            Counter.CHANNEL: channel.reading,
            Counter.WEIGHTS: matrix.wait_weights,
            Counter.ACCUMULATORS: matrix.wait_accumulators,
            Counter.DRAIN: ~post.idle | halves_busy,
            Counter.WEIGHT_WORDS: matrix.loading,
            Counter.ACTIVATION_READS: matrix.streaming | channel.reading,
            Counter.ACTIVATION_WRITES: post.writing,
        }
        m.d.comb += [counters.events[counter].eq(event) for counter, event in events.items()]

    def _activations(self, m, sequencer, matrix, post, channel) -> None:
        config = self._config
        m.submodules.activations = memory = ActivationMemory(config=config, technology=self._technology)
        own, host_address = Signal(), Signal.like(channel.address)
        m.d.sync += [host_address.eq(self.read_address), own.eq(sequencer.running)]
        m.d.comb += [
            memory.read_address.eq(matrix.activation_addresses),
            matrix.activations.eq(memory.read_data),
        ]
        if config.depthwise:
            m.d.comb += [
                channel.activations.eq(memory.bytes_there),
                matrix.common.eq(~own),
                matrix.common_address.eq(host_address),
            ]
        else:
            m.d.comb += [
                channel.activations.eq(memory.read_data),
                matrix.common.eq(~own | channel.addressing),
                matrix.common_address.eq(Mux(own, channel.address, host_address)),
            ]
        bytes_read = [memory.read_data[bank] for bank in range(config.rows)]
        chosen, far = choose_near(m, bytes_read, self.read_bank, "read_near")
        m.d.comb += self.read_data.eq(registered(m, Array(chosen)[far], "read_byte"))

        group = Signal(config.rows)
        m.d.comb += group.eq(
            Cat(
                *(
                    post.write_mask[bank // config.post_lanes] & post.write_lanes[bank % config.post_lanes]
                    for bank in range(config.rows)
                )
            )
        )
        with m.If(self.activation_write_valid):
            m.d.comb += [memory.write_mask.eq(self.activation_write_mask)]
            m.d.comb += memory.write_address.eq(self.activation_write_address)
            m.d.comb += [lane.eq(self.activation_write_data) for lane in memory.write_data]
        with m.Else():
            m.d.comb += [
                memory.write_mask.eq(group),
                memory.write_address.eq(post.write_address),
                memory.write_data.eq(post.write_data),
            ]
        if config.depthwise:
            with m.If(channel.addressing):  # and nothing is written
                m.d.comb += memory.write_address.eq(channel.address)
        if config.residual:
            m.d.comb += post.bytes_there.eq(memory.bytes_there)

    def _word_memories(self, m, sequencer, matrix, post, channel) -> None:
        config, technology = self._config, self._technology
        shapes = {
            "weights": (weight_word(config).size, config.weight_depth, technology.host_ram),
            "parameters": (parameter_word(config).size, config.parameter_depth, technology.host_ram),
            "program": (WORD_BITS, config.program_depth, technology.host_ram),
        }
        rams = {}
        for index, (name, (width, depth, ram)) in enumerate(shapes.items()):
            m.submodules[name] = rams[name] = ram(width=width, depth=depth)
            m.d.comb += [
                rams[name].write_enable.eq(self.word_write_space[index]),
                rams[name].write_address.eq(self.word_write_address),
                rams[name].write_data.eq(self.word_write_data),
            ]
        m.d.comb += [
            rams["weights"].read_address.eq(matrix.weight_address),
            matrix.weight_data.eq(rams["weights"].read_data),
            rams["parameters"].read_address.eq(post.parameter_address),
            post.parameter_data.eq(rams["parameters"].read_data),
            rams["program"].read_address.eq(sequencer.program_address),
            sequencer.program_data.eq(rams["program"].read_data),
        ]
        if config.depthwise:
            m.d.comb += channel.parameter_data.eq(rams["parameters"].read_data)
            with m.If(channel.parameter_reading):
                m.d.comb += rams["parameters"].read_address.eq(channel.parameter_address)

    def _units(self, m, matrix, post, channel) -> None:
        m.d.comb += [
            post.full.eq(matrix.full),
            matrix.release.eq(post.release),
            matrix.drain_address.eq(post.drain_address),
            matrix.drain_chunk.eq(post.drain_chunk),
            matrix.drain_half.eq(post.drain_half),
            post.drained.eq(matrix.drained),
            channel.active.eq(post.channel_active),
            post.window.eq(channel.window),
            channel.group.eq(post.window_group),
            post.window_values.eq(channel.values),
        ]
