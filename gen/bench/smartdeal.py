"""SmartDeal beside int8: the same networks dense, rebuilt and factored, on arrays that are alike."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from popshift.gen.bench.cases import CASES, SMARTDEAL_FORMS
from popshift.gen.bench.measure import run_cases
from popshift.gen.bench.records import Record, tools
from popshift.gen.compress.smartdeal.report import FLOAT_BITS
from popshift.gen.level import Level
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ConfigError
from popshift.hw.numerics import BASIS_SIZE

NETWORKS = ("conv64", "digits", "plain20")


@dataclass(frozen=True, kw_only=True)
class SmartDealRecord:
    """One network in one form.

    Attributes
    ----------
    smartdeal: the network. case: the bench case with its form.
    execution: ``dense int8``, ``rebuild`` or ``factored``, by what the array has.
    config, config_digest, pes, pe_kinds: the array; the factored one has three times the PEs of the others,
        all without a multiplier.
    accuracy: of int8 or SmartDeal weights, on the accelerator; None without labels.
    bits_per_weight, compression: storage, indices and bases included; 32-bit floats over it.
    cycles, weight_bytes: of an image, counted by the hardware.
    speedup, traffic: dense cycles over these, these weight bytes over the dense ones.
    mismatches: integers that differ from the golden model.
    lut4, dsp: of the whole accelerator on `family`; None unless asked for.
    """

    smartdeal: str
    case: str
    execution: str
    config: str
    config_digest: str
    pes: int
    pe_kinds: list[str]
    seed: int
    accuracy: float | None
    bits_per_weight: float
    compression: float
    cycles: int
    weight_bytes: int
    speedup: float
    traffic: float
    mismatches: int
    family: str | None = None
    lut4: float | None = None
    dsp: float | None = None
    tools: dict[str, str] = field(default_factory=lambda: tools())


def arrays(config: AcceleratorConfig) -> dict[str, AcceleratorConfig]:
    """The array as it is, with a weight feeder that rebuilds, and with ``shift`` PEs, three for each column.

    Raises
    ------
    ConfigError: there is no room for three times the columns.
    """
    config = config.replace(window_depth=0)  # no network here has depthwise layers
    found = {"dense int8": config.replace(rebuild=False, pe_kinds=["mul"])}
    found["rebuild"] = found["dense int8"].replace(name=f"{config.name} + rebuild", rebuild=True)
    cols = BASIS_SIZE * config.cols
    if cols > 64:
        what = f"{cols} columns are needed for factored execution, 64 are possible"
        raise ConfigError(what, where=f"configuration {config.name}", remedy="use one of 21 columns or fewer")
    found["factored"] = config.replace(
        name=f"{config.name} x 3, shift", cols=cols, pe_kinds=["shift"], rebuild=False
    )
    return found


def compare(
    config: AcceleratorConfig, *, seed: int = 0, family: str | None = None
) -> Iterator[SmartDealRecord]:
    """Every network of `NETWORKS` dense, and with no and half of the rows zero, rebuilt and factored.

    Parameters
    ----------
    config: the dense array; the others are made of it (`arrays`).
    family: synthesise the accelerators for this family, too.

    Raises
    ------
    ConfigError: as `arrays`. ModelError, DeviceError, ToolError: as `popshift.gen.bench.measure.run_cases`.
    """
    dense: dict[str, Record] = {}
    for execution, array in arrays(config).items():
        suffixes = [""] if execution == "dense int8" else [f"-{suffix}" for suffix in SMARTDEAL_FORMS]
        names = {f"{network}{suffix}": network for network in NETWORKS for suffix in suffixes}
        area = _area(array, family)
        for record in run_cases({name: CASES[name] for name in names}, array, level=Level.RTL, seed=seed):
            network = names[record.case]
            dense.setdefault(network, record)
            yield _record(network, execution, array, record, dense[network], area)


def _area(config: AcceleratorConfig, family: str | None) -> dict[str, Any]:
    if family is None:
        return {}
    from popshift.gen.bench.area import whole_accelerator

    figures = whole_accelerator(config, family)
    return {"family": family, "lut4": figures["lut4"], "dsp": figures["dsp"]}


def _record(
    network: str,
    execution: str,
    config: AcceleratorConfig,
    record: Record,
    dense: Record,
    area: dict[str, Any],
) -> SmartDealRecord:
    assert record.cycles and dense.cycles and record.weight_bytes_read and dense.weight_bytes_read
    return SmartDealRecord(
        smartdeal=network,
        case=record.case,
        execution=execution,
        config=config.name,
        config_digest=record.config_digest,
        pes=config.rows * config.cols,
        pe_kinds=list(config.pe_kinds),
        seed=record.seed,
        accuracy=record.accuracy,
        bits_per_weight=FLOAT_BITS / record.compression,
        compression=record.compression,
        cycles=record.cycles,
        weight_bytes=record.weight_bytes_read,
        speedup=dense.cycles / record.cycles,
        traffic=record.weight_bytes_read / dense.weight_bytes_read,
        mismatches=record.mismatches,
        **area,
    )
