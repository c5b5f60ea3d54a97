"""From a network to a program: front end, quantisation and mapping in one call."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike

from popshift.firmware_py.program import Program
from popshift.gen import graph_file
from popshift.gen.compress import int8
from popshift.gen.compress.ranges import ADD_BATCH, QuantisationOptions
from popshift.gen.compress.report import QuantisationReport, compare
from popshift.gen.frontend import LoadedModel, load_model, torch_export
from popshift.gen.frontend.float_graph import FloatConvolution, FloatGraph
from popshift.gen.frontend.integer_network import IntegerNetwork
from popshift.gen.graph import Graph
from popshift.gen.mapping import map_graph
from popshift.gen.real_outputs import with_file_layout, with_output_dims, with_tails
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.errors import InputError, ModelError, ProgramError

if TYPE_CHECKING:
    from popshift.gen.execution import Execution

GRAPH = "graph"
"""Name of the attachment that holds the integer graph (`popshift.gen.graph_file`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compiled:
    """A network that has become a program.

    Attributes
    ----------
    program: what the accelerator runs; it carries `graph` as an attachment.
    graph: the integer network, which the golden model runs.
    float_graph: the network before quantisation, as the front end took it; None if there was none.
    calibration: the inputs that it was quantised with.
    notes: what the user should know about the import: an operator left to the host, such as a softmax at the
        end. `compile_module` warns about each, too.
    """

    program: Program
    graph: Graph
    float_graph: FloatGraph | None = None
    calibration: Any = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Compiled {self.program.summary}>"

    def run(self, inputs: Any, level: str = "rtl", **options: Any) -> "Execution":
        """Execute it; see `popshift.gen.execution.execute`."""
        from popshift.gen.execution import execute

        return execute(self.program, inputs, level, graph=self.graph, **options)

    def quantisation_report(self) -> QuantisationReport | None:
        """Range and signal to noise ratio of every tensor on the calibration data; None without a float
        network."""
        if self.float_graph is None:
            return None
        return compare(self.float_graph, self.graph, self.calibration)


def compile_module(
    module: torch.nn.Module,
    calibration: torch.Tensor | ArrayLike,
    config: AcceleratorConfig | str | Path,
    *,
    example: Any = None,
    name: str = "network",
    options: QuantisationOptions | None = None,
) -> Compiled:
    """Quantise a PyTorch network to int8 and map it onto an accelerator.

    Parameters
    ----------
    module: with one input; it stays as it is.
    calibration: typical inputs, batch first, as the module takes them: (N, channels, height, width) or (N,
        features); some hundred samples.
    config: a configuration, its shipped name or its file.
    example: an input to trace the module with; by default the first calibration sample.
    name: of the network, in messages and reports.
    options: how activation ranges are chosen.

    Raises
    ------
    ConfigError: no such configuration.
    InputError: calibration data of the wrong shape, empty, or with NaN.
    ModelError: an operator is not supported, or the network does not fit; names the layer and the remedy.

    Warns
    -----
    UserWarning: what `Compiled.notes` holds.
    """
    config = _config(config)
    samples = _samples(calibration)
    if example is None:
        float_graph = _traced_with(module, samples)
    else:
        float_graph = torch_export.from_module(module, example)
    compiled = _compile_float(float_graph, samples, config, name, options)
    for note in compiled.notes:
        warnings.warn(note, stacklevel=2)
    return compiled


def compile_model(
    spec: str,
    config: AcceleratorConfig | str | Path,
    calibration: torch.Tensor | ArrayLike | None = None,
    *,
    name: str | None = None,
    options: QuantisationOptions | None = None,
    loaded: LoadedModel | None = None,
) -> Compiled:
    """Compile a model file, or what ``module:function`` returns; see `popshift.gen.frontend.load_model`.

    Parameters
    ----------
    calibration: as in `compile_module`; by default what the function returned.
    name: of the network, by default the file's or the function's.
    loaded: what `load_model` made of `spec`, if that has been done, in the configuration's mode.

    Raises
    ------
    As `compile_module`; InputError also if there is no calibration data but it is needed: a network that is
    quantised already uses none.
    """
    config = _config(config)
    loaded = loaded or load_model(spec, config.requantise)
    name = name or model_name(spec)
    if loaded.integer is not None:
        return _compile_integer(loaded.integer, config, name, calibrated=calibration is not None)
    assert loaded.graph is not None
    samples = calibration_of(loaded, spec, calibration)
    return _compile_float(loaded.graph, samples, config, name, options)


def compile_graph(graph: Graph, config: AcceleratorConfig | str | Path, name: str = "network") -> Compiled:
    """Map an integer network onto an accelerator.

    Raises
    ------
    ModelError: it was quantised for another requantisation mode, or does not fit.
    """
    program = map_graph(graph, _config(config), name=name)
    program = dataclasses.replace(program, attachments={GRAPH: graph_file.to_bytes(graph)})
    return Compiled(program=program, graph=graph)


def attached_graph(program: Program) -> Graph:
    """The integer network that a program was compiled from.

    Raises
    ------
    ProgramError: the program carries none, or it is damaged.
    """
    if GRAPH not in program.attachments:
        raise ProgramError(
            "it does not carry the network it was compiled from",
            where=f"program {program.name}",
            remedy="compile the model again with popshift compile",
        )
    return graph_file.from_bytes(program.attachments[GRAPH], where=f"program {program.name}")


def calibration_of(loaded: LoadedModel, spec: str, given: torch.Tensor | ArrayLike | None) -> torch.Tensor:
    """The calibration data to use: what was given, else what came with the model; zeros for a network in
    which nothing has a range.

    Raises
    ------
    InputError: there is none although it is needed.
    """
    samples = loaded.calibration if given is None else given
    graph = loaded.graph
    if samples is None and graph is not None and not needs_ranges(graph):
        samples = torch.zeros(1, *graph.tensors[graph.inputs[0]].shape)
    if samples is None:
        raise InputError(
            "no calibration data, which decides the ranges of the int8 activations",
            where=spec,
            remedy="give typical inputs: --calibration x.npy, or return them as the function's third value",
        )
    return _samples(samples)


def needs_ranges(graph: FloatGraph) -> bool:
    """Whether some tensor is neither binary nor made of whole numbers."""
    whole = {
        operator.output
        for operator in graph.operators
        if isinstance(operator, FloatConvolution) and operator.whole
    }
    return any(
        not tensor.sign and tensor.levels is None and name not in whole
        for name, tensor in graph.tensors.items()
    )


def model_name(spec: str) -> str:
    """``net`` for ``dir/net.pt2`` and for ``package.module:net``."""
    _, colon, function = spec.rpartition(":")
    return function if colon and function.isidentifier() else Path(spec).stem


def _compile_float(
    float_graph: FloatGraph,
    samples: torch.Tensor,
    config: AcceleratorConfig,
    name: str,
    options: QuantisationOptions | None,
) -> Compiled:
    graph = int8.quantise(
        float_graph,
        samples,
        config.requantise,
        options,
        accumulator_width=config.accumulator_width,
        smartdeal=config.smartdeal,
    )
    compiled = compile_graph(graph, config, name)
    return dataclasses.replace(
        compiled,
        program=with_tails(with_output_dims(compiled.program, float_graph.dims), float_graph.tails),
        float_graph=float_graph,
        calibration=samples,
        notes=(*float_graph.notes, *_without_smartdeal(float_graph, config), *_all_alike(samples)),
    )


def _compile_integer(
    network: IntegerNetwork, config: AcceleratorConfig, name: str, *, calibrated: bool
) -> Compiled:
    compiled = compile_graph(network.graph, config, name)
    unused = ["the network is quantised already: the calibration data are not used"] if calibrated else []
    return dataclasses.replace(
        compiled,
        program=with_file_layout(compiled.program, network.dims, network.tails),
        notes=(*network.notes, *unused),
    )


def _all_alike(samples: torch.Tensor) -> list[str]:
    """A note if the calibration data say nothing about ranges."""
    if samples.numel() < 2 or samples.min() < samples.max():
        return []
    return [f"all numbers of the calibration data are {samples.flatten()[0]:g}: the ranges mean nothing"]


def _without_smartdeal(float_graph: FloatGraph, config: AcceleratorConfig) -> list[str]:
    """A note if SmartDeal weights become int8 because nothing there can use them."""
    layers = [
        operator.name
        for operator in float_graph.operators
        if isinstance(operator, FloatConvolution) and operator.smartdeal is not None
    ]
    if config.smartdeal or not layers:
        return []
    what = f"configuration {config.name} has neither rebuild nor shift PEs"
    return [f"{what}: the SmartDeal weights of {', '.join(layers)} are quantised to int8 once more"]


def _traced_with(module: torch.nn.Module, samples: torch.Tensor) -> FloatGraph:
    """The network, traced with the first sample."""
    try:
        return torch_export.from_module(module, samples[:1].float())
    except ModelError:
        if _lacks_batch(module, samples):
            what = f"it lacks the batch dimension: its shape is {tuple(samples.shape)}"
            raise InputError(what, where="calibration data", remedy=ADD_BATCH) from None
        raise


def _lacks_batch(module: torch.nn.Module, samples: torch.Tensor) -> bool:
    """Whether the module takes what was given as a single sample."""
    try:
        torch_export.from_module(module, samples.unsqueeze(0).float())
    except ModelError:
        return False
    return True


def _config(config: AcceleratorConfig | str | Path) -> AcceleratorConfig:
    return config if isinstance(config, AcceleratorConfig) else load_config(config)


def _samples(values: Any) -> torch.Tensor:
    """Calibration data as a tensor; what it holds is checked where it is used."""
    try:
        samples = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"not an array of numbers ({error})", where="calibration data") from error
    if samples.ndim == 0 or len(samples) == 0:
        raise InputError(
            "there is no sample", where="calibration data", remedy="give an array with the batch first"
        )
    return samples
