"""What a configuration takes on a device family after synthesis: each PE, each unit, and the whole.

All outputs of a unit are kept and nothing is known of its inputs, so the units add up to more than the whole.
"""

import math
from typing import Any

from amaranth.lib import wiring

from popshift.gen.bench.tables import ALONE_SUM_BITS
from popshift.gen.implement.synthesis import FAMILIES, Resources, synthesise
from popshift.gen.implement.units import UNITS
from popshift.hw.accelerator import Accelerator
from popshift.hw.config import PE_KINDS, AcceleratorConfig
from popshift.hw.emit import component_verilog
from popshift.hw.errors import ConfigError, InputError
from popshift.hw.matrix.lone_pe import LonePe
from popshift.hw.matrix.mesh import Mesh
from popshift.hw.numerics import BASIS_SIZE, LANE_CHANNELS
from popshift.hw.tech import TECHNOLOGIES
from popshift.hw.tech.portable import Portable

STRIP_COLS = 4
"""Columns of the mesh over which a PE's average is taken, or the fewest that there may be if that is more."""
REPORTED = ("lut4", "ff", "block_ram", "dsp", "spram", "lutram")


def area_of(config: AcceleratorConfig, family: str) -> dict[str, Any]:
    """Synthesise the accelerator with its UART, every unit, and PEs of every kind, unless the cache has them.

    Parameters
    ----------
    family: ``ecp5``, ``ice40`` or ``gowin``; the family's default device.

    Returns
    -------
    ``family``; ``whole``; ``units`` by name; ``pe``, by kind and then by what multiplies (``dsp`` or ``lut``;
    the others have ``lut`` alone): for every kind there is, so that they can be compared, whether the
    configuration has it or not. ``alone`` is a `LonePe`, adder and register of a 24-bit partial sum included,
    ``in_array`` the average PE of some columns of the configuration's mesh, with its share of adder tree,
    partial sums and skew. Each gives lut4, ff, block_ram, dsp, spram and lutram.

    Raises
    ------
    InputError: no such family.
    ToolError: Yosys is missing or refuses the design.
    """
    if family not in FAMILIES:
        raise InputError(f"unknown device family {family!r}", remedy=f"choose from {', '.join(FAMILIES)}")
    with_uart = config.replace(link="uart")
    # Built one by one: what is made and never synthesised, because one before it failed, would be warned of.
    figures = {
        unit.name: _figures(_synthesise(unit.build(with_uart, _technology(with_uart, family)), family))
        for unit in UNITS
    }
    elements = {}
    for kind in PE_KINDS:
        try:
            elements[kind] = processing_elements(config, kind, family)
        except ConfigError:  # of a kind that cannot be with so many rows
            if kind in config.pe_kinds:
                raise
    return {
        "family": family,
        "pe": elements,
        "whole": whole_accelerator(config, family),
        "units": figures,
    }


def whole_accelerator(config: AcceleratorConfig, family: str) -> dict[str, float]:
    """Figures of the accelerator with its UART; errors as `area_of`."""
    with_uart = config.replace(link="uart")
    accelerator = Accelerator(config=with_uart, technology=_technology(with_uart, family))
    return _figures(_synthesise(accelerator, family))


def _technology(config: AcceleratorConfig, family: str) -> Portable:
    return TECHNOLOGIES[family](dsp_multipliers=config.dsp_multipliers)


def processing_elements(config: AcceleratorConfig, kind: str, family: str) -> dict[str, Any]:
    """What `area_of` returns under ``pe`` for one kind."""
    only = _strip(config, kind)
    found: dict[str, Any] = {}
    for multiplier, blocks in (("dsp", -1), ("lut", 0)):
        if multiplier == "dsp" and kind != "mul":
            continue
        with_blocks = only.replace(dsp_multipliers=blocks)
        technology = _technology(with_blocks, family)
        alone = _synthesise(
            LonePe(config=with_blocks, technology=technology, sum_bits=ALONE_SUM_BITS), family
        )
        in_array = _mesh(with_blocks, family)
        found[multiplier] = {
            "alone": _figures(alone),
            "in_array": _figures(in_array, share=only.peak_macs_per_cycle),
        }
    return found


def _strip(config: AcceleratorConfig, kind: str) -> AcceleratorConfig:
    """Some columns of the configuration's mesh, of one kind of PE."""
    # The mesh does not depend on the post lanes; the fewest that may be allow the fewest columns.
    lanes = next(n for n in range(1, config.rows + 1) if config.rows % n == 0 and config.rows // n <= 32)
    fewest = {"shift": BASIS_SIZE * lanes, "xnor": math.lcm(lanes, LANE_CHANNELS)}.get(kind, lanes)
    cols = fewest * -(-STRIP_COLS // fewest)
    return config.replace(
        cols=cols,
        tile_cols=math.gcd(config.tile_cols, cols),
        post_lanes=lanes,
        pe_kinds=[kind],
        rebuild=config.rebuild and kind == "mul",
        window_depth=0,
    )


def _mesh(config: AcceleratorConfig, family: str) -> Resources:
    return _synthesise(Mesh(config=config, technology=_technology(config, family)), family)


def _synthesise(component: wiring.Component, family: str) -> Resources:
    return synthesise(component_verilog(component, top="popshift"), family=family).resources


def _figures(resources: Resources, *, share: int = 1) -> dict[str, float]:
    counted = {name: getattr(resources, name) for name in REPORTED}
    return counted if share == 1 else {name: round(number / share, 1) for name, number in counted.items()}
