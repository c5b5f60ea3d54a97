"""Units under test with just the memories they cannot do without."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.registers import command_members
from popshift.hw.matrix.feeder import weight_word
from popshift.hw.matrix.unit import MatrixUnit
from popshift.hw.memory.activations import ActivationMemory
from popshift.hw.memory.ram import VerilogRam
from popshift.hw.post.unit import PostUnit, parameter_word
from popshift.hw.tech.ecp5 import block_ram_rows
from popshift.hw.tech.portable import Portable

_RAM_PARTS = {(5, 1300): (512, 512, 276), (88, 1324): block_ram_rows(88, 1324), (3, 20): (16, 4)}
_DEEP = ((8, 4096), (5, 8192), (1, 16384))
"""Block RAM of 4, 2 and 1 bits."""
RAM_SHAPES = ((1, 2), (8, 16), (33, 100), (7, 3), (72, 130), *_DEEP, *_RAM_PARTS)
"""Width and depth of memories tested on their own; some in parts, as ECP5's are."""
assert len(_RAM_PARTS[88, 1324]) == 2


def _pass_through(m: Module, outer: wiring.Component, inner: wiring.Component, names) -> None:
    """Connect members of the same name."""
    for name in names:
        from_inner = inner.signature.members[name].flow == Out
        source, target = (inner, outer) if from_inner else (outer, inner)
        m.d.comb += getattr(target, name).eq(getattr(source, name))


class MatrixBench(wiring.Component):
    """The matrix unit, its activation memory and its weight memory.

    ``errors``: outside_activations, outside_weights and overfull, each kept from its strobe until
    ``clear_errors``.
    """

    _MATRIX = (
        "full",
        "release",
        "drain_address",
        "drain_chunk",
        "drain_half",
        "drained",
        "busy_halves",
    )
    _MEMORY = ("write_mask", "write_address", "write_data")

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        self._matrix = MatrixUnit(config=config, technology=Portable())
        self._memory = ActivationMemory(config=config, technology=Portable())
        self._weights = VerilogRam(width=weight_word(config).size, depth=config.weight_depth)
        super().__init__(
            {
                **command_members(),
                **{name: self._matrix.signature.members[name] for name in self._MATRIX},
                **{name: self._memory.signature.members[name] for name in self._MEMORY},
                "weight_write": In(1),
                "weight_write_address": In(self._weights.address_bits),
                "weight_write_data": In(self._weights.width),
                "errors": Out(3),
                "clear_errors": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.matrix, m.submodules.memory, m.submodules.weights = matrix, memory, weights = (
            self._matrix,
            self._memory,
            self._weights,
        )
        _pass_through(m, self, matrix, (*command_members(), *self._MATRIX))
        _pass_through(m, self, memory, self._MEMORY)
        m.d.comb += [
            memory.read_address.eq(matrix.activation_addresses),
            matrix.activations.eq(memory.read_data),
            weights.read_address.eq(matrix.weight_address),
            matrix.weight_data.eq(weights.read_data),
            weights.write_enable.eq(self.weight_write),
            weights.write_address.eq(self.weight_write_address),
            weights.write_data.eq(self.weight_write_data),
        ]
        strobes = Cat(matrix.outside_activations, matrix.outside_weights, matrix.overfull)
        m.d.sync += self.errors.eq(self.errors | strobes)
        with m.If(self.clear_errors):
            m.d.sync += self.errors.eq(0)
        return m


class PostBench(wiring.Component):
    """The post unit and its parameter memory.

    ``errors``: outside_parameters, outside_activations, overfull, as in `MatrixBench`.
    """

    _POST = (
        *("full", "release", "drain_address", "drain_chunk", "drain_half", "drained"),
        *("window", "channel_active", "window_group", "window_values"),
        *("write_mask", "write_lanes", "write_address", "write_data"),
    )

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._post = PostUnit(config=config, technology=Portable())
        self._parameters = VerilogRam(width=parameter_word(config).size, depth=config.parameter_depth)
        super().__init__(
            {
                **command_members(),
                **{name: self._post.signature.members[name] for name in self._POST},
                "parameter_write": In(1),
                "parameter_write_address": In(self._parameters.address_bits),
                "parameter_write_data": In(self._parameters.width),
                "errors": Out(3),
                "clear_errors": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.post, m.submodules.parameters = post, parameters = self._post, self._parameters
        _pass_through(m, self, post, (*command_members(), *self._POST))
        m.d.comb += [
            parameters.read_address.eq(post.parameter_address),
            post.parameter_data.eq(parameters.read_data),
            parameters.write_enable.eq(self.parameter_write),
            parameters.write_address.eq(self.parameter_write_address),
            parameters.write_data.eq(self.parameter_write_data),
        ]
        strobes = Cat(post.outside_parameters, post.outside_activations, post.overfull)
        m.d.sync += self.errors.eq(self.errors | strobes)
        with m.If(self.clear_errors):
            m.d.sync += self.errors.eq(0)
        return m


def bench_units(config: AcceleratorConfig) -> dict[str, wiring.Component]:
    """Everything but the whole accelerator that the regression drives, by the prefix of its ports."""
    rams = {
        f"ram_{width}_{depth}": VerilogRam(width=width, depth=depth, parts=_RAM_PARTS.get((width, depth), ()))
        for width, depth in RAM_SHAPES
    }
    return {
        "matrix": MatrixBench(config=config),
        "post": PostBench(config=config),
        "banks": ActivationMemory(config=config, technology=Portable()),
        **rams,
    }
