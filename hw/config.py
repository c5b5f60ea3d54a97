"""The configuration of an accelerator: one frozen, validated record, on disk as TOML.

Everything derived from it (widths, word layouts, lane counts) is a property here, computed once; hardware,
compiler, simulators and driver read it from here.
"""

import dataclasses
import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from popshift.hw import numerics
from popshift.hw.errors import ConfigError, did_you_mean
from popshift.hw.numerics import Requantise

PE_KINDS = ("mul", "shift", "xnor")
DATAFLOWS = ("weight-stationary",)
LINKS = ("stream", "uart")
ADDRESS_BITS = 16
"""Width of an activation address (a word over all banks), hence of the row offsets stored beside the weights.
"""
WORD_ADDRESS_BITS = 24
"""Width of an address of any other memory, as instructions and link packets carry it."""

OFFSET_BITS = 14
"""Of a row's address offset in a word of SmartDeal coefficients; two more bits name a column of the basis."""

PAIR = 2
"""Rows whose banks are one memory, with `paired_banks`."""

ACCUMULATOR_WIDTHS = (24, 32)
"""Narrowest and widest accumulators."""

BINARY_OFFSET_BITS = 15
"""Of a row's address offset in a word of binary weights; one more bit switches the row off."""

POOL_WINDOW_MAX = 4096
"""Most taps that `pool_window` can allow: a 64 x 64 window."""

MACHINE = 2
"""Raised with every change of what instructions or words in memories mean; part of every digest, so that an
accelerator built before does not run programs compiled after it.
"""

