"""Binary beside int8: the same networks with weights and activations of both kinds, on one array."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from popshift.gen.bench.cases import CASES
from popshift.gen.bench.measure import run_cases
from popshift.gen.bench.records import Record, tools
from popshift.gen.compress.smartdeal.report import FLOAT_BITS
from popshift.gen.level import Level
from popshift.hw.config import BINARY_OFFSET_BITS, AcceleratorConfig
from popshift.hw.numerics import LANE_CHANNELS

NETWORKS = ("conv128", "digits", "resnet20", "vgg-small")
_BINARY = "-bin"


@dataclass(frozen=True, kw_only=True)
class BinaryRecord:
    """One network in one form.

    Attributes
    ----------
    binary: the network. case: the bench case. form: ``int8`` or ``binary``.
    config, config_digest: the array.
    accuracy: on the accelerator; None without labels.
    bits_per_weight: of all weights; first and last layers are int8.
    macs, cycles, weight_bytes: of an image; the last two counted by the hardware.
    macs_per_cycle: over the whole run.
    speedup: MACs a cycle over those of int8. traffic: weight bytes over those of int8.
    mismatches: integers that differ from the golden model.
    """

    binary: str
    case: str
    form: str
    config: str
    config_digest: str
    seed: int
    accuracy: float | None
    bits_per_weight: float
    macs: int
    cycles: int
    macs_per_cycle: float
    speedup: float
    weight_bytes: int
    traffic: float
    mismatches: int
    tools: dict[str, str] = field(default_factory=lambda: tools())


def array(config: AcceleratorConfig) -> AcceleratorConfig:
    """The configuration with ``xnor`` PEs beside its multipliers, and room for VGG-Small in int8.

    Without ``depthwise``: no network here has such a layer, and the channel unit makes signs faster when it
    does not read through the port that they are written through.
    """
    return config.replace(
        name=f"{config.name} + xnor",
        pe_kinds=["mul", "xnor"],
        post_lanes=min(config.post_lanes, LANE_CHANNELS),
        rebuild=False,
        depthwise=False,
        activation_depth=1 << BINARY_OFFSET_BITS,
    )


def compare(config: AcceleratorConfig, *, seed: int = 0) -> Iterator[BinaryRecord]:
    """Every network of `NETWORKS`, int8 and binary.

    Parameters
    ----------
    config: whose array is taken (`array`).

    Raises
    ------
    ConfigError: xnor PEs are impossible there. ModelError, DeviceError, ToolError: as
    `popshift.gen.bench.measure.run_cases`.
    """
    names = [f"{network}{suffix}" for network in NETWORKS for suffix in ("", _BINARY)]
    before: Record | None = None
    for record in run_cases({name: CASES[name] for name in names}, array(config), level=Level.RTL, seed=seed):
        if not record.case.endswith(_BINARY):
            before = record
        assert before is not None
        yield _record(record, before)


def _record(record: Record, int8: Record) -> BinaryRecord:
    assert record.cycles and int8.cycles and record.weight_bytes_read and int8.weight_bytes_read
    rate = record.macs / record.cycles
    return BinaryRecord(
        binary=int8.case,
        case=record.case,
        form="int8" if record is int8 else "binary",
        config=record.config,
        config_digest=record.config_digest,
        seed=record.seed,
        accuracy=record.accuracy,
        bits_per_weight=FLOAT_BITS / record.compression,
        macs=record.macs,
        cycles=record.cycles,
        macs_per_cycle=rate,
        speedup=rate / (int8.macs / int8.cycles),
        weight_bytes=record.weight_bytes_read,
        traffic=record.weight_bytes_read / int8.weight_bytes_read,
        mismatches=record.mismatches,
    )
