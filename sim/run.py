"""Run a compiled program on the executor and collect every tensor."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.program import Program, Segment
from popshift.hw.errors import DeviceError, InputError
from popshift.hw.isa import Status
from popshift.hw.packet import Space
from popshift.sim.executor import Machine

BATCH = 64
"""Images executed at once; more do not make it faster."""


def run_program(
    program: Program,
    inputs: NDArray[np.int8] | Mapping[str, NDArray[np.int8]],
    *,
    every_tensor: bool = True,
    check_hazards: bool = False,
    scramble: int | None = None,
) -> dict[str, NDArray[np.int8]]:
    """Execute the program for every image.

    Parameters
    ----------
    inputs: int8 (images, channels, height, width); by input name if there are several.
    every_tensor: stop behind each layer to read what it has written; without, layers overlap as they do on a
        device that only runs.
    check_hazards: see `Machine`.
    scramble: seed of random bytes that fill all memories before each batch; None: zeros.

    Returns
    -------
    Every tensor that a layer writes, or only the outputs, by name, as int8 (images, channels, height, width):
    the outputs as they are at the end, the others when their layer is complete.

    Raises
    ------
    InputError: an input is missing or has another shape or type.
    DeviceError: the program stopped with an error status.
    """
    arrays = _checked(program, inputs)
    images = len(next(iter(arrays.values())))
    pieces: dict[str, list[NDArray[np.int8]]] = {}
    for start in range(0, images, BATCH):
        batch = {name: array[start : start + BATCH] for name, array in arrays.items()}
        size = len(next(iter(batch.values())))
        machine = Machine(program.config, batch=size, check_hazards=check_hazards)
        if scramble is not None:
            machine.scramble(scramble + start)
        for layout in program.inputs:
            machine.write_tensor(layout, batch[layout.name])
        for name, values in _run_batch(machine, program, every_tensor).items():
            pieces.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in pieces.items()}


def load_segment(machine: Machine, segment: Segment) -> None:
    """Write a segment's weights, parameters and instructions."""
    machine.write(Space.WEIGHT, 0, segment.weights.tobytes())
    machine.write(Space.PARAMETER, 0, segment.parameters.tobytes())
    machine.write(Space.PROGRAM, 0, segment.instructions.astype("<u4").tobytes())


def _run_batch(machine: Machine, program: Program, every_tensor: bool) -> dict[str, NDArray[np.int8]]:
    found: dict[str, NDArray[np.int8]] = {}
    for number, segment in enumerate(program.segments):
        load_segment(machine, segment)
        status = machine.run(pause=every_tensor)
        while status is Status.PAUSED:
            name = program.layers[machine.layer].output
            found[name] = machine.read_tensor(program.tensor(name))
            status = machine.resume()
        if status is not Status.DONE:
            layer = program.layer_at(number, machine.pc)
            raise DeviceError(
                f"{status.meaning} (program word {machine.pc})",
                where=f"program {program.name}, {f'layer {layer.name}' if layer else f'segment {number}'}",
                remedy="compile the model again",
            )
    return found | {layout.name: machine.read_tensor(layout) for layout in program.outputs}


def _checked(
    program: Program, inputs: NDArray[np.int8] | Mapping[str, NDArray[np.int8]]
) -> dict[str, NDArray[np.int8]]:
    arrays = dict(inputs) if isinstance(inputs, Mapping) else {program.inputs[0].name: inputs}
    if set(arrays) != {layout.name for layout in program.inputs}:
        raise InputError(
            f"inputs {', '.join(sorted(arrays))} given",
            where=f"program {program.name}",
            remedy=f"give {', '.join(layout.name for layout in program.inputs)}",
        )
    for layout in program.inputs:
        array = arrays[layout.name]
        if array.dtype != np.int8 or array.shape[1:] != layout.shape or not len(array):
            raise InputError(
                f"{array.dtype} {array.shape} given",
                where=f"input {layout.name}",
                remedy=f"give int8 (images, {', '.join(map(str, layout.shape))})",
            )
    if len({len(array) for array in arrays.values()}) > 1:
        raise InputError(
            "the inputs hold different numbers of images",
            where=f"program {program.name}",
            remedy="give equally many of each",
        )
    return arrays
