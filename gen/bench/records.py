"""What a run of the bench reports: plain records, the same for JSON, tables and docs/results.md."""

import platform
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

_PACKAGES = ("popshift", "amaranth", "pyosys", "torch", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """One layer of a case; what only the hardware counts is None at level ``isa``.

    Attributes
    ----------
    name, kind, macs, bottleneck: as the compiler gives them.
    predicted_cycles: by the cycle model.
    cycles: counted from mark to mark.
    relative_error: of the prediction, as a fraction of `cycles`.
    utilisation: MACs per cycle as a fraction of the array's peak; None for a layer without MACs,
        or one that runs beside the layer in front.
    busy, stalls: cycles by cause; None if the configuration has no performance counters.
    mapping: what the mapper chose.
    """

    name: str
    kind: str
    macs: int
    bottleneck: str
    predicted_cycles: int
    cycles: int | None
    relative_error: float | None
    utilisation: float | None
    busy: dict[str, int] | None
    stalls: dict[str, int] | None
    mapping: dict[str, Any]


@dataclass(kw_only=True)
class Record:
    """One case on one configuration; figures are of one image.

    Attributes
    ----------
    config, config_digest: name, and what tells two architectures apart.
    level: ``isa`` or ``rtl``.
    seed: of weights, inputs and of what the simulated memories hold at the start.
    images: run at this level.
    cycles: between start and done, counted by the hardware; None at ``isa``, like everything counted.
    predicted_cycles: of the whole program.
    worst_layer_error: largest relative error of a layer's predicted cycles.
    utilisation: macs / (cycles * rows * cols); None without MACs.
    busy: cycles in which the matrix unit or the channel unit read activations.
    stalls: the other cycles by their cause (`popshift.hw.isa.Counter`). With `busy` they add up to `cycles`.
    weight_bytes_read, activation_bytes_read: from the accelerator's memories, row offsets included.
    mismatches: int8 values that differ from the golden model: every tensor at ``isa``, and the outputs at
        ``rtl``.
    accuracy: share of all images classified as labelled, at ``isa``; None if there are no labels.
    compression: 32-bit floats over the storage of the weights, indices and bases included.
    reference_mismatches: of a model file with reference outputs beside it: values that differ from theirs if
        they are int8, else inputs that are of another class; all inputs, at ``isa``.
    area: of the configuration after synthesis (`popshift.gen.bench.area`), if asked for.
    speed: of generator and simulator (`popshift.gen.bench.speed`), if asked for.
    seconds: of wall time, without building the simulator.
    """

    case: str
    config: str
    config_digest: str
    level: str
    seed: int
    images: int
    macs: int
    cycles: int | None
    predicted_cycles: int
    worst_layer_error: float | None
    utilisation: float | None
    busy: dict[str, int] | None
    stalls: dict[str, int] | None
    weight_bytes_read: int | None
    activation_bytes_read: int | None
    mismatches: int
    accuracy: float | None
    compression: float
    seconds: float
    layers: list[LayerRecord]
    reference_mismatches: int | None = None
    area: list[dict[str, Any]] | None = None
    speed: dict[str, Any] | None = None
    tools: dict[str, str] = field(default_factory=lambda: tools())


@cache
def tools() -> dict[str, str]:
    """Version of every tool that decides about a figure, and the machine's processor."""
    from popshift.sim.verilator import compiler_version, find_verilator

    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        **versions,
        "python": platform.python_version(),
        "verilator": find_verilator().version,
        "compiler": compiler_version(),
        "processor": _processor(),
    }


def _processor() -> str:
    """The processor's name as Linux gives it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
