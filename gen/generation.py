"""Everything that describes one accelerator, as files: Verilog, configuration, interface, resources."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from popshift.gen import interface
from popshift.hw import numerics, packet
from popshift.hw.config import ADDRESS_BITS, AcceleratorConfig
from popshift.hw.emit import emit_verilog
from popshift.hw.errors import InputError
from popshift.hw.isa import WINDOW, WORD_BITS
from popshift.hw.tech import TECHNOLOGIES

COBS_BLOCK = 256
"""Bytes that the transmitter collects: a COBS block has at most 254."""
SIMULATED = "simulated"
"""The technology for Amaranth's own simulator, which is not for files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`count` memories of `depth` words of `width` bits."""

    name: str
    count: int
    width: int
    depth: int

    @property
    def kbit(self) -> float:
        return self.count * self.width * self.depth / 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What follows from the configuration alone, without synthesis.

    Attributes
    ----------
    multipliers: one for each processing element of kind ``mul``, `multiplier_bits` (activation, weight) wide.
    dsp_multipliers: how many of them may become DSP blocks; -1: as many as the device has.
    channel_multipliers: of the channel unit, as wide as `channel_multiplier_bits` (activation, weight).
    wide_multipliers: of the post unit, `wide_multiplier_bits` (sum, multiplier) wide.
    basis_multipliers: of the post unit, `basis_multiplier_bits` (sum, element of the basis) wide.
    memories: all on-chip memories.
    """

    multipliers: int
    multiplier_bits: tuple[int, int]
    dsp_multipliers: int
    channel_multipliers: int
    channel_multiplier_bits: tuple[int, int]
    wide_multipliers: int
    wide_multiplier_bits: tuple[int, int]
    basis_multipliers: int
    basis_multiplier_bits: tuple[int, int]
    memories: tuple[Memory, ...]

    @property
    def memory_kbit(self) -> float:
        return sum(memory.kbit for memory in self.memories)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "multipliers": self.multipliers,
            "dsp_multipliers": self.dsp_multipliers,
            "channel_multipliers": self.channel_multipliers,
            "wide_multipliers": self.wide_multipliers,
            "wide_multiplier_bits": list(self.wide_multiplier_bits),
            "memory_kbit": self.memory_kbit,
            "memories": [
                {"name": m.name, "count": m.count, "width": m.width, "depth": m.depth, "kbit": m.kbit}
                for m in self.memories
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The files that were written, what they describe, and how long it took."""

    files: tuple[Path, ...]
    resources: Resources
    seconds: float


def generate(config: AcceleratorConfig, folder: Path, *, technology: str = "portable") -> Generated:
    """Write the accelerator's files to `folder`, which is made if it does not exist; other files there stay.

    ``NAME.v``: Verilog. ``NAME.toml``: the configuration. ``NAME.interface.json`` and ``.md``: memory map,
    link packets, status codes, counters and instructions. ``NAME.resources.json``: `Resources`.

    Parameters
    ----------
    technology: whose primitives the Verilog uses: ``portable`` (none), ``ecp5``, ``ice40`` or ``gowin``.

    Raises
    ------
    InputError: an unknown technology, or the folder cannot be written.
    ToolError: yosys is missing or fails.
    """
    started = time.monotonic()
    choices = technologies()
    if technology not in choices:
        what = f"unknown technology {technology!r}"
        raise InputError(what, remedy=f"choose from {', '.join(choices)}")
    if Path(config.name).name != config.name:
        what = f"the configuration's name {config.name!r} cannot begin a file name"
        raise InputError(what, remedy="change its name to letters, digits and hyphens")
    estimate = resources(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "v": emit_verilog(config, technology),
            "toml": config.to_toml(),
            "interface.json": _json(interface.interface(config)),
            "interface.md": interface.markdown(config),
            "resources.json": _json(estimate.to_dict()),
        }
        files = []
        for suffix, text in texts.items():
            files.append(folder / f"{config.name}.{suffix}")
            files[-1].write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write there ({reason})", where=str(folder), remedy="choose another folder"
        ) from error
    return Generated(files=tuple(files), resources=estimate, seconds=time.monotonic() - started)


def technologies() -> list[str]:
    """The technologies that Verilog can be written for."""
    return [name for name in TECHNOLOGIES if name != SIMULATED]


def resources(config: AcceleratorConfig) -> Resources:
    """Multipliers and memories of an accelerator, counted from its configuration."""
    parameter_bits = config.parameter_bits * config.post_lanes
    weight_bits = ADDRESS_BITS + config.weight_payload_bits
    memories = [
        Memory(name="activations", count=config.rows, width=8, depth=config.activation_depth),
        Memory(name="weights", count=1, width=weight_bits, depth=config.weight_depth),
        Memory(name="parameters", count=1, width=parameter_bits, depth=config.parameter_depth),
        Memory(name="program", count=1, width=WORD_BITS, depth=config.program_depth),
        Memory(
            name="accumulators",
            count=2 * config.cols,
            width=config.accumulator_width,
            depth=config.accumulator_depth,
        ),
        Memory(name="receive buffer", count=1, width=8, depth=packet.MAX_PAYLOAD),
        Memory(name="transmit buffer", count=1, width=8, depth=COBS_BLOCK),
    ]
    if config.rebuild:
        memories.append(Memory(name="weights kept", count=1, width=weight_bits, depth=max(2, config.rows)))
    if config.link == "uart":
        memories.append(Memory(name="UART buffer", count=1, width=8, depth=config.link_fifo_depth))
    return Resources(
        multipliers=config.rows * config.cols if "mul" in config.pe_kinds else 0,
        multiplier_bits=(numerics.ACTIVATION_BITS, config.weight_bits),
        dsp_multipliers=config.dsp_multipliers,
        channel_multipliers=WINDOW * config.rows if config.depthwise else 0,
        channel_multiplier_bits=(numerics.ACTIVATION_BITS, numerics.WEIGHT_BITS),
        wide_multipliers=config.post_lanes,
        wide_multiplier_bits=(config.post_bits, config.requantise.multiplier_bits),
        basis_multipliers=config.post_lanes * numerics.BASIS_SIZE if config.has_basis else 0,
        basis_multiplier_bits=(numerics.FACTORED_BITS, numerics.BASIS_BITS),
        memories=tuple(memories),
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
