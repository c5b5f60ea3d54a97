"""Model files as cases: the user's network, with the inputs, labels and reference outputs that lie beside
it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from popshift.gen.bench.cases import Case, Workload
from popshift.gen.compilation import Compiled, compile_model
from popshift.gen.frontend import load_model
from popshift.gen.real_outputs import host_integers, real_outputs
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import InputError

DATA = "data.npz"
"""Beside the model: ``x``, inputs (uint8: pixels, 255 is 1.0); ``y``, labels; ``outputs``, ``tflm`` or
``logits_NAME`` with NAME a part of the model's, what somebody else computed of them.
"""
RANDOM_IMAGES = 32
"""Drawn if there are none; the ranges of a network that is quantised here then come from them, too."""
CALIBRATION_IMAGES = 512
MOST_IMAGES = 1000
"""Of a longer `DATA` the first."""


def file_case(path: str) -> Case:
    """The network of a model file, and the inputs beside it, at most `MOST_IMAGES`."""

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        arrays = _beside(Path(path))
        loaded = load_model(path, config.requantise)
        if loaded.integer is not None:
            compiled = compile_model(path, config, loaded=loaded)
            (layout,) = compiled.program.inputs
            images = arrays.get("x")
            if images is None:
                shape = (RANDOM_IMAGES, *(layout.dims or layout.shape))
                images = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
        else:
            assert loaded.graph is not None
            shape = loaded.graph.tensors[loaded.graph.inputs[0]].shape
            images = _real(arrays["x"], shape, path) if "x" in arrays else loaded.calibration
            if images is None:
                images = np.random.default_rng(seed).standard_normal((RANDOM_IMAGES, *shape))
            images = np.asarray(images, np.float32)
            compiled = compile_model(path, config, images[:CALIBRATION_IMAGES], loaded=loaded)
        return Workload(
            compiled.graph,
            images,
            labels=_labels(arrays.get("y"), compiled),
            compiled=compiled,
            reference=_reference(arrays, Path(path).stem),
        )

    return Case(f"the network of {path}", build)


def differing(compiled: Compiled, outputs: dict[str, NDArray[np.int8]], reference: NDArray) -> int:
    """How many values differ from the reference, if it has bytes; else how many inputs are of another
    class.
    """
    if reference.dtype == np.int8:
        computed = host_integers(compiled.program, outputs)
        integers = [
            np.moveaxis(outputs[layout.name], 1, 3) if layout.dims else outputs[layout.name]
            for layout in compiled.program.outputs
        ]
        found = [values for values in (*integers, *computed.values()) if values.size == reference.size]
        if not found:
            what = f"no output has the {reference.size} values of the reference outputs"
            raise InputError(what, where=DATA, remedy="leave them out")
        return int(np.count_nonzero(found[-1].ravel() != reference.ravel()))
    real = list(real_outputs(compiled.program, outputs).values())[-1]
    classes = [values.reshape(len(values), -1).argmax(1) for values in (real, reference)]
    return int(np.count_nonzero(classes[0] != classes[1]))


def _beside(model: Path) -> dict[str, NDArray]:
    path = model.parent / DATA
    if not path.is_file():
        return {}
    with np.load(path) as arrays:
        return {name: array[:MOST_IMAGES] for name, array in arrays.items()}


def _real(values: NDArray, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    """As the network takes them."""
    if values[0].size != np.prod(shape):
        what = f"{DATA} has inputs of {values.shape[1:]}, the network takes {shape}"
        raise InputError(what, where=where, remedy="correct x")
    pixels = 255 if values.dtype == np.uint8 else 1
    return (values.reshape(-1, *shape) / pixels).astype(np.float32)


def _labels(labels: NDArray | None, compiled: Compiled) -> NDArray[np.integer] | None:
    """Those of a network that has an output for each."""
    classes = compiled.graph.tensors[compiled.graph.outputs[0]].shape[0]
    if labels is None or labels.dtype.kind not in "iu" or len(np.unique(labels)) != classes:
        return None
    return labels


def _reference(arrays: dict[str, NDArray], name: str) -> NDArray | None:
    for key in ("outputs", "tflm"):
        if key in arrays:
            return arrays[key]
    matching = [key for key in arrays if key.startswith("logits_") and key.removeprefix("logits_") in name]
    return arrays[matching[0]] if matching else None
