"""Networks that bring their quantisers along, QONNX and QDQ, judged by ONNX's reference implementation."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from tests.gen.test_onnx import SEED, SMALL, TINY, XNOR, BipolarQuant, model, node, norm, normal, saved

from popshift.gen.compilation import compile_model
from popshift.gen.frontend import load_model
from popshift.gen.frontend.float_graph import evaluate
from popshift.gen.graph import Convolution
from popshift.hw.errors import ModelError


class Quant(OpRun):
    """The judge's, as `tests.gen.test_onnx.BipolarQuant`."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero_point, bits, signed=1, narrow=0, rounding_mode="ROUND"):
        levels = 2.0 ** float(np.ravel(bits)[0])
        low, high = (-levels / 2 + narrow, levels / 2 - 1) if signed else (0, levels - 1 - narrow)
        numbers = np.clip(np.rint(x / scale + zero_point), low, high)
        return (((numbers - zero_point) * scale).astype(np.float32),)


def quantised_cnn(rng: np.random.Generator) -> onnx.ModelProto:
    """Quantisers of 2 to 8 bits, signed and not, per channel and per tensor; an offset before the first."""
    after, values = norm("c1", 8, rng)
    nodes = [
        node("Sub", ["x", "half"], "centred"),
        node("Quant", ["centred", "fine", "zero", "eight"], "q0", signed=1),
        node("Quant", ["w1", "scales", "zero", "three"], "v1", narrow=1),
        node("Conv", ["q0", "v1"], "c1", kernel_shape=[3, 3]),
        after,
        node("Relu", ["c1.norm"], "r1"),
        node("Quant", ["r1", "half", "zero", "four"], "q1", signed=0),
        node("MaxPool", ["q1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Quant", ["w2", "half", "zero", "two"], "v2"),
        node("Conv", ["p1", "v2", "b2"], "c2", kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
        node("Quant", ["c2", "fine", "zero", "eight"], "y"),
    ]
    constants = {
        **{"half": np.float32(0.5), "fine": np.float32(0.125), "zero": np.float32(0)},
        **{"two": np.float32(2), "three": np.float32(3), "four": np.float32(4), "eight": np.float32(8)},
        **{"w1": normal(rng, 8, 3, 3, 3), "w2": normal(rng, 5, 8, 2, 2), "b2": normal(rng, 5)},
        "scales": rng.uniform(0.1, 1, (8, 1, 1, 1)).astype(np.float32),
        **values,
    }
    return model(nodes, constants, (3, 8, 7), "y")


@pytest.mark.parametrize("config", [TINY, SMALL.replace(pe_kinds=["mul"])], ids=["exact", "compact"])
def test_a_quantised_network_has_the_levels_of_the_reference(tmp_path, config):
    rng = np.random.default_rng(SEED)
    proto = quantised_cnn(rng)
    x = rng.uniform(-9, 9, (60, 3, 8, 7)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(proto, new_ops=[Quant]).run(None, {"x": x})
    spec = saved(proto, tmp_path)
    graph = load_model(spec).graph
    assert graph is not None
    found = evaluate(graph, torch.from_numpy(x))[graph.outputs[0]]
    assert (
        found.numpy() == wanted
    ).mean() > 0.999  # sums of floats, which may lie on the other side of a tie
    compiled = compile_model(spec, config)  # no ranges, no calibration
    (got,) = compiled.run(x, "isa").real_outputs.values()
    np.testing.assert_array_equal(got, wanted)
    assert len(np.unique(got)) > 40


def pair(name: str, source: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear, to ``name``."""
    parameters = [scale, zero]
    return [
        node("QuantizeLinear", [source, *parameters], f"{name}.q"),
        node("DequantizeLinear", [f"{name}.q", *parameters], name),
    ]


def qdq_cnn(rng: np.random.Generator) -> onnx.ModelProto:
    """As onnxruntime writes them: uint8 activations, int8 weights for each channel, int32 biases; a residual
    block, a depthwise layer, and a matrix whose scales lie along its columns.
    """
    nodes = [
        *pair("x0", "x", "s0", "z0"),
        node("DequantizeLinear", ["w1", "t1", "none8"], "v1", axis=0),
        node("DequantizeLinear", ["b1", "u1", "none32"], "c1", axis=0),
        node("Conv", ["x0", "v1", "c1"], "a1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["a1"], "r1"),
        *pair("x1", "r1", "s1", "z1"),
        node("DequantizeLinear", ["w2", "t2", "none8"], "v2", axis=0),
        node("Conv", ["x1", "v2"], "a2", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=8),
        *pair("x2", "a2", "s2", "z2"),
        node("Add", ["x2", "x1"], "a3"),
        *pair("x3", "a3", "s3", "z3"),
        node("GlobalAveragePool", ["x3"], "a4"),
        *pair("x4", "a4", "s4", "z3"),
        node("Flatten", ["x4"], "f4"),
        node("DequantizeLinear", ["w5", "t5", "none5"], "v5", axis=1),
        node("MatMul", ["f4", "v5"], "a5"),
        *pair("y", "a5", "s5", "zy"),
    ]
    t1 = rng.uniform(0.002, 0.01, 8).astype(np.float32)
    constants = {
        **{"s0": np.float32(0.021), "z0": np.uint8(117), "s1": np.float32(0.017), "z1": np.uint8(0)},
        **{"s2": np.float32(0.013), "z2": np.uint8(131), "s3": np.float32(0.019), "z3": np.uint8(83)},
        **{"s4": np.float32(0.0071), "s5": np.float32(0.011), "zy": np.int8(-3)},
        **{
            "w1": rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8),
            "t1": t1,
            "u1": t1 * np.float32(0.021),
        },
        **{"b1": rng.integers(-3000, 3000, 8).astype(np.int32), "none8": np.zeros(8, np.int8)},
        **{"none32": np.zeros(8, np.int32), "none5": np.zeros(5, np.int8)},
        **{"w2": rng.integers(-127, 128, (8, 1, 3, 3)).astype(np.int8)},
        **{"t2": rng.uniform(0.001, 0.006, 8).astype(np.float32)},
        **{"w5": rng.integers(-127, 128, (8, 5)).astype(np.int8)},
        **{"t5": rng.uniform(0.002, 0.01, 5).astype(np.float32)},
    }
    return model(nodes, constants, (3, 7, 6), "y", opset=21)


@pytest.mark.parametrize(
    "config", [TINY, SMALL.replace(pe_kinds=["mul"], accumulator_width=32)], ids=["exact", "compact"]
)
def test_a_qdq_network_has_the_levels_of_the_reference(tmp_path, config):
    """No calibration data. TensorFlow Lite's double rounding (exact) differs near ties, by one level."""
    rng = np.random.default_rng(SEED)
    proto = qdq_cnn(rng)
    x = rng.uniform(-2.4, 2.8, (80, 3, 7, 6)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    compiled = compile_model(saved(proto, tmp_path), config)
    (got,) = compiled.run(x, "isa").real_outputs.values()
    levels = np.rint(np.abs(got - wanted) / 0.011)
    assert levels.max() <= 1 and (levels == 0).mean() > (0.9 if config is TINY else 0.99)
    assert len(np.unique(got)) > 60
    layers = [operator for operator in compiled.graph.operators if isinstance(operator, Convolution)]
    weights = {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}
    proto.opset_import[0].version = 13
    older = compile_model(saved(proto, tmp_path), config)
    assert older.program.to_bytes() == compiled.program.to_bytes()
    np.testing.assert_array_equal(layers[0].weight, weights["w1"])
    np.testing.assert_array_equal(layers[1].weight, weights["w2"])
    np.testing.assert_array_equal(layers[2].weight[:, :, 0, 0], weights["w5"].T)


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        (pair("x0", "x", "s", "z")[:1], "x0.q (QuantizeLinear): the network ends in its integers"),
        (
            [pair("x0", "x", "s", "z")[0], node("DequantizeLinear", ["x0.q", "s", "z1"], "y")],
            "it is not behind a QuantizeLinear of its scale and zero point",
        ),
        (pair("y", "x", "s2", "z"), "its scale is not one positive number"),
    ],
    ids=["no end", "another zero point", "scale of channels"],
)
def test_what_qdq_cannot_be_is_told(tmp_path, nodes, told):
    constants = {"s": np.float32(0.1), "z": np.uint8(3), "z1": np.uint8(4), "s2": np.float32([0.1, 0.2])}
    proto = model(nodes, constants, (2, 3, 3), nodes[-1].output[0])
    with pytest.raises(ModelError) as refused:
        load_model(saved(proto, tmp_path))
    assert told in str(refused.value)


def test_scales_of_a_vector_have_no_axis_to_choose(tmp_path):
    """The operator's default, 1, is none of a bias'."""
    rng = np.random.default_rng(SEED)
    nodes = [
        *pair("x0", "x", "s0", "z0"),
        node("DequantizeLinear", ["w", "t", "none8"], "v", axis=0),
        node("DequantizeLinear", ["b", "u", "none32"], "c", axis=1),
        node("Conv", ["x0", "v", "c"], "a", kernel_shape=[1, 1]),
        *pair("y", "a", "s1", "z0"),
    ]
    t = rng.uniform(0.002, 0.01, 4).astype(np.float32)
    constants = {
        **{"s0": np.float32(0.02), "z0": np.uint8(120), "s1": np.float32(0.03), "t": t, "u": t * 0.02},
        "w": rng.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8),
        "b": rng.integers(-300, 300, 4).astype(np.int32),
        **{"none8": np.zeros(4, np.int8), "none32": np.zeros(4, np.int32)},
    }
    proto = model(nodes, constants, (3, 2, 2), "y", opset=21)
    spec = saved(proto, tmp_path)
    proto.graph.node[3].attribute[0].i = 0  # what the judge wants there
    x = rng.uniform(-2, 2, (20, 3, 2, 2)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    (got,) = compile_model(spec, TINY).run(x, "isa").real_outputs.values()
    assert np.abs(got - wanted).max() <= 0.031


def test_an_input_with_all_levels_of_a_byte_needs_no_layer(tmp_path):
    """And weights of -128 steps, which the array does not have, are rounded anew."""
    rng = np.random.default_rng(SEED)
    nodes = [
        node("Quant", ["x", "fine", "zero", "eight"], "q0"),
        node("Quant", ["w", "half", "zero", "eight"], "v"),
        node("Conv", ["q0", "v"], "c", kernel_shape=[2, 2]),
        node("Relu", ["c"], "y"),
    ]
    weight = 20 * normal(rng, 4, 3, 2, 2)
    weight[0, 0, 0, 0] = -80
    constants = {
        **{"half": np.float32(0.5), "fine": np.float32(0.125), "zero": np.float32(0), "eight": np.float32(8)},
        "w": weight,
    }
    proto = model(nodes, constants, (3, 5, 5), "y")
    x = rng.uniform(-20, 20, (40, 3, 5, 5)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(proto, new_ops=[Quant]).run(None, {"x": x})
    compiled = compile_model(saved(proto, tmp_path), TINY, x)
    assert [type(operator) for operator in compiled.graph.operators] == [Convolution]
    (got,) = compiled.run(x, "isa").real_outputs.values()
    step = compiled.graph.tensors[compiled.graph.outputs[0]].scale
    assert np.abs(got - wanted)[:, 1:].max() <= 0.51 * step, "whole steps stay whole"
    assert np.abs(got - wanted)[:, 0].max() <= 0.01 * wanted.max()


def test_a_sign_behind_a_quantiser_is_that_of_the_level(tmp_path):
    """A small negative number is rounded to 0, whose sign is 1."""
    rng = np.random.default_rng(SEED)
    nodes = [
        node("Quant", ["x", "fine", "zero", "eight"], "q0"),
        node("Quant", ["w1", "scales", "zero", "four"], "v1"),
        node("Conv", ["q0", "v1"], "c1", kernel_shape=[3, 3]),
        node("Quant", ["c1", "four", "zero", "four"], "q1"),
        node("BipolarQuant", ["q1", "one"], "b1"),
        node("BipolarQuant", ["w2", "one"], "v2"),
        node("Conv", ["b1", "v2"], "y", kernel_shape=[2, 2]),
    ]
    constants = {
        **{"fine": np.float32(0.125), "zero": np.float32(0), "one": np.float32(1)},
        **{"four": np.float32(4), "eight": np.float32(8)},
        "scales": rng.uniform(0.1, 1, (16, 1, 1, 1)).astype(np.float32),
        **{"w1": normal(rng, 16, 3, 3, 3), "w2": normal(rng, 5, 16, 2, 2)},
    }
    proto = model(nodes, constants, (3, 6, 6), "y")
    x = rng.uniform(-9, 9, (40, 3, 6, 6)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(proto, new_ops=[Quant, BipolarQuant]).run(None, {"x": x})
    (got,) = compile_model(saved(proto, tmp_path), XNOR, x).run(x, "isa").real_outputs.values()
    np.testing.assert_array_equal(got, wanted)
