"""Outputs as real numbers, in the shape that the user's module or model file gives them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from popshift.firmware_py.program import Program
from popshift.firmware_py.tensors import real_values
from popshift.gen.frontend.float_graph import Step
from popshift.gen.host_tail import HostTail, TailOperation
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN

TABLE = "output_table."
"""Begins the names of attachments that hold an output's table."""
DIMS = "output_dims"
"""Name of the attachment that holds the module's shape per sample of every output, as JSON."""
HOST_TAILS = "host_tails"
"""Name of the attachment that holds the operators that the host computes, by output, as JSON."""


def with_output_dims(program: Program, dims: Mapping[str, Sequence[int]]) -> Program:
    """The program with the module's output shapes attached; `dims` by name, without the batch."""
    known = {layout.name: list(dims[layout.name]) for layout in program.outputs if layout.name in dims}
    attachments = {**program.attachments, DIMS: json.dumps(known).encode()}
    return dataclasses.replace(program, attachments=attachments)


def with_tails(program: Program, tails: Mapping[str, Sequence[Step]]) -> Program:
    """The program with a table for each output that the host computes further: what becomes of every int8 of
    every channel, float64 (channels, 256), -128 first. Each step takes and gives (1, channels, n, 1).
    """
    tables = {}
    for layout in program.outputs:
        if layout.name in tails:
            numbers = torch.arange(ACTIVATION_MIN, ACTIVATION_MAX + 1, dtype=torch.float64) * layout.scale
            values = numbers[None, None, :, None].expand(1, layout.shape[0], -1, 1)
            with torch.no_grad():
                for step in tails[layout.name]:
                    values = step(values)
            tables[f"{TABLE}{layout.name}"] = values[0, :, :, 0].numpy().astype("<f8").tobytes()
    return dataclasses.replace(program, attachments={**program.attachments, **tables})


def with_file_layout(
    program: Program, dims: Mapping[str, Sequence[int]], tails: Mapping[str, HostTail]
) -> Program:
    """The program of a network whose file has channels last: with the file's shapes per sample, by name of
    input and output, and with what the host computes behind an output.
    """
    ends = {
        side: [dataclasses.replace(layout, dims=tuple(dims.get(layout.name, ()))) for layout in layouts]
        for side, layouts in (("inputs", program.inputs), ("outputs", program.outputs))
    }
    known = {name: dataclasses.asdict(tail) for name, tail in tails.items()}
    attachments = {**program.attachments, HOST_TAILS: json.dumps(known).encode()}
    return dataclasses.replace(program, **ends, attachments=attachments)


def host_tails(program: Program) -> dict[str, HostTail]:
    """What the host computes, by output."""
    entries = json.loads(program.attachments.get(HOST_TAILS, b"{}"))
    return {
        name: HostTail(**{**values, "operation": TailOperation(values["operation"])})
        for name, values in entries.items()
    }


def host_integers(program: Program, outputs: Mapping[str, NDArray[np.int8]]) -> dict[str, NDArray[np.int8]]:
    """The int8 tensors that the host computes from `outputs`, by their own names, in the file's shape."""
    found = {}
    tails = host_tails(program)
    for layout in program.outputs:
        if layout.name in tails:
            tail = tails[layout.name]
            integers = tail.integers(_channels_last(outputs[layout.name]))
            if integers is not None:
                found[tail.name] = integers.reshape(-1, *layout.dims)
    return found


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    """(n, elements) in the file's order."""
    return np.moveaxis(values, 1, 3).reshape(len(values), -1)


def real_outputs(program: Program, outputs: Mapping[str, NDArray[np.int8]]) -> dict[str, NDArray[np.float64]]:
    """``scale * (integer - zero point)`` of every output, or what its table says, or what the host makes of
    it.

    Parameters
    ----------
    outputs: int8 (N, channels, height, width) by name.

    Returns
    -------
    float64 by name, in the shape of the module's own output where the program knows it; else (N, features)
    for a vector and (N, channels, height, width) for an image.
    """
    dims = json.loads(program.attachments.get(DIMS, b"{}"))
    tails = host_tails(program)
    found = {}
    for layout in program.outputs:
        values = real_values(layout, outputs[layout.name])
        if (table := program.attachments.get(f"{TABLE}{layout.name}")) is not None:
            numbers = np.frombuffer(table, "<f8").reshape(layout.shape[0], -1)
            channels = np.arange(layout.shape[0])[:, None, None]
            places = outputs[layout.name].astype(np.int64) - ACTIVATION_MIN
            values = numbers[channels, places]
        if layout.dims:
            tail = tails.get(layout.name)
            real = _channels_last(values if tail is None else outputs[layout.name])
            real = real if tail is None else tail.reals(real)
            found[layout.name] = real.reshape(len(values), *layout.dims)
            continue
        usual = values.shape[1:2] if values.shape[2:] == (1, 1) else values.shape[1:]
        found[layout.name] = values.reshape(len(values), *dims.get(layout.name, usual))
    return found
