"""What becomes of a network on an accelerator, layer by layer, or why nothing does."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from popshift.firmware_py.program import LayerRecord, Program
from popshift.firmware_py.tensors import QuantisedInputs
from popshift.gen.compilation import GRAPH, attached_graph, compile_model, needs_ranges
from popshift.gen.execution import Level, execute
from popshift.gen.frontend import check_model, load_model
from popshift.gen.frontend.findings import Finding
from popshift.gen.frontend.float_graph import FloatGraph
from popshift.gen.graph import Convolution
from popshift.gen.mapping.eyexam import STEPS, Chain
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.status import Counter, plain_counters
from popshift.sim.cycles import predicted_cycles

_SAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The verdict on a network.

    Attributes
    ----------
    network, config: names.
    operators: the front end's verdict on every operator; empty for a program file.
    problem: why the network as a whole cannot be mapped although every operator is known; empty if it can.
    layers: the program's layers, in order; empty if there is no program.
    segments: how often the accelerator's memories are loaded for an image (more than once: see the driver).
    loaded_bytes: how many bytes that are. clock_hz: the configuration's.
    peak: MACs per cycle of the whole array.
    notes: what the user should know.
    cycles: predicted, of one image.
    measured: of each layer the hardware's counters, if asked for, in a run that stops behind each: then they
        are the last step of its chain. measured_cycles: of an image that does not stop.
    """

    network: str
    config: str
    operators: tuple[Finding, ...] = ()
    problem: str = ""
    layers: tuple[LayerRecord, ...] = ()
    segments: int = 0
    loaded_bytes: int = 0
    clock_hz: int = 1
    peak: int = 1
    notes: tuple[str, ...] = ()
    cycles: int = 0
    measured: tuple[dict[str, int], ...] = ()
    measured_cycles: int = 0

    @property
    def refused(self) -> list[Finding]:
        """The operators that cannot run."""
        return [finding for finding in self.operators if not finding.supported]

    @property
    def maps(self) -> bool:
        """Whether the network runs on the accelerator."""
        return not self.problem and not self.refused

    @property
    def utilisation(self) -> float:
        """Predicted MACs per cycle over the array's peak, 0 .. 1."""
        macs = sum(layer.macs for layer in self.layers)
        return macs / (self.cycles * self.peak) if self.cycles else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ``cycles`` and ``utilisation`` are None if the network does not map."""
        predicted = {"cycles": self.cycles, "utilisation": self.utilisation}
        known = predicted if self.maps else dict.fromkeys(predicted)
        return {**asdict(self), "maps": self.maps, **known}


def explain_program(program: Program, *, measure: bool = False) -> Explanation:
    """What a compiled program does; `measure`: as `explain_model` takes it."""
    return _explained(program, measure)


def explain_model(
    spec: str, config: AcceleratorConfig, calibration: Any = None, *, measure: bool = False
) -> Explanation:
    """The verdict on a model file or ``module:function``.

    Parameters
    ----------
    calibration: as `popshift.gen.compilation.compile_model` takes it. How a network is mapped hardly depends
        on it, so without any, random numbers take its place; a note says so.
    measure: run an image of random numbers on the simulated hardware for its counters.

    Raises
    ------
    ModelError: it cannot be read at all.
    InputError: calibration data of the wrong shape, or with NaN.
    """
    operators = tuple(check_model(spec))
    if not all(finding.supported for finding in operators):
        return Explanation(network=spec, config=config.name, operators=operators)
    try:
        loaded = load_model(spec, config.requantise)
        notes: tuple[str, ...] = ()
        given = calibration is not None or loaded.calibration is not None
        if not given and loaded.graph is not None and needs_ranges(loaded.graph):
            calibration = _random_inputs(loaded.graph)
            notes = ("no calibration data: random inputs took its place, the mapping hardly depends on it",)
        compiled = compile_model(spec, config, calibration, loaded=loaded)
    except ModelError as error:
        return Explanation(network=spec, config=config.name, operators=operators, problem=str(error))
    found = _explained(compiled.program, measure)
    return replace(found, operators=operators, notes=(*compiled.notes, *notes))


def _explained(program: Program, measure: bool) -> Explanation:
    layers, measured, counted = _layers(program), (), 0
    if measure:
        measured, counted = _measured(program)
        pairs = zip(layers, measured, strict=True)
        layers = tuple(with_measured_chain(layer, counters["cycles"]) for layer, counters in pairs)
    return Explanation(
        network=program.name,
        config=program.config.name,
        layers=layers,
        segments=len(program.segments),
        loaded_bytes=sum(segment.size for segment in program.segments),
        clock_hz=program.config.clock_hz,
        peak=program.config.peak_macs_per_cycle,
        cycles=predicted_cycles(program),
        measured=measured,
        measured_cycles=counted,
    )


def _measured(program: Program) -> tuple[tuple[dict[str, int], ...], int]:
    """The hardware's counters, layer by layer, of an image of random numbers; and the cycles of a run that
    does not stop between them.
    """
    random = np.random.default_rng(0)
    image = {
        layout.name: random.integers(-128, 128, (1, *layout.shape)).astype(np.int8)
        for layout in program.inputs
    }
    done = execute(program, QuantisedInputs(image), Level.RTL)
    assert done.layer_counters is not None and done.counters is not None, "the hardware counts"
    by_cause = program.config.performance_counters
    layers = tuple(plain_counters(entry.counters, by_cause=by_cause) for entry in done.layer_counters)
    return layers, done.counters[Counter.CYCLES]


def with_measured_chain(layer: LayerRecord, cycles: int) -> LayerRecord:
    """The layer with the cycles counted behind the last step of its chain."""
    if "chain" not in layer.mapping:
        return layer
    chain = dict(layer.mapping["chain"])
    *_, bandwidth, pipeline = STEPS
    chain[pipeline] = min(chain[bandwidth], round(layer.macs / cycles, 2))  # it may run beside another
    loss = Chain(**chain).largest_loss
    return replace(layer, mapping={**layer.mapping, "chain": chain, "largest_loss": loss})


def mapping_text(layer: LayerRecord) -> str:
    """The mapping of a layer on one line."""
    mapping = layer.mapping
    parts = [_execution_text(layer)] if mapping.get("execution", "dense") != "dense" else []
    if "input_period" in mapping:
        parts.append(f"period {mapping['input_period']}, copies {mapping['input_copies']}")
    if "row_tiles" in mapping:
        parts.append(f"row tiles {mapping['row_tiles']}, column tiles {mapping['column_tiles']}")
        pixels = f"{mapping['pixel_tiles']} of {mapping['tile_height']} x {mapping['tile_width']}"
        parts.append(f"pixel tiles {pixels}")
        parts.append(f"rows {100 * mapping['row_fill']:.0f} %, columns {100 * mapping['column_fill']:.0f} %")
    elif "window" in mapping:
        parts.append(f"window {mapping['window']}")
    elif "words" in mapping:
        parts.append(f"{mapping['words']} words")
    return ", ".join(parts)


def _execution_text(layer: LayerRecord) -> str:
    """How a layer that is not plain int8 is executed, and why."""
    mapping = layer.mapping
    others = [f"{name} {cycles:,} cycles" for name, cycles in mapping["other_executions"].items()]
    others += [f"not {name}: {why}" for name, why in mapping["impossible_executions"].items()]
    return f"{mapping['execution']}" + (f" ({'; '.join(others)})" if others else "")


def _layers(program: Program) -> tuple[LayerRecord, ...]:
    """The records; convolutions whose kernel covers their input are listed as what they are."""
    if GRAPH not in program.attachments:
        return tuple(program.layers)
    graph = attached_graph(program)
    linear = {
        operator.output
        for operator in graph.operators
        if isinstance(operator, Convolution)
        and operator.window.kernel == graph.tensors[operator.input].shape[1:]
        and not any(operator.window.padding)
    }
    return tuple(
        replace(layer, kind="linear") if layer.kind == "convolution" and layer.output in linear else layer
        for layer in program.layers
    )


def _random_inputs(graph: FloatGraph) -> torch.Tensor:
    name = graph.inputs[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_SAMPLES, *graph.dims.get(name, graph.tensors[name].shape), generator=generator)
