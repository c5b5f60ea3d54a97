"""Arrays on the command line: files in and out, and what commands say about results."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from popshift.hw.errors import InputError

_MANY_CLIPPED = 0.05

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from popshift.firmware_py.program import Program


def read_arrays(path: Path) -> "NDArray[Any] | dict[str, NDArray[Any]]":
    """The array in a file, or the arrays by name if an ``.npz`` holds several.

    Raises
    ------
    InputError: no such file, not an array, or one of Python objects.
    """
    from popshift.gen.array_files import named_arrays

    arrays = named_arrays(path)
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def warn_clipped(program: "Program", values: "NDArray[Any] | dict[str, NDArray[Any]]") -> None:
    """A note on standard error if many inputs lie outside the range that calibration has seen."""
    from popshift.firmware_py.tensors import clipped_share, looks_stored

    for tensor in program.inputs:
        given = values[tensor.name] if isinstance(values, dict) else values
        share = clipped_share(tensor, given)
        if share > _MANY_CLIPPED:
            remedy = "calibrate with data like these"
            if looks_stored(given):
                remedy = "if they are the int8 values themselves, save them as int8"
            elif tensor.dims:  # the file decided the range
                remedy = "give real numbers as the model was trained with, or int8"
            what = f"{100 * share:.0f} % of the values of input {tensor.name}"
            typer.echo(f"note: {what} lie outside its range and are clipped; {remedy}", err=True)


def read_array(path: Path) -> "NDArray[Any]":
    """The only array in a file.

    Raises
    ------
    InputError: as `read_arrays`, and when there are several.
    """
    arrays = read_arrays(path)
    if isinstance(arrays, dict):
        names = ", ".join(arrays) or "none"
        raise InputError(f"one array is needed, it holds {names}", where=str(path), remedy="save just one")
    return arrays


def write_outputs(path: Path, program: "Program", outputs: "dict[str, NDArray[np.int8]]") -> None:
    """Write an ``.npz`` file, under exactly this name: int8 ``NAME`` and, as real numbers, ``NAME_real``; the
    int8 results of a softmax on the host under their own name.

    Raises
    ------
    InputError: the file cannot be written.
    """
    import numpy as np

    from popshift.gen.real_outputs import host_integers, real_outputs

    real = real_outputs(program, outputs)
    arrays: dict[str, NDArray[Any]] = {**outputs, **{f"{name}_real": real[name] for name in real}}
    arrays |= host_integers(program, outputs)
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write it ({reason})", where=str(path), remedy="check the folder") from error


def outputs_summary(program: "Program", outputs: "dict[str, NDArray[np.int8]]") -> dict[str, Any]:
    """Plain values about each output; ``classes``: index of the largest value per image, for vectors."""
    summary = {}
    for layout in program.outputs:
        values = outputs[layout.name]
        entry: dict[str, Any] = {
            "shape": list(values.shape),
            "scale": layout.scale,
            "zero_point": layout.zero_point,
            "low": int(values.min()),
            "high": int(values.max()),
        }
        if layout.shape[1:] == (1, 1) and layout.shape[0] > 1:
            entry["classes"] = values.reshape(len(values), -1).argmax(1).tolist()
        summary[layout.name] = entry
    return summary


def print_outputs(summary: dict[str, Any]) -> None:
    """A line or two for each output."""
    for name, entry in summary.items():
        size = " x ".join(map(str, entry["shape"]))
        scale = f"real = {entry['scale']:.6g} * (value - {entry['zero_point']})"
        typer.echo(f"output {name}: int8 {size}, {entry['low']} .. {entry['high']}; {scale}")
        if "classes" in entry:
            shown = entry["classes"][:32]
            more = f" … ({len(entry['classes'])} in all)" if len(entry["classes"]) > len(shown) else ""
            typer.echo(f"  largest at: {' '.join(map(str, shown))}{more}")
