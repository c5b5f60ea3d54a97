"""The parts of an accelerator, each of which can be synthesised, or placed and routed, on its own."""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.lib import wiring

from popshift.hw.channel.unit import ChannelUnit
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.commands import CommandUnit
from popshift.hw.control.counters import Counters
from popshift.hw.control.sequencer import Sequencer
from popshift.hw.core import HOST_READ_LATENCY
from popshift.hw.errors import InputError
from popshift.hw.isa import WORD_BITS
from popshift.hw.link.uart import Uart
from popshift.hw.matrix.accumulators import Accumulators
from popshift.hw.matrix.control import MatrixControl
from popshift.hw.matrix.feeder import WeightFeeder, weight_word
from popshift.hw.matrix.gather import RowGather
from popshift.hw.matrix.mesh import Mesh
from popshift.hw.memory.activations import ActivationMemory
from popshift.hw.post.unit import PostUnit, parameter_word
from popshift.hw.tech.portable import Portable


@dataclass(frozen=True, slots=True)
class Unit:
    """A part that can be made on its own."""

    name: str
    build: Callable[[AcceleratorConfig, Portable], wiring.Component]


UNITS = (
    Unit("mesh", lambda config, technology: Mesh(config=config, technology=technology)),
    Unit("accumulators", lambda config, technology: Accumulators(config=config, technology=technology)),
    Unit("row gather", lambda config, technology: RowGather(config=config)),
    Unit("weight feeder", lambda config, technology: WeightFeeder(config=config, technology=technology)),
    Unit("matrix control", lambda config, technology: MatrixControl(config=config)),
    Unit("post unit", lambda config, technology: PostUnit(config=config, technology=technology)),
    Unit("channel unit", lambda config, technology: ChannelUnit(config=config, technology=technology)),
    Unit(
        "weight memory",
        lambda config, technology: technology.host_ram(
            width=weight_word(config).size, depth=config.weight_depth
        ),
    ),
    Unit(
        "parameter memory",
        lambda config, technology: technology.host_ram(
            width=parameter_word(config).size, depth=config.parameter_depth
        ),
    ),
    Unit(
        "program memory",
        lambda config, technology: technology.host_ram(width=WORD_BITS, depth=config.program_depth),
    ),
    Unit("sequencer", lambda config, technology: Sequencer(config=config)),
    Unit("counters", lambda config, technology: Counters(config=config)),
    Unit(
        "command unit",
        lambda config, technology: CommandUnit(
            config=config, read_latency=HOST_READ_LATENCY, technology=technology
        ),
    ),
    Unit("UART", lambda config, technology: Uart(config=config)),
    Unit(
        "activation memory", lambda config, technology: ActivationMemory(config=config, technology=technology)
    ),
)


def unit(name: str) -> Unit:
    """A part by name.

    Raises
    ------
    InputError: no such part; the known ones are named.
    """
    for entry in UNITS:
        if entry.name == name:
            return entry
    raise InputError(f"no unit {name!r}", remedy=f"choose from {', '.join(entry.name for entry in UNITS)}")