# Fields that change what a program means or how long it takes; the others (name, clock, link, which
# multipliers) may differ between the configuration a program was compiled for and the one that runs it.
_NOT_IN_DIGEST = ("name", "dsp_multipliers", "signature", "clock_hz", "link", "baud", "link_fifo_depth")


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceleratorConfig:
    """What to generate.

    Attributes
    ----------
    name: how reports call it.
    rows, cols: the array: activations enter by row, outputs leave by column. 1 .. 64 each.
    tile_rows, tile_cols: combinational tile of the pipelined mesh; divide rows and cols. 1 x 1 is the
        classical systolic array, rows x 1 is a dot-product column with an adder tree.
    pe_kinds: processing elements to build; ``mul`` = int8 x int8, ``shift`` = int8 x power of two,
        ``xnor`` = 8 binary channels at once.
    rebuild: the weight feeder rebuilds SmartDeal weights; ``mul`` then is int8 x int16.
    dataflow: ``weight-stationary``.
    multiplier_stages: pipeline registers of every multiplier, 2 .. 4; the same on every technology.
    dsp_multipliers: how many PEs may use a DSP block; the rest are built from LUTs. -1: as many as the device
        has.
    activation_depth: words of the activation memory; a word is one byte in each of `rows` banks.
    weight_depth: words of the weight memory; a word is one array row of weights with its address offset.
    parameter_depth: words of the parameter memory; a word is bias, multiplier and shift of `post_lanes`
        channels.
    program_depth: 32-bit words of the program memory.
    accumulator_depth: output pixels in each of the two accumulator halves; with `paired_banks` there is one.
    accumulator_width: bits of a sum, 24 .. 32; the compiler refuses a layer that could exceed them. Sums of
        shift PEs use 24 of them.
    post_lanes: output channels requantised per cycle; divides rows and cols.
    pool_window: most taps of a pooling window, a power of two.
    residual: the post unit can add a tensor to what it writes; needs memories that can be read through the
        port they are written through (not on iCE40).
    depthwise: the channel unit has three multipliers for every bank, for depthwise layers, and reads through
        the port that results are written through, beside the array. Needs residual = true.
    paired_banks: banks are pairs in memories of 16 bits with one port (iCE40's SPRAM): the rows of a pair
        read at one address, and nothing is read while results are written. Needs even numbers of rows,
        columns and tile_rows, ``mul`` PEs only, rebuild and residual = false, window_depth = 0.
    window_depth: longest line, in pixels, of which depthwise layers keep windows, a power of two; 0: they run
        as any other layer, on one row for each channel. Needs 3 rows, and tiles no wider than high.
    requantise: ``exact`` (TFLite-Micro's double rounding) or ``compact`` (16-bit multiplier, one rounding).
    performance_counters: build the stall counters (the cycle counter is always there).
    signature: keep a signature of what was loaded, so that who comes back need not load it again; without it
        every session loads.
    link: ``uart`` or ``stream`` (bare byte stream, for simulation and for embedding).
    baud: of the UART.
    link_fifo_depth: bytes the device can take while it is busy answering.
    clock_hz: of the accelerator and the link.
    """

    name: str
    rows: int
    cols: int
    tile_rows: int = 1
    tile_cols: int = 1
    pe_kinds: tuple[str, ...] = ("mul",)
    rebuild: bool = False
    dataflow: str = "weight-stationary"
    multiplier_stages: int = 3
    dsp_multipliers: int = -1
    activation_depth: int
    weight_depth: int
    parameter_depth: int = 512
    program_depth: int = 2048
    accumulator_depth: int = 512
    accumulator_width: int = 32
    post_lanes: int = 1
    pool_window: int = POOL_WINDOW_MAX
    residual: bool = True
    depthwise: bool = False
    paired_banks: bool = False
    window_depth: int = 0
    requantise: Requantise = Requantise.EXACT
    performance_counters: bool = True
    signature: bool = True
    link: str = "stream"
    baud: int = 3_000_000
    link_fifo_depth: int = 512
    clock_hz: int = 100_000_000

    # ---- validation ---------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        self._check_types()
        self._range("rows", 1, 64)
        self._range("cols", 1, 64)
        self._divides("tile_rows", "rows")
        self._divides("tile_cols", "cols")
        self._divides("post_lanes", "rows")
        self._divides("post_lanes", "cols")
        if self.bank_groups > 32:
            self._refuse("post_lanes", f"must be at least rows / 32 = {-(-self.rows // 32)}", "raise it")
        self._range("multiplier_stages", 2, 4)
        self._range("dsp_multipliers", -1, 64 * 64)
        self._range("activation_depth", 16, 1 << ADDRESS_BITS)
        self._range("weight_depth", max(16, self.rows), 1 << WORD_ADDRESS_BITS)
        self._range("parameter_depth", 4, 1 << ADDRESS_BITS)
        self._range("program_depth", 64, 1 << ADDRESS_BITS)
        self._range("accumulator_depth", 16, 4096)
        self._range("accumulator_width", *ACCUMULATOR_WIDTHS)
        self._one_of("pool_window", tuple(POOL_WINDOW_MAX >> power for power in range(9)))
        if not self.pe_kinds:
            self._refuse("pe_kinds", "must name at least one kind", f"choose from {', '.join(PE_KINDS)}")
        for kind in self.pe_kinds:
            if kind not in PE_KINDS:
                self._refuse("pe_kinds", f"must be among {', '.join(PE_KINDS)}", "remove the unknown kind")
        if self.has_basis and self.chunks < numerics.BASIS_SIZE:
            least = numerics.BASIS_SIZE * self.post_lanes
            self._refuse("cols", f"must be at least 3 * post_lanes = {least} with shift PEs", "raise it")
        if self.has_packing:
            if self.post_lanes > numerics.LANE_CHANNELS:
                self._refuse("post_lanes", "must be at most 8 with xnor PEs", "lower it")
            self._divides_by("cols", numerics.LANE_CHANNELS, "with xnor PEs")
            self._deep_at_most(BINARY_OFFSET_BITS, "xnor PEs")
        if self.residual:
            needed = numerics.ACTIVATION_BITS + 1 + self.requantise.sum_shift
            if self.accumulator_width < needed:
                what = f"must be at least {needed} with residual = true and {self.requantise} requantisation"
                self._refuse("accumulator_width", what, "raise it, or set residual to false")
        if self.depthwise and not self.residual:
            self._refuse("depthwise", "needs residual = true", "set residual = true, or depthwise = false")
        if self.window_depth:
            self._one_of("window_depth", tuple(1 << power for power in range(1, 11)))
            if self.rows < 3 or self.tile_cols > self.tile_rows or "mul" not in self.pe_kinds:
                remedy = "set it to 0"
                self._refuse("window_depth", "needs mul PEs, 3 rows, and tile_cols <= tile_rows", remedy)
        if self.paired_banks:
            for name in ("rows", "cols", "tile_rows"):
                if getattr(self, name) % PAIR:
                    self._refuse(name, "must be even with paired_banks = true", "choose an even number")
            for name, value in {
                "pe_kinds": ("mul",),
                "rebuild": False,
                "residual": False,
                "window_depth": 0,
            }.items():
                if getattr(self, name) != value:
                    wanted = json.dumps(value)
                    self._refuse(name, f"must be {wanted} with paired_banks = true", f"set {name} = {wanted}")
        if self.rebuild:
            if "mul" not in self.pe_kinds:
                self._refuse("rebuild", "needs the PE kind mul", "add mul to pe_kinds")
            self._deep_at_most(OFFSET_BITS, "rebuild")
        self._one_of("dataflow", DATAFLOWS)
        self._one_of("link", LINKS)
        self._range("link_fifo_depth", 16, 1 << 16)
        self._range("clock_hz", 1_000_000, 1_000_000_000)
        self._range("baud", 1200, self.clock_hz // 4)

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "pe_kinds":
                good = isinstance(value, tuple | list) and all(isinstance(kind, str) for kind in value)
                object.__setattr__(self, "pe_kinds", tuple(value) if good else value)
                wanted = "a list of names"
            elif field.name == "requantise":
                good = value in tuple(Requantise)
                if good:
                    object.__setattr__(self, "requantise", Requantise(value))
                wanted = "one of " + ", ".join(Requantise)
            elif field.type in (bool, "bool"):
                good, wanted = isinstance(value, bool), "true or false"
            elif field.type in (int, "int"):
                good, wanted = isinstance(value, int) and not isinstance(value, bool), "an integer"
            else:
                good, wanted = isinstance(value, str) and bool(value), "a text"
            if not good:
                self._refuse(field.name, f"must be {wanted}", "correct it")

    def _range(self, field: str, low: int, high: int) -> None:
        if not low <= getattr(self, field) <= high:
            self._refuse(field, f"must be {low} .. {high}", "choose a value in that range")

    def _one_of(self, field: str, values: tuple[Any, ...]) -> None:
        if getattr(self, field) not in values:
            self._refuse(field, f"must be one of {', '.join(map(str, values))}", "choose one of them")

    def _divides(self, field: str, other: str) -> None:
        value, whole = getattr(self, field), getattr(self, other)
        divisors = [d for d in range(1, whole + 1) if whole % d == 0]
        if value not in divisors:
            self._refuse(field, f"must divide {other} = {whole}", f"choose one of {divisors}")

    def _divides_by(self, field: str, factor: int, why: str) -> None:
        if getattr(self, field) % factor:
            self._refuse(field, f"must be a multiple of {factor} {why}", "choose one")

    def _deep_at_most(self, bits: int, what: str) -> None:
        if self.activation_depth > 1 << bits:
            self._refuse("activation_depth", f"must be at most {1 << bits} with {what}", "lower it")

    def _refuse(self, field: str, rule: str, remedy: str) -> None:
        value = getattr(self, field)
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        raise ConfigError(f"{field} {rule}, not {shown}", where=f"configuration {self.name}", remedy=remedy)

    # ---- derived ------------------------------------------------------------------------------------------

    @property
    def mesh_rows(self) -> int:
        """Tiles from top to bottom; an activation wave needs one cycle for each."""
        return self.rows // self.tile_rows

    @property
    def mesh_cols(self) -> int:
        """Tiles from left to right."""
        return self.cols // self.tile_cols

    @property
    def bank_groups(self) -> int:
        """Activation banks come in groups of `post_lanes`, written together."""
        return self.rows // self.post_lanes

    @property
    def chunks(self) -> int:
        """Groups of `post_lanes` columns: how often the post unit reads one accumulator row."""
        return self.cols // self.post_lanes

    @property
    def smartdeal(self) -> bool:
        """Whether it can work with SmartDeal weights as they are."""
        return self.rebuild or self.has_basis

    @property
    def weight_bits(self) -> int:
        """Of a weight of the ``mul`` PEs."""
        return numerics.REBUILT_BITS if self.rebuild else numerics.WEIGHT_BITS

    @property
    def accumulator_halves(self) -> int:
        """Two, one drained while the other is filled; with `paired_banks` nothing is filled meanwhile."""
        return 1 if self.paired_banks else 2

    @property
    def psum_bits(self) -> int:
        """Width of the partial sums inside the mesh, for the widest products of its PE kinds."""
        products = {
            "mul": numerics.ACTIVATION_BITS + self.weight_bits,
            "shift": numerics.ACTIVATION_BITS + numerics.EXPONENTS,
            "xnor": numerics.MATCH_BITS,
        }
        return numerics.mesh_psum_bits(self.rows, max(products[kind] for kind in self.pe_kinds))

    @property
    def window_bits(self) -> int:
        """Width of the channel unit's result: the sum of `pool_window` activations, or of nine products."""
        bits = numerics.ACTIVATION_BITS + self.pool_window.bit_length() - 1
        return max(bits, numerics.DEPTHWISE_BITS) if self.depthwise else bits

    @property
    def weight_payload_bits(self) -> int:
        """Bits of a word of the weight memory beside the offset: of each column an int8 weight, the
        coefficients of one row, one coefficient, or 8 binary weights, whichever is most.
        """
        if self.rebuild:
            return self.cols * numerics.CODE_BITS * numerics.BASIS_SIZE
        bits = {"mul": numerics.WEIGHT_BITS, "shift": numerics.CODE_BITS, "xnor": numerics.LANE_CHANNELS}
        return self.cols * max(bits[kind] for kind in self.pe_kinds)

    @property
    def has_basis(self) -> bool:
        """Whether the post unit combines sums over columns of Ce with the basis."""
        return "shift" in self.pe_kinds

    @property
    def has_packing(self) -> bool:
        """Whether the post unit packs the signs of its results to bytes, and the channel unit pools those."""
        return "xnor" in self.pe_kinds

    @property
    def groups_of_byte(self) -> int:
        """Groups of `post_lanes` channels whose signs fill a byte; only with `has_packing`."""
        return numerics.LANE_CHANNELS // self.post_lanes

    @property
    def offset_bits(self) -> int:
        """Bits of a weight word's offset that are an offset whatever the word holds."""
        if self.rebuild:
            return OFFSET_BITS
        return BINARY_OFFSET_BITS if self.has_packing else ADDRESS_BITS

    @property
    def post_bits(self) -> int:
        """Width of what the post unit requantises: accumulators, or sums of them times basis."""
        return numerics.COMBINED_BITS if self.has_basis else self.accumulator_width

    @property
    def weight_word_bytes(self) -> int:
        """Row offset (two bytes, little endian) and what stands beside it."""
        return (ADDRESS_BITS + self.weight_payload_bits + 7) // 8

    @property
    def parameter_bits(self) -> int:
        """Bias, multiplier, shift and a row of the basis of one channel, packed in this order from bit 0."""
        basis = numerics.BASIS_BITS * numerics.BASIS_SIZE if self.has_basis else 0
        return numerics.BIAS_BITS + self.requantise.multiplier_bits + numerics.SHIFT_BITS + basis

    @property
    def parameter_word_bytes(self) -> int:
        """One parameter word as the link carries it: lanes packed from bit 0, padded to whole bytes."""
        return -(-self.parameter_bits * self.post_lanes // 8)

    @property
    def bank_mask_bytes(self) -> int:
        """Bytes of a bank mask (a bit per bank), which precedes the data of an activation write."""
        return -(-self.rows // 8)

    @property
    def peak_macs_per_cycle(self) -> int:
        return self.rows * self.cols

    @property
    def digest(self) -> int:
        """64 bits that tell two architectures apart; a program runs only where it agrees."""
        facts = {k: v for k, v in self.to_dict().items() if k not in _NOT_IN_DIGEST}
        if not self.depthwise:  # as before there was such a thing
            del facts["depthwise"]
        text = json.dumps({"machine": MACHINE, **facts}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    # ---- conversion ---------------------------------------------------------------------------------------

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as TOML and JSON take them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "pe_kinds": list(self.pe_kinds), "requantise": str(self.requantise)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: str = "configuration") -> Self:
        """Build from plain values.

        Raises
        ------
        ConfigError: an unknown key (the nearest known one is named), a missing one, or an illegal value.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                remedy = did_you_mean(key, fields).strip() or f"known keys: {', '.join(fields)}"
                raise ConfigError(f"unknown key {key!r}", where=where, remedy=remedy)
        for key, field in fields.items():
            if field.default is dataclasses.MISSING and key not in values:
                raise ConfigError(f"{key} is missing", where=where, remedy=f"add {key} = …")
        return cls(**values)

    def to_toml(self, *, named: bool = True) -> str:
        """One ``key = value`` line per field; `from_toml` reads it back. Not `named`: without its name."""
        values = self.to_dict()
        return "".join(f"{key} = {json.dumps(values[key])}\n" for key in values if named or key != "name")

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a configuration file; `name` defaults to the file's stem.

        Raises
        ------
        ConfigError: unreadable, not TOML, or not a legal configuration.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"cannot read it ({reason})", where=str(path), remedy="check the path"
            ) from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(
                f"not valid TOML ({error})", where=str(path), remedy="correct that line"
            ) from error
        try:
            return cls.from_dict({"name": path.stem, **values}, where=str(path))
        except ConfigError as error:  # the file, whatever name is in it
            raise ConfigError(error.what, where=str(path), remedy=error.remedy) from None


def named_configs() -> dict[str, AcceleratorConfig]:
    """The configurations that ship with the package, by name."""
    folder = resources.files("popshift.hw") / "configurations"
    found = sorted(
        (Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda p: p.stem
    )
    return {path.stem: AcceleratorConfig.from_toml(path) for path in found}


def load_config(name_or_path: str | Path) -> AcceleratorConfig:
    """A shipped configuration by name, or one from a TOML file.

    Raises
    ------
    ConfigError: neither a shipped name nor a readable file.
    """
    text = str(name_or_path)
    path = Path(text)
    if text.endswith(".toml") or path.is_file():
        return AcceleratorConfig.from_toml(path)
    configs = named_configs()
    if text not in configs:
        hint = did_you_mean(text, configs)
        raise ConfigError(
            f"no configuration named {text!r}",
            remedy=f"{hint}shipped: {', '.join(configs)}; or give a .toml file",
        )
    return configs[text]
