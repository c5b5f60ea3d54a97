"""Front end for PyTorch: from a module, or a program saved by ``torch.export.save`` (``.pt2``), to a float
graph."""

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.nn.utils import parametrize

from popshift.gen.compress import smartdeal
from popshift.gen.frontend.findings import Finding, refuse
from popshift.gen.frontend.float_graph import FloatFactors, FloatGraph
from popshift.gen.frontend.program_importer import ProgramImporter
from popshift.gen.graph import Factors
from popshift.hw.errors import ModelError

_SMARTDEAL_PARAMETER = "parametrizations.weight.original0"


def from_module(module: torch.nn.Module, example: Any) -> FloatGraph:
    """Import a module; it stays as it is (a copy is exported, in eval mode, in float32, on the CPU).

    Parameters
    ----------
    module: with one input tensor; any device, any float dtype.
    example: an input (a tensor, or a tuple holding one), batch first: (N, C, H, W), (N, C, L) or
        (N, features).

    Raises
    ------
    ModelError: naming every operator that cannot run, or why the module cannot be exported at all.
    """
    program, forms = _export(module, example)
    return _imported(program, forms)


def check_module(module: torch.nn.Module, example: Any) -> list[Finding]:
    """The verdict on every operator of a module, in execution order.

    Raises
    ------
    ModelError: the module cannot be exported at all.
    """
    program, _ = _export(module, example)
    return check_exported(program)


def from_exported(program: ExportedProgram | str | Path) -> FloatGraph:
    """Import an exported program, or a ``.pt2`` file. Errors as `from_module`."""
    loaded = _loaded(program)
    graph = _imported(loaded, {})
    if any(name.endswith(_SMARTDEAL_PARAMETER) for name in loaded.state_dict):
        graph.notes.append(
            "an exported program keeps no SmartDeal form, weights are quantised to int8: compile the module"
        )
    return graph


def check_exported(program: ExportedProgram | str | Path) -> list[Finding]:
    """The verdict on every operator of an exported program, or of a ``.pt2`` file."""
    return ProgramImporter(_functional(_loaded(program)), {}).run()


def _imported(program: ExportedProgram, forms: Mapping[str, FloatFactors]) -> FloatGraph:
    importer = ProgramImporter(_functional(program), forms)
    refuse(importer.run())
    return importer.graph


# ---- export and files --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export explains its failures at length, in its log and in print; the one-line error is enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _discarded_prints():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _discarded_prints() -> Iterator[None]:
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


def _export(module: torch.nn.Module, example: Any) -> tuple[ExportedProgram, dict[str, FloatFactors]]:
    """The program, with plain weights, and the SmartDeal form of those that have one, by their name."""
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        kind = type(module).__name__
        raise ModelError(f"a plain torch.nn.Module is needed, not {kind}", remedy="give the module itself")
    tensors = tuple(example) if isinstance(example, tuple | list) else (example,)
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise ModelError(
            "the example must be a torch.Tensor", remedy="give one input of the network, batch first"
        )
    tensors = tuple(t.detach().float().cpu() if t.is_floating_point() else t.cpu() for t in tensors)
    try:
        network = copy.deepcopy(module).cpu().float().eval()
    except Exception as error:
        remedy = "give a module whose parameters are leaf tensors"
        raise ModelError(f"the module cannot be copied ({_first_line(error)})", remedy=remedy) from error
    forms = _plain_weights(network)
    try:
        with _quiet(), torch.no_grad():
            network(*tensors)
    except Exception as error:
        what = f"the module does not run on an example of shape {tuple(tensors[0].shape) if tensors else ()}"
        remedy = "give an example the module accepts"
        raise ModelError(f"{what} ({_first_line(error)})", remedy=remedy) from error
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(network, tensors, strict=False), forms
    except Exception as error:
        if "data-dependent" in str(error):
            what, remedy = "its control flow depends on the data", "compute the same for every input"
        else:
            what = f"torch.export cannot take it: {_first_clause(error)}"
            remedy = "see the pytorch documentation of torch.export"
        raise ModelError(what, where=type(module).__name__, remedy=remedy) from error


def _plain_weights(network: torch.nn.Module) -> dict[str, FloatFactors]:
    """Replace SmartDeal parametrisations by the weights they stand for; returns their form by name."""
    forms = {}
    for name, layer in network.named_modules():
        if not smartdeal.is_decomposed(layer):
            continue
        found = smartdeal.decomposition(layer)
        factors = Factors(
            coefficients=found.coefficients.numpy(),
            basis=found.basis.numpy(),
            taps=np.asarray(found.slicing.taps, np.int64),
        )
        forms[f"{name}.weight" if name else "weight"] = FloatFactors(factors, found.scale.double().numpy())
        # Torch's own way to remove a parametrisation changes the class, which copies of a module share.
        weight = found.weight()
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer._modules["parametrizations"]
        layer.register_parameter("weight", torch.nn.Parameter(weight))
    return forms


def _first_clause(error: Exception) -> str:
    """What torch says, without its own terms in parentheses and what follows."""
    return re.split(r"\s*[(;]|[.:]\s|[.:]$", _first_line(error))[0]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def _loaded(program: ExportedProgram | str | Path) -> ExportedProgram:
    if isinstance(program, ExportedProgram):
        return program
    path = Path(program)
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path), remedy="check the path")
    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as error:
        remedy = "write it with torch.export.save"
        raise ModelError(
            f"not an exported program ({_first_line(error)})", where=str(path), remedy=remedy
        ) from error


def _functional(program: ExportedProgram) -> ExportedProgram:
    """Without operators that change their input in place: ``relu_`` becomes ``relu``, its readers follow."""
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    in_place = any(isinstance(t, torch._ops.OpOverload) and t._schema.is_mutable for t in targets)
    if not in_place:
        return program
    with _quiet():
        return program.run_decompositions({})
