"""Running the standard cases and collecting what the hardware counts."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from popshift.firmware_py.program import LayerRecord as ProgramLayer
from popshift.firmware_py.program import Program
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.gen.bench.cases import Case, Workload
from popshift.gen.bench.files import differing
from popshift.gen.bench.records import LayerRecord, Record
from popshift.gen.compilation import Compiled, compile_graph
from popshift.gen.execution import Arrays, Execution, Level, execute
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import CYCLE_CAUSES, Counter
from popshift.sim.cycles import predicted_cycles

BUSY = (Counter.MATRIX, Counter.CHANNEL)
"""Causes of a cycle in which activations are read; all others are stalls."""
BOARD_SEED = 1
"""Added to the seed of the numbers: the simulated board wants a positive one."""

Counters = dict[Counter, int]


def run_cases(
    cases: dict[str, Case],
    config: AcceleratorConfig,
    *,
    level: Level = Level.RTL,
    seed: int = 0,
    skip: Callable[[str, ModelError], None] | None = None,
) -> Iterator[Record]:
    """Run cases one after the other, at ``rtl`` on one simulated board.

    Parameters
    ----------
    level: ``isa`` or ``rtl``.
    seed: of everything that is drawn.
    skip: called with the name of a case that does not fit the configuration and the reason, and the case is
        left out; None: that is an error.

    Raises
    ------
    ModelError: a case does not fit the configuration.
    DeviceError, ToolError: the simulation fails, or cannot be built.
    """
    compiled = {}
    for name, case in cases.items():
        try:
            workload = case.build(config, seed)
            compiled[name] = workload, workload.compiled or compile_graph(workload.graph, config, name)
        except ModelError as error:
            if skip is None:
                raise
            skip(name, error)
    with _board(config, level, seed) if compiled else contextlib.nullcontext() as device:
        for name, (workload, network) in compiled.items():
            yield _run(name, workload, network, level, seed, device)


@contextlib.contextmanager
def _board(config: AcceleratorConfig, level: Level, seed: int) -> Iterator[Accelerator | None]:
    if level is not Level.RTL:
        yield None
        return
    from popshift.sim.board import open_board

    with (
        open_board(config, seed=seed + BOARD_SEED) as board,
        Accelerator(Link(board, fifo_bytes=config.link_fifo_depth)) as device,
    ):
        yield device


def _run(
    name: str, workload: Workload, network: Compiled, level: Level, seed: int, device: Accelerator | None
) -> Record:
    started = time.monotonic()
    program, config = network.program, network.program.config
    wanted = network.run(workload.images, Level.GOLDEN).tensors
    computed = network.run(workload.images, Level.ISA)
    mismatches = _differing(wanted, computed.tensors)
    run, counters, images = None, None, len(workload.images)
    if device is not None:
        images = workload.rtl_images
        run = execute(program, workload.images[:images], Level.RTL, board=device)
        mismatches += _differing(wanted, run.outputs)
        counters = run.counters
    layers = _layers(program, run)
    macs = sum(layer.macs for layer in program.layers)
    cycles = None if counters is None else counters[Counter.CYCLES]
    errors = [layer.relative_error for layer in layers if layer.relative_error is not None]
    return Record(
        case=name,
        config=config.name,
        config_digest=f"{config.digest:016x}",
        level=str(level),
        seed=seed,
        images=images,
        macs=macs,
        cycles=cycles,
        predicted_cycles=predicted_cycles(program),
        worst_layer_error=max(errors, default=None),
        utilisation=_utilisation(macs, cycles, config),
        busy=_causes(counters, config, BUSY),
        stalls=_causes(counters, config, STALLS),
        weight_bytes_read=_traffic(counters, Counter.WEIGHT_WORDS, config.weight_word_bytes, config),
        activation_bytes_read=_traffic(counters, Counter.ACTIVATION_READS, config.rows, config),
        mismatches=mismatches,
        accuracy=_accuracy(workload, computed.outputs),
        compression=workload.compression,
        reference_mismatches=_against(workload, network, computed.outputs),
        seconds=round(time.monotonic() - started, 2),
        layers=layers,
    )


STALLS = tuple(cause for cause in CYCLE_CAUSES if cause not in BUSY)


def _differing(wanted: Arrays, got: Arrays) -> int:
    """Values of the tensors in both that differ; `got` may have fewer images."""
    return sum(
        int(np.count_nonzero(wanted[name][: len(array)] != array))
        for name, array in got.items()
        if name in wanted
    )


def _against(workload: Workload, network: Compiled, outputs: Arrays) -> int | None:
    return None if workload.reference is None else differing(network, outputs, workload.reference)


def _layers(program: Program, run: Execution | None) -> list[LayerRecord]:
    found: Sequence[Counters | None] = [None] * len(program.layers)
    if run is not None and run.layer_counters is not None:
        found = [entry.counters for entry in run.layer_counters]
    return [
        _layer(layer, counters, program.config) for layer, counters in zip(program.layers, found, strict=True)
    ]


def _layer(layer: ProgramLayer, counters: Counters | None, config: AcceleratorConfig) -> LayerRecord:
    cycles = None if counters is None else counters[Counter.CYCLES]
    return LayerRecord(
        name=layer.name,
        kind=layer.kind,
        macs=layer.macs,
        bottleneck=layer.bottleneck,
        predicted_cycles=layer.predicted_cycles,
        cycles=cycles,
        relative_error=None if cycles is None else abs(layer.predicted_cycles - cycles) / cycles,
        utilisation=None if "beside" in layer.mapping else _utilisation(layer.macs, cycles, config),
        busy=_causes(counters, config, BUSY),
        stalls=_causes(counters, config, STALLS),
        mapping=dict(layer.mapping),
    )


def _utilisation(macs: int, cycles: int | None, config: AcceleratorConfig) -> float | None:
    return macs / (cycles * config.peak_macs_per_cycle) if macs and cycles else None


def _causes(
    counters: Counters | None, config: AcceleratorConfig, causes: Sequence[Counter]
) -> dict[str, int] | None:
    if counters is None or not config.performance_counters:
        return None
    return {cause.name.lower(): counters[cause] for cause in causes}


def _traffic(
    counters: Counters | None, counter: Counter, word_bytes: int, config: AcceleratorConfig
) -> int | None:
    if counters is None or not config.performance_counters:
        return None
    return counters[counter] * word_bytes


def _accuracy(workload: Workload, outputs: dict[str, Any]) -> float | None:
    if workload.labels is None:
        return None
    scores = outputs[workload.graph.outputs[0]]
    return float((scores.reshape(len(scores), -1).argmax(1) == workload.labels).mean())
