"""What the TensorFlow Lite front end does not take: one clear line each, however damaged the file."""

import random
from pathlib import Path

import numpy as np
import pytest
from tests.tflite_models import Writer, constant, random_model

from popshift.gen.frontend import check_model, load_model
from popshift.hw.errors import ModelError


def one(kind: str, shape=(1, 4, 4, 2), result=None, inputs=(), dtype=np.int8, options="", **fields) -> Writer:
    """A model of one operator; `inputs` make its further inputs."""
    writer = Writer()
    quantised = (None, 0) if dtype is np.float32 else (0.1, 0)
    writer.inputs = [writer.tensor(shape, *quantised, dtype=dtype)]
    rest = [make(writer) for make in inputs]
    writer.outputs = [writer.tensor(result or shape, *quantised, dtype=dtype)]
    writer.operator(kind, [*writer.inputs, *rest], writer.outputs, options, **fields)
    return writer


def dense(dtype=np.int8, *, weight=np.int8, zero_point=0, scale=0.01, bias=None, activation=0) -> Writer:
    """A fully connected layer of 3 neurons on 32 elements."""
    inputs = [lambda writer: writer.tensor((3, 32), scale, zero_point, data=np.ones((3, 32), weight))]
    if bias is not None:
        inputs.append(lambda writer: writer.tensor((3,), 0.001, data=np.ones(3, bias)))
    fields = {"FusedActivationFunction": activation}
    return one("FULLY_CONNECTED", (1, 32), (1, 3), inputs, dtype, "FullyConnectedOptions", **fields)


def two_inputs() -> Writer:
    writer = one("RELU")
    writer.inputs.append(writer.tensor((1, 4, 4, 2), 0.1, 0))
    return writer


def open_sizes() -> Writer:
    writer = one("RELU")
    writer.tensors[0]["signature"] = (-1, -1, 4, 2)
    return writer


def behind(first: Writer, kind: str) -> Writer:
    """One more operator at the end."""
    shape = first.tensors[first.outputs[0]]["shape"]
    first.outputs = [first.operator(kind, first.outputs, [first.tensor(shape, 0.1, 0)])]
    return first


def softmax() -> Writer:
    return one("SOFTMAX", (1, 4), options="SoftmaxOptions", Beta=1.0)


def with_values(kind: str, values, result, options="") -> Writer:
    """An operator with a constant as second input."""
    return one(kind, result=result, inputs=[lambda writer: constant(writer, values)], options=options)


PROBLEMS = {
    "float": (one("RELU", dtype=np.float32), "it computes with float32; convert with full integer"),
    "uint8": (dense(np.uint8, weight=np.uint8), "it is quantised to uint8; convert"),
    "int16": (dense(np.int16), "its activations are int16; convert"),
    "hybrid": (dense(np.float32), "its activations are real numbers (hybrid); convert"),
    "two inputs": (two_inputs(), "the network takes 2 inputs; give it one"),
    "open sizes": (open_sizes(), "tensor t0 has open sizes, shape (1, 4, 4, 2); convert it with fixed"),
    "batch": (one("RELU", (8, 4, 4, 2)), "its batch is 8; convert it with a batch of 1"),
    "large": (one("RELU", (1, 1 << 15, 1 << 15, 2)), "has 2,147,483,648 elements"),
}
OPERATORS = {
    "unknown": (
        one("TANH"),
        "layer 0 t1 (TANH): this operator is not supported; build the network of CONV_2D",
    ),
    "softmax inside": (behind(softmax(), "RELU"), "layer 0 t1 (SOFTMAX): only at the end of the network"),
    "real numbers inside": (behind(one("DEQUANTIZE"), "RELU"), "would be computed in floating point"),
    "mean of channels": (with_values("MEAN", [3], (1, 4, 4)), "averages over axes [3] of 4; average over"),
    "pads channels": (
        with_values("PAD", [[0, 0], [0, 0], [0, 0], [0, 1]], (1, 4, 4, 3)),
        "pad height and width only",
    ),
    "weight type": (dense(weight=np.int16), "its weights are int16, not int8"),
    "weight zero point": (dense(zero_point=3), "its weights have no positive scales with zero point 0"),
    "weight scale": (dense(scale=np.nan), "its weights have no positive scales with zero point 0"),
    "bias type": (dense(bias=np.int64), "its bias is not 3 constants in int32"),
    "activation": (dense(activation=4), "its fused activation is not supported; use RELU, RELU6"),
    "factor": (dense(scale=200.0), "a requantisation factor must be below 8, not 200.0"),
    "constant sum": (
        one("ADD", inputs=[lambda writer: writer.tensor((1,), 0.1, data=np.ones(1, np.int8))]),
        "it adds a constant; fold the constant into a bias",
    ),
    "nothing": (one("DEQUANTIZE"), "it is the input"),
}


def saved(writer: Writer, folder: Path) -> str:
    (folder / "model.tflite").write_bytes(writer.to_bytes())
    return str(folder / "model.tflite")


@pytest.mark.parametrize(("writer", "told"), PROBLEMS.values(), ids=list(PROBLEMS))
def test_a_model_of_another_kind_is_refused_in_a_line(writer, told, tmp_path):
    spec = saved(writer, tmp_path)
    for refusing in (load_model, check_model):
        with pytest.raises(ModelError) as refused:
            refusing(spec)
        assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("writer", "told"), OPERATORS.values(), ids=list(OPERATORS))
def test_an_operator_that_cannot_run_is_named(writer, told, tmp_path):
    spec = saved(writer, tmp_path)
    with pytest.raises(ModelError) as refused:
        load_model(spec)
    assert told in str(refused.value)
    assert [finding.supported for finding in check_model(spec)].count(False) == 1


def test_every_operator_that_cannot_run_is_named(tmp_path):
    spec = saved(behind(behind(one("TANH"), "RELU"), "ELU"), tmp_path)
    with pytest.raises(ModelError, match=r"2 operators of the network cannot run.*\n.*TANH.*\n.*ELU"):
        load_model(spec)


def test_a_reshape_of_other_than_the_input(tmp_path):
    writer = one("RELU")
    (source,) = writer.outputs
    writer.outputs = [writer.tensor((1, 4, 2, 4), 0.1, 0)]
    writer.operator("RESHAPE", [source, constant(writer, [1, 4, 2, 4])], writer.outputs)
    with pytest.raises(
        ModelError, match=r"\(4, 4, 2\) becomes \(4, 2, 4\), which moves data between channels"
    ):
        load_model(saved(writer, tmp_path))


def test_what_is_no_model(tmp_path):
    (tmp_path / "text.tflite").write_text("not a model")
    for name, told in (
        ("text.tflite", "not a TensorFlow Lite model"),
        ("absent.tflite", "there is no such file"),
    ):
        with pytest.raises(ModelError, match=told):
            load_model(str(tmp_path / name))


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_refused_or_harmless(seed, tmp_path):
    """Bytes changed and ends cut off: nothing but a model or a `ModelError`, and soon."""
    rng = random.Random(seed)
    path = tmp_path / "damaged.tflite"
    intact = random_model(["network", "sequence", "real_ends", "add"][seed], seed)
    for _ in range(150):
        data = bytearray(intact)
        for _ in range(rng.choice([1, 1, 2, 6])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(data if rng.random() < 0.7 else data[: rng.randrange(len(data))])
        try:
            load_model(str(path))
        except ModelError as error:
            assert str(error)
