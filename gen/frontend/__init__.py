"""From a network, in whatever form it comes, to a float graph, or to an integer graph if it is quantised: one
file and one line in `FRONTENDS` for each form."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from popshift.gen.frontend import onnx_model, tflite, torch_export
from popshift.gen.frontend.findings import Finding
from popshift.gen.frontend.float_graph import FloatGraph
from popshift.gen.frontend.integer_network import IntegerNetwork
from popshift.hw.errors import ModelError
from popshift.hw.numerics import Requantise


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Reads one kind of model file.

    ``load`` returns the network or raises `ModelError`, or ``load_integer`` does for networks that are
    quantised already, with multipliers for a requantisation mode; ``check`` returns the verdict on each
    operator.
    """

    title: str
    check: Callable[[Path], list[Finding]]
    load: Callable[[Path], FloatGraph] | None = None
    load_integer: Callable[[Path, Requantise], IntegerNetwork] | None = None


FRONTENDS: dict[str, FrontEnd] = {
    ".pt2": FrontEnd("torch.export program", torch_export.check_exported, torch_export.from_exported),
    ".onnx": FrontEnd("ONNX or QONNX model", onnx_model.check_onnx, onnx_model.from_onnx),
    ".tflite": FrontEnd("int8 TensorFlow Lite model", tflite.check_tflite, load_integer=tflite.from_tflite),
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network named on the command line.

    Attributes
    ----------
    graph: the network; None if it is in integers already.
    calibration: typical inputs (N, …) if the model came with some, else None.
    module: the PyTorch module, if it came as one: the float reference.
    integer: the network that is quantised already, else None.
    """

    graph: FloatGraph | None = None
    calibration: Any = None
    module: torch.nn.Module | None = None
    integer: IntegerNetwork | None = None


def load_model(spec: str, mode: Requantise = Requantise.EXACT) -> LoadedModel:
    """Load a model file by its suffix, or call ``module:function``.

    A quantised network gets its multipliers for `mode`.

    The function returns ``(module, example)`` or ``(module, example, calibration)``; it is looked up with the
    current folder on the import path.

    Raises
    ------
    ModelError: no such file or function, an unknown suffix, or a network that cannot run (names every
    operator).
    """
    front_end = _front_end(spec)
    if front_end is not None and front_end.load_integer is not None:
        return LoadedModel(integer=front_end.load_integer(Path(spec), mode))
    if front_end is not None:
        assert front_end.load is not None
        return LoadedModel(front_end.load(Path(spec)))
    module, example, calibration = _call(spec)
    return LoadedModel(torch_export.from_module(module, example), calibration, module)


def check_model(spec: str) -> list[Finding]:
    """The verdict on every operator of what `load_model` would load.

    Raises
    ------
    ModelError: it cannot be read at all.
    """
    front_end = _front_end(spec)
    if front_end is not None:
        return front_end.check(Path(spec))
    module, example, _ = _call(spec)
    return torch_export.check_module(module, example)


def _front_end(spec: str) -> FrontEnd | None:
    """The front end for a file; None for ``module:function``."""
    suffix = Path(spec).suffix.lower()
    if suffix in FRONTENDS:
        return FRONTENDS[suffix]
    module, colon, function = spec.partition(":")
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return None
    what = "unknown kind of model" if suffix else "not a model file and not module:function"
    raise ModelError(what, where=spec, remedy=f"give {', '.join(FRONTENDS)} or module:function")


def _call(spec: str) -> tuple[torch.nn.Module, Any, Any]:
    """(module, example, calibration or None) from ``module:function``."""
    path, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(path), name)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error}", where=spec, remedy="check the name and the current folder") from error
    except AttributeError as error:
        raise ModelError(
            f"module {path} has no {name}", where=spec, remedy="check the function's name"
        ) from error
    except Exception as error:
        what = f"importing {path} failed ({type(error).__name__}: {error})"
        raise ModelError(what, where=spec, remedy="correct that module") from error
    if not callable(function):
        raise ModelError(f"{name} is not a function", where=spec, remedy="name a function without parameters")
    try:
        result = function()
    except Exception as error:
        what = f"the function failed ({type(error).__name__}: {error})"
        raise ModelError(what, where=spec, remedy="correct it; it is called without arguments") from error
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        what = f"the function returned {type(result).__name__}"
        raise ModelError(
            what, where=spec, remedy="return (module, example) or (module, example, calibration)"
        )
    return (result[0], result[1], result[2] if len(result) == 3 else None)
