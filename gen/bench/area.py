"""What a configuration takes on a device family after synthesis: each PE, each unit, and the whole."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.lib import wiring

from popshift.gen.implement.synthesis import FAMILIES, Resources, synthesise
from popshift.hw.accelerator import Accelerator
from popshift.hw.channel.unit import ChannelUnit
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.commands import CommandUnit
from popshift.hw.control.counters import Counters
from popshift.hw.control.sequencer import Sequencer
from popshift.hw.core import HOST_READ_LATENCY
from popshift.hw.emit import component_verilog
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
from popshift.hw.tech import TECHNOLOGIES
from popshift.hw.tech.portable import Portable

STRIP_COLS = 4
"""Columns of the mesh over which a PE's average is taken, or one group of post lanes if that is more."""
REPORTED = ("lut4", "ff", "block_ram", "dsp", "spram", "lutram")


@dataclass(frozen=True, slots=True)
class _Unit:
    """A part that is synthesised on its own.

    All its outputs are kept and nothing is known of its inputs, so the parts add up to more than the whole.
    """

    name: str
    build: Callable[[AcceleratorConfig, Portable], wiring.Component]


UNITS = (
    _Unit("mesh", lambda config, technology: Mesh(config=config, technology=technology)),
    _Unit("accumulators", lambda config, technology: Accumulators(config=config, technology=technology)),
    _Unit("row gather", lambda config, technology: RowGather(config=config)),
    _Unit("weight feeder", lambda config, technology: WeightFeeder(config=config)),
    _Unit("matrix control", lambda config, technology: MatrixControl(config=config)),
    _Unit("post unit", lambda config, technology: PostUnit(config=config, technology=technology)),
    _Unit("channel unit", lambda config, technology: ChannelUnit(config=config)),
    _Unit(
        "weight memory",
        lambda config, technology: technology.host_ram(
            width=weight_word(config).size, depth=config.weight_depth
        ),
    ),
    _Unit(
        "parameter memory",
        lambda config, technology: technology.host_ram(
            width=parameter_word(config).size, depth=config.parameter_depth
        ),
    ),
    _Unit(
        "program memory",
        lambda config, technology: technology.host_ram(width=WORD_BITS, depth=config.program_depth),
    ),
    _Unit("sequencer", lambda config, technology: Sequencer(config=config)),
    _Unit("counters", lambda config, technology: Counters(config=config)),
    _Unit(
        "command unit",
        lambda config, technology: CommandUnit(
            config=config, read_latency=HOST_READ_LATENCY, technology=technology
        ),
    ),
    _Unit("UART", lambda config, technology: Uart(config=config)),
    _Unit(
        "activation memory", lambda config, technology: ActivationMemory(config=config, technology=technology)
    ),
)


def area_of(config: AcceleratorConfig, family: str) -> dict[str, Any]:
    """Synthesise the accelerator with its UART, every unit, and PEs of every kind, unless the cache has them.

    Parameters
    ----------
    family: ``ecp5``, ``ice40`` or ``gowin``; the family's default device.

    Returns
    -------
    ``family``; ``whole``; ``units`` by name; ``pe``, by kind and then by what multiplies, ``dsp`` or ``lut``:
    ``alone`` is a mesh of one PE (two weight registers, multiplier, result register), ``in_array`` the
    average PE of some columns of the configuration's mesh, with its share of adder tree and partial sums.
    Each gives lut4, ff, block_ram, dsp, spram and lutram.

    Raises
    ------
    InputError: no such family.
    ToolError: Yosys is missing or refuses the design.
    """
    if family not in FAMILIES:
        raise InputError(f"unknown device family {family!r}", remedy=f"choose from {', '.join(FAMILIES)}")
    with_uart = config.replace(link="uart")
    units = [
        *UNITS,
        _Unit("whole", lambda config, technology: Accelerator(config=config, technology=technology)),
    ]
    # Built one by one: what is made and never synthesised, because one before it failed, would be warned of.
    figures = {
        unit.name: _figures(_synthesise(unit.build(with_uart, _technology(with_uart, family)), family))
        for unit in units
    }
    return {
        "family": family,
        "pe": {kind: processing_elements(config, kind, family) for kind in config.pe_kinds},
        "whole": figures.pop("whole"),
        "units": figures,
    }


def _technology(config: AcceleratorConfig, family: str) -> Portable:
    return TECHNOLOGIES[family](dsp_multipliers=config.dsp_multipliers)


def processing_elements(config: AcceleratorConfig, kind: str, family: str) -> dict[str, Any]:
    """What `area_of` returns under ``pe`` for one kind."""
    cols = config.post_lanes * -(-STRIP_COLS // config.post_lanes)
    strip = {"pe_kinds": [kind], "cols": cols, "tile_cols": math.gcd(config.tile_cols, cols)}
    one = {"pe_kinds": [kind], "rows": 1, "tile_rows": 1, "cols": 1, "tile_cols": 1, "post_lanes": 1}
    found: dict[str, Any] = {}
    for multiplier, blocks in (("dsp", -1), ("lut", 0)):
        alone = _mesh(config.replace(**one, dsp_multipliers=blocks), family)
        in_array = _mesh(config.replace(**strip, dsp_multipliers=blocks), family)
        found[multiplier] = {
            "alone": _figures(alone),
            "in_array": _figures(in_array, share=config.rows * cols),
        }
    return found


def _mesh(config: AcceleratorConfig, family: str) -> Resources:
    return _synthesise(Mesh(config=config, technology=_technology(config, family)), family)


def _synthesise(component: wiring.Component, family: str) -> Resources:
    return synthesise(component_verilog(component, top="popshift"), family=family).resources


def _figures(resources: Resources, *, share: int = 1) -> dict[str, float]:
    counted = {name: getattr(resources, name) for name in REPORTED}
    return counted if share == 1 else {name: round(number / share, 1) for name, number in counted.items()}
