"""Outputs as real numbers, in the shape that the user's module gives them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.program import Program
from popshift.firmware_py.tensors import real_values

DIMS = "output_dims"
"""Name of the attachment that holds the module's shape per sample of every output, as JSON."""


def with_output_dims(program: Program, dims: Mapping[str, Sequence[int]]) -> Program:
    """The program with the module's output shapes attached; `dims` by name, without the batch."""
    known = {layout.name: list(dims[layout.name]) for layout in program.outputs if layout.name in dims}
    attachments = {**program.attachments, DIMS: json.dumps(known).encode()}
    return dataclasses.replace(program, attachments=attachments)


def real_outputs(program: Program, outputs: Mapping[str, NDArray[np.int8]]) -> dict[str, NDArray[np.float64]]:
    """``scale * (integer - zero point)`` of every output.

    Parameters
    ----------
    outputs: int8 (N, channels, height, width) by name.

    Returns
    -------
    float64 by name, in the shape of the module's own output where the program knows it; else (N, features)
    for a vector and (N, channels, height, width) for an image.
    """
    dims = json.loads(program.attachments.get(DIMS, b"{}"))
    found = {}
    for layout in program.outputs:
        values = real_values(layout, outputs[layout.name])
        usual = values.shape[1:2] if values.shape[2:] == (1, 1) else values.shape[1:]
        found[layout.name] = values.reshape(len(values), *dims.get(layout.name, usual))
    return found
