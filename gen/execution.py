"""Running a program at any level, and finding the first integer that differs."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.program import Program
from popshift.firmware_py.progress import TransferBar
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator, Profile
from popshift.firmware_py.tensors import QuantisedInputs
from popshift.firmware_py.transport import Transport
from popshift.gen import golden
from popshift.gen.compilation import attached_graph
from popshift.gen.device import open_device
from popshift.gen.graph import Graph
from popshift.gen.level import Level
from popshift.gen.real_outputs import real_outputs
from popshift.hw.errors import InputError
from popshift.hw.isa import Counter
from popshift.sim.run import run_program

Arrays = dict[str, NDArray[np.int8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCounters:
    """The counters of one layer for one image, from the mark before it to its own."""

    layer: str
    counters: dict[Counter, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Execution:
    """What came out.

    Attributes
    ----------
    level: what computed it.
    outputs: int8 (N, channels, height, width) by output name.
    tensors: the same for every tensor that is known: all of them at ``golden`` and ``isa``, and on hardware
        if asked for; else the outputs.
    real_outputs: the outputs as real numbers, float64, in the shape of the module's own output (else (N,
        features) for a vector); see `popshift.gen.real_outputs`.
    counters: of one image, on hardware; None elsewhere. They do not depend on its values. For a program of
        one segment from start to done; of several, the sum over its layers.
    layer_counters: of one image, per layer, on hardware; None elsewhere.
    seconds: wall time, without that of building the simulation.
    """

    level: Level
    outputs: Arrays
    tensors: Arrays = field(default_factory=dict)
    real_outputs: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    counters: dict[Counter, int] | None = None
    layer_counters: list[LayerCounters] | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """The first value that is not what it should be; ``index`` is (image, channel, row, column)."""

    tensor: str
    index: tuple[int, ...]
    wanted: int
    got: int

    def __str__(self) -> str:
        return f"tensor {self.tensor}, index {self.index}: {self.got} instead of {self.wanted}"


def execute(
    program: Program,
    inputs: Any,
    level: Level | str = Level.RTL,
    *,
    graph: Graph | None = None,
    board: Accelerator | Transport | None = None,
    every_tensor: bool = False,
    progress: bool = False,
    family: str = "ecp5",
) -> Execution:
    """Run a batch.

    Parameters
    ----------
    inputs: (N, channels, height, width), or (N, features) for a vector: floating point, quantised as the
        driver does it, or int8; an array, a tensor, or a mapping by input name.
    level: a `Level`.
    graph: the network, for ``golden``; by default the one that the program carries.
    board: for ``rtl``: a device to use, which stays open; by default a simulated board is built and started.
    every_tensor: on hardware, read back what every layer writes, too; slower.
    progress: show a bar when it takes longer.
    family: of devices, for ``netlist``: one of `popshift.sim.netlist.FAMILIES`.

    Raises
    ------
    InputError: no such level, or inputs of another shape or dtype, or with NaN.
    ProgramError: no graph for ``golden``; a board of another configuration.
    DeviceError, ToolError: the device or the simulation failed.
    """
    chosen = _level(level)
    arrays = program.quantise_inputs(_plain(inputs))
    started = time.monotonic()
    if chosen.is_hardware:
        with _device(program, board, chosen, family) as device:
            return _on_device(device, program, arrays, every_tensor, progress, chosen)[0]
    if chosen is Level.GOLDEN:
        tensors = golden.run(graph or attached_graph(program), arrays)
    else:
        tensors = run_program(program, arrays)
    outputs = {tensor.name: tensors[tensor.name] for tensor in program.outputs}
    return Execution(
        level=chosen,
        outputs=outputs,
        tensors=tensors,
        real_outputs=real_outputs(program, outputs),
        seconds=time.monotonic() - started,
    )


def verify(
    program: Program,
    inputs: Any,
    level: Level | str = Level.RTL,
    *,
    graph: Graph | None = None,
    board: Accelerator | Transport | None = None,
    progress: bool = False,
    family: str = "ecp5",
) -> tuple[Execution, Difference | None]:
    """Run a batch and compare every known tensor with the golden model; parameters and errors as `execute`.

    On hardware these are every tensor of the first image and the outputs of all; if an output differs, its
    image is run again layer by layer to find the tensor where it begins.

    Returns
    -------
    the execution, and the first difference in order of execution, or None.
    """
    chosen = _level(level)
    arrays = program.quantise_inputs(_plain(inputs))
    reference = execute(program, arrays, Level.GOLDEN, graph=graph)
    if chosen is Level.GOLDEN:
        return reference, None
    wanted = reference.tensors
    order = [*(tensor.name for tensor in program.inputs), *(layer.output for layer in program.layers)]
    if chosen is Level.ISA:
        found = execute(program, arrays, chosen)
        return found, first_difference(wanted, found.tensors, order)
    with _device(program, board, chosen, family) as device:
        found, profiled = _on_device(device, program, arrays, False, progress, chosen)
        difference = first_difference(_image(wanted, 0), profiled, order)
        if difference is None:
            difference = first_difference(wanted, found.outputs, list(found.outputs))
            if difference is not None:
                difference = _origin(device, program, arrays, wanted, difference, order)
    return found, difference


def first_difference(wanted: Arrays, got: Arrays, order: Sequence[str]) -> Difference | None:
    """The first difference, tensor by tensor in the given order, of those that both have."""
    for name in order:
        if name in wanted and name in got:
            places = np.argwhere(wanted[name] != got[name])
            if len(places):
                index = tuple(int(position) for position in places[0])
                return Difference(name, index, int(wanted[name][index]), int(got[name][index]))
    return None


def _origin(
    device: Accelerator,
    program: Program,
    inputs: Arrays,
    wanted: Arrays,
    difference: Difference,
    order: Sequence[str],
) -> Difference:
    """Where the difference in an output begins, if running its image once more shows it."""
    image = difference.index[0]
    again, _ = _on_device(device, program, _image(inputs, image), every_tensor=True, progress=False)
    origin = first_difference(_image(wanted, image), again.tensors, order)
    if origin is None:
        return difference
    return Difference(origin.tensor, (image, *origin.index[1:]), origin.wanted, origin.got)


def _image(arrays: Arrays, index: int) -> Arrays:
    """A batch of one."""
    return QuantisedInputs({name: array[index : index + 1] for name, array in arrays.items()})


def _level(level: Level | str) -> Level:
    if level not in tuple(Level):
        raise InputError(f"there is no level {level!r}", remedy=f"choose {', '.join(Level)}")
    return Level(level)


def _plain(inputs: Any) -> Any:
    """Torch tensors, alone or in a mapping, as arrays."""
    if isinstance(inputs, QuantisedInputs):
        return inputs
    if isinstance(inputs, Mapping):
        return {name: _plain(values) for name, values in inputs.items()}
    return inputs.numpy(force=True) if hasattr(inputs, "numpy") else inputs


@contextlib.contextmanager
def _device(
    program: Program, board: Accelerator | Transport | None, level: Level, family: str
) -> Iterator[Accelerator]:
    """The given device, left open; or a simulated board, closed at the end."""
    if isinstance(board, Accelerator):
        yield board
    elif board is not None:
        yield Accelerator(board)
    elif level is Level.NETLIST:
        from popshift.gen.implement.netlist import open_netlist_board

        with open_netlist_board(program.config, family) as netlist:
            yield Accelerator(Link(netlist, fifo_bytes=program.config.link_fifo_depth))
    else:
        with open_device("sim:", config=program.config) as device:
            yield device


def _on_device(
    device: Accelerator,
    program: Program,
    arrays: Arrays,
    every_tensor: bool,
    progress: bool,
    level: Level = Level.RTL,
) -> tuple[Execution, Arrays]:
    """The execution, and every tensor of the images that ran layer by layer: the first one, for the counters
    of the layers, or all of them. Layers overlap only in a run that does not stop between them: there is one
    of every image, or at least of the first.
    """
    started = time.monotonic()
    device.load(program, progress=progress)
    images = len(next(iter(arrays.values())))
    profiles: list[Profile] = []
    with TransferBar(f"images through {program.name}", images, enabled=progress) as bar:
        for image in range(images if every_tensor else 1):
            profiles.append(device.run_profiled(_image(arrays, image)))
            bar.update(image + 1)
    whole = 1 if every_tensor else images
    at_once = device.run(
        QuantisedInputs({name: array[:whole] for name, array in arrays.items()}), progress=progress
    )
    totals = device.counters()
    pieces = [at_once, *(profile.outputs for profile in profiles[whole:])]
    outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    layers = [LayerCounters(layer=entry.name, counters=entry.counters) for entry in profiles[0].layers]
    if len(program.segments) > 1:
        totals = {counter: sum(entry.counters[counter] for entry in layers) for counter in Counter}
    profiled = _profiled_tensors(program, profiles)
    found = Execution(
        level=level,
        outputs=outputs,
        tensors=arrays | profiled if every_tensor else dict(outputs),
        real_outputs=real_outputs(program, outputs),
        counters=totals,
        layer_counters=layers,
        seconds=time.monotonic() - started,
    )
    return found, profiled


def _profiled_tensors(program: Program, profiles: Sequence[Profile]) -> Arrays:
    """Every tensor as it was last written: the parts of a divided layer write the same one several times."""
    pieces = [
        {layer.output: entry.tensor for layer, entry in zip(program.layers, profile.layers, strict=True)}
        for profile in profiles
    ]
    return {name: np.stack([piece[name] for piece in pieces]) for name in pieces[0]}
