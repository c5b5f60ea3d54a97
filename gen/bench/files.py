"""Model files as cases: the user's network, with the inputs, labels and reference outputs that lie beside
it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from popshift.gen.array_files import named_arrays
from popshift.gen.bench.cases import Case, Workload
from popshift.gen.compilation import Compiled, compile_model
from popshift.gen.compress.ranges import CALIBRATION_IMAGES
from popshift.gen.compress.smartdeal.report import FLOAT_BITS
from popshift.gen.frontend import load_model
from popshift.gen.graph import Convolution, Graph
from popshift.gen.real_outputs import host_integers, real_outputs
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import InputError
from popshift.hw.numerics import WEIGHT_BITS

DATA = "data.npz"
"""Beside the model: ``x``, inputs (uint8: pixels, 255 is 1.0); ``y``, labels; one of `OUTPUTS` or
``logits_NAME`` with NAME a part of the model's, what somebody else computed of them.
"""
OUTPUTS = ("outputs", "tflm")
LOGITS = "logits_"
RANDOM_IMAGES = 32
"""Drawn if there are none; the ranges of a network that is quantised here then come from them, too."""
MOST_IMAGES = 1000
"""Of a longer `DATA` the first."""


def file_case(path: str) -> Case:
    """The network of a model file, and the inputs beside it, at most `MOST_IMAGES`."""

    def build(config: AcceleratorConfig, seed: int) -> Workload:
        arrays = _beside(Path(path))
        loaded = load_model(path, config.requantise)
        images = arrays.get("x")
        if loaded.integer is not None:
            compiled = compile_model(path, config, loaded=loaded)
            if images is None:
                (layout,) = compiled.program.inputs  # of a network of one input, as all that load
                shape = (RANDOM_IMAGES, *(layout.dims or layout.shape))
                images = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
        else:
            assert loaded.graph is not None
            shape = loaded.graph.tensors[loaded.graph.inputs[0]].shape
            images = loaded.calibration if images is None else _real(images, shape, path)
            if images is None:
                images = np.random.default_rng(seed).standard_normal((RANDOM_IMAGES, *shape))
            images = np.asarray(images, np.float32)
            compiled = compile_model(path, config, images[:CALIBRATION_IMAGES], loaded=loaded)
        return Workload(
            compiled.graph,
            images,
            labels=_labels(arrays.get("y"), compiled),
            compression=_compression(compiled.graph),
            compiled=compiled,
            reference=_reference(arrays),
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
    """The arrays of `DATA`, if it is there, checked to be of the same inputs."""
    path = model.parent / DATA
    if not path.is_file():
        return {}
    arrays = named_arrays(path)
    wanted = {
        name: array for name, array in arrays.items() if name in ("x", "y") or _judges(name, model.stem)
    }
    if not wanted:
        return {}
    if "x" not in wanted or not wanted["x"].ndim or not len(wanted["x"]):
        what = f"it holds {', '.join(wanted)}, but no inputs x"
        raise InputError(what, where=str(path), remedy="add them, or leave the others out")
    for name, array in wanted.items():
        if not array.ndim or len(array) != len(wanted["x"]):
            what = f"it holds {len(wanted['x'])} inputs x, but {name} has shape {array.shape}"
            raise InputError(what, where=str(path), remedy="give one for each input")
    return {name: array[:MOST_IMAGES] for name, array in wanted.items()}


def _judges(key: str, model: str) -> bool:
    """Whether outputs of the model of this name are called `key`."""
    return key in OUTPUTS or (key.startswith(LOGITS) and key.removeprefix(LOGITS) in model)


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


def _reference(arrays: dict[str, NDArray]) -> NDArray | None:
    return next((array for name, array in arrays.items() if name not in ("x", "y")), None)


def _compression(graph: Graph) -> float:
    """32-bit floats over what is streamed: a bit for a weight of a layer of binary inputs, else eight; of
    the layers without SmartDeal's form.
    """
    layers = [layer for layer in graph.operators if isinstance(layer, Convolution) and layer.factors is None]
    bits = sum(
        layer.weight.size * (1 if graph.tensors[layer.input].bits else WEIGHT_BITS) for layer in layers
    )
    return FLOAT_BITS * sum(layer.weight.size for layer in layers) / bits if bits else 0.0
