"""The ONNX front end on models made here, judged by ONNX's reference implementation, and on the QONNX model
zoo's, judged by what qonnx computed.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from tests.supplied import supplied

from popshift.gen.compilation import compile_model
from popshift.gen.frontend import check_model, load_model
from popshift.gen.frontend.float_graph import evaluate
from popshift.hw.config import load_config
from popshift.hw.errors import ModelError
from popshift.hw.isa import Counter
from popshift.sim.cycles import predicted_cycles

SEED = 3
TINY = load_config("tiny").replace(activation_depth=2048, weight_depth=4096, parameter_depth=1024)
XNOR = TINY.replace(name="xnor", rows=8, cols=8, tile_rows=2, post_lanes=4, pe_kinds=["mul", "xnor"])
SMALL = TINY.replace(
    name="small",
    **{"rows": 8, "cols": 8, "tile_rows": 2, "post_lanes": 1, "pe_kinds": ["xnor"]},
    **{"requantise": "compact", "accumulator_width": 24},
)


class BipolarQuant(OpRun):
    """The judge's: https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale):
        return (np.where(x >= 0, 1.0, -1.0).astype(np.float32) * scale,)


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: tuple[int, ...],
    output: str,
    opset: int = 15,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def node(operator: str, inputs: list[str], output: str, **attributes) -> onnx.NodeProto:
    domain = "qonnx.custom_op.general" if operator.endswith("Quant") else ""
    return helper.make_node(operator, inputs, [output], domain=domain, **attributes)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def norm(name: str, channels: int, rng: np.random.Generator) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    """Behind ``name``, to ``name``.norm."""
    values = {
        f"{name}.scale": normal(rng, channels),
        f"{name}.bias": normal(rng, channels),
        f"{name}.mean": 3 * normal(rng, channels),
        f"{name}.var": rng.uniform(1, 20, channels).astype(np.float32),
    }
    return node("BatchNormalization", [name, *values], f"{name}.norm", epsilon=1e-5), values


def binary_cnn(rng: np.random.Generator) -> onnx.ModelProto:
    """The layers of FINN's CNV: signs of the input, convolutions, batch norm, max pool, fully connected."""
    first, first_values = norm("c1", 16, rng)
    second, second_values = norm("c2", 24, rng)
    nodes = [
        node("Mul", ["x", "two"], "doubled"),
        node("Sub", ["doubled", "one"], "centred"),
        node("BipolarQuant", ["centred", "one"], "b0"),
        node("BipolarQuant", ["w1", "scale"], "q1"),
        node("Conv", ["b0", "q1"], "c1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        first,
        node("BipolarQuant", ["c1.norm", "half"], "b1"),
        node("BipolarQuant", ["w2", "one"], "q2"),
        node("Conv", ["b1", "q2"], "c2", kernel_shape=[3, 3]),
        node("MaxPool", ["c2"], "p2", kernel_shape=[2, 2], strides=[2, 2]),
        second,
        node("BipolarQuant", ["c2.norm", "one"], "b2"),
        node("Flatten", ["b2"], "flat"),
        node("BipolarQuant", ["w3", "one"], "q3"),
        node("Transpose", ["q3"], "t3", perm=[1, 0]),
        node("MatMul", ["flat", "t3"], "m3"),
        node("Div", ["m3", "seven"], "d3"),
        node("Add", ["d3", "offsets"], "y"),
    ]
    second.input[0] = "p2"
    constants = {
        "two": np.float32([2]),
        "one": np.float32([1]),
        "half": np.float32([0.5]),
        "scale": np.float32([0.25]),
        "seven": np.float32([7]),
        "offsets": normal(rng, 5),
        "w1": normal(rng, 16, 3, 3, 3),
        "w2": normal(rng, 24, 16, 3, 3),
        "w3": normal(rng, 5, 24 * 2 * 2),
        **first_values,
        **second_values,
    }
    return model(nodes, constants, (3, 6, 6), "y")


def saved(proto: onnx.ModelProto, folder: Path) -> str:
    onnx.save(proto, str(folder / "model.onnx"))
    return str(folder / "model.onnx")


@pytest.mark.parametrize("config", [XNOR, SMALL], ids=lambda config: config.name)
def test_a_bipolar_network_is_what_the_reference_computes(tmp_path, config):
    """Outputs and all: the host's part is a table of what the reference does to every sum."""
    rng = np.random.default_rng(SEED)
    proto = binary_cnn(rng)
    x = rng.uniform(0, 1, (40, 3, 6, 6)).astype(np.float32)
    x[0, 0, 0] = 0.5  # becomes 0: its sign is 1
    x[0, 0, 1] = np.nextafter(np.float32(0.5), np.float32(0))
    (wanted,) = ReferenceEvaluator(proto, new_ops=[BipolarQuant]).run(None, {"x": x})
    compiled = compile_model(saved(proto, tmp_path), config, x)
    without = compile_model(str(tmp_path / "model.onnx"), config)
    assert without.program.to_bytes() == compiled.program.to_bytes(), "no ranges, no calibration"
    run = compiled.run(x, "isa")
    np.testing.assert_allclose(run.real_outputs["m3"], wanted, rtol=1e-6, atol=1e-6)
    golden = compiled.run(x, "golden")
    for tensor, values in run.tensors.items():
        np.testing.assert_array_equal(golden.tensors[tensor], values, err_msg=tensor)
    on_board = compiled.run(x[:3], "rtl")
    np.testing.assert_array_equal(on_board.real_outputs["m3"], run.real_outputs["m3"][:3])
    assert on_board.counters is not None
    assert on_board.counters[Counter.CYCLES] == predicted_cycles(compiled.program)


def float_cnn(rng: np.random.Generator) -> onnx.ModelProto:
    """Every operator of the handlers that a float network uses."""
    after, values = norm("c1", 8, rng)
    nodes = [
        node("Conv", ["x", "w1", "a1"], "c1", auto_pad="SAME_UPPER", kernel_shape=[3, 3]),
        after,
        node("Relu", ["c1.norm"], "r1"),
        node("MaxPool", ["r1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], "c2", kernel_shape=[2, 3], strides=[1, 2], pads=[0, 1, 1, 0]),
        node("Add", ["c2", "a2"], "s2"),
        node("Clip", ["s2", "low", "high"], "k2"),
        node("Dropout", ["k2"], "d2"),
        node("GlobalAveragePool", ["d2"], "g2"),
        node("Reshape", ["g2", "vector"], "v2"),
        node("Gemm", ["v2", "w3", "a3"], "m3", transB=1, alpha=0.5, beta=2.0),
        node("Identity", ["m3"], "i3"),
        node("Softmax", ["i3"], "y"),
    ]
    constants = {
        "w1": normal(rng, 8, 2, 3, 3),
        "a1": normal(rng, 8),
        "w2": normal(rng, 6, 8, 2, 3),
        "a2": normal(rng, 6, 1, 1),
        "low": np.float32(-1),
        "high": np.float32(3),
        "vector": np.int64([0, -1]),
        "w3": normal(rng, 4, 6),
        "a3": normal(rng, 4),
        **values,
    }
    return model(nodes, constants, (2, 8, 8), "y")


def test_a_float_network_is_what_the_reference_computes(tmp_path):
    rng = np.random.default_rng(SEED)
    proto = float_cnn(rng)
    x = normal(rng, 30, 2, 8, 8)
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    graph = load_model(saved(proto, tmp_path)).graph
    import torch

    values = evaluate(graph, torch.from_numpy(x))[graph.outputs[0]]
    np.testing.assert_allclose(torch.softmax(values.flatten(1), 1), wanted, rtol=1e-4, atol=1e-5)
    assert graph.notes == ["Softmax (y) is left to the host: it does not change which output is largest"]
    compiled = compile_model(str(tmp_path / "model.onnx"), TINY, x)
    (got,) = compiled.run(x, "isa").real_outputs.values()
    assert (got.argmax(1) == wanted.argmax(1)).mean() >= 0.9


def test_constants_of_nodes_are_constants(tmp_path):
    """As older exporters of PyTorch write them, moved about by operators."""
    rng = np.random.default_rng(SEED)
    weight = normal(rng, 6, 4)
    nodes = [
        node("Constant", [], "w", value=numpy_helper.from_array(weight, "w")),
        node("Constant", [], "shape", value_ints=[1, -1]),
        node("Constant", [], "three", value_float=3.0),
        node("Transpose", ["w"], "t", perm=[1, 0]),
        node("Mul", ["x", "three"], "scaled"),
        node("Flatten", ["scaled"], "flat"),
        node("MatMul", ["flat", "t"], "y"),
    ]
    x = normal(rng, 9, 4, 1, 1)
    spec = saved(model(nodes, {}, (4, 1, 1), "y"), tmp_path)
    graph = load_model(spec).graph
    found = evaluate(graph, torch.from_numpy(x))[graph.outputs[0]]
    np.testing.assert_allclose(found.flatten(1), 3 * x[:, :, 0, 0] @ weight.T, rtol=1e-5, atol=1e-5)


def test_windows_beyond_the_image_are_what_the_reference_computes(tmp_path):
    rng = np.random.default_rng(SEED)
    shape = {"kernel_shape": [3, 2], "strides": [2, 3]}
    nodes = [
        node("AveragePool", ["x"], "a", pads=[1, 0, 1, 1], **shape),
        node("MaxPool", ["a"], "m", ceil_mode=1, kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["m"], "s", auto_pad="SAME_UPPER", kernel_shape=[3, 3]),
        node("Conv", ["s", "w"], "y", auto_pad="SAME_UPPER", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    proto = model(nodes, {"w": normal(rng, 3, 4, 2, 2)}, (4, 9, 16), "y")
    x = normal(rng, 20, 4, 9, 16)
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    graph = load_model(saved(proto, tmp_path)).graph
    found = evaluate(graph, torch.from_numpy(x))[graph.outputs[0]]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    compiled = compile_model(str(tmp_path / "model.onnx"), TINY, x)
    (got,) = compiled.run(x, "isa").real_outputs.values()
    np.testing.assert_allclose(got, wanted, atol=0.05 * np.abs(wanted).max())
    np.testing.assert_array_equal(compiled.run(x[:2], "rtl").real_outputs["y"], got[:2])


def test_residual_blocks_and_groups_run(tmp_path):
    rng = np.random.default_rng(SEED)
    constants = {
        "w": rng.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(4, 2, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w"], "d", group=4, pads=[1, 1, 1, 1]),
        node("Relu", ["d"], "r"),
        node("Conv", ["r", "v"], "p", group=2),
        node("Add", ["p", "x"], "s"),
        node("Relu", ["s"], "y"),
    ]
    proto = model(nodes, constants, (4, 6, 6), "y")
    spec = saved(proto, tmp_path)
    x = rng.normal(size=(20, 4, 6, 6)).astype(np.float32)
    wanted = np.concatenate([ReferenceEvaluator(proto).run(None, {"x": image[None]})[0] for image in x])
    graph = load_model(spec).graph
    found = evaluate(graph, torch.from_numpy(x))[graph.outputs[0]]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    (got,) = compile_model(spec, TINY, x).run(x[:2], "isa").real_outputs.values()
    np.testing.assert_allclose(got, wanted[:2], atol=0.05 * wanted.max())


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([node("Sin", ["x"], "y")], "layer y (Sin): popshift does not know this operator"),
        ([node("Mul", ["x", "x"], "y")], "it combines two activations"),
        ([node("Quant", ["x", "s", "z", "b"], "y", rounding_mode="CEIL")], "rounding_mode CEIL, only ROUND"),
        ([node("Quant", ["x", "s", "z", "nine"], "y")], "it has 9 bits and zero point 0; use 2 to 8 bits"),
        ([node("Conv", ["x", "w"], "y", group=3)], "its weight has 6 input channels, not 4"),
        ([node("Softmax", ["x"], "s1"), node("Relu", ["s1"], "y")], "the network goes on behind it"),
        ([node("Mul", ["x", "w"], "y")], "its constant has shape (4, 2, 3, 3)"),
        ([node("Conv", ["x", "nan"], "y")], "its weight holds NaN or infinity"),
        ([node("Identity", ["x"], "y")], "it is the input"),
        (
            [node("AveragePool", ["x"], "y", kernel_shape=[2, 2], pads=[2, 0, 0, 0])],
            "a window has nothing but padding; pad by less than the kernel",
        ),
        (
            [node("AveragePool", ["x"], "y", kernel_shape=[2, 2], dilations=[2, 2])],
            "it averages with dilations (2, 2)",
        ),
    ],
    ids=[
        "unknown",
        "sum",
        "rounding",
        "nine bits",
        "group",
        "softmax inside",
        "constant",
        "not finite",
        "nothing",
        "only padding",
        "dilated average",
    ],
)
def test_what_cannot_run_is_named(tmp_path, nodes, told):
    constants = {
        **{"s": np.float32(1), "z": np.float32(0), "b": np.float32(2), "nine": np.float32(9)},
        **{"w": np.ones((4, 2, 3, 3), np.float32), "nan": np.full((4, 4, 1, 1), np.nan, np.float32)},
    }
    spec = saved(model(nodes, constants, (4, 6, 6), "y"), tmp_path)
    with pytest.raises(ModelError) as refused:
        load_model(spec)
    assert told in str(refused.value)
    assert any(not finding.supported for finding in check_model(spec))


def test_what_is_no_model_is_said_in_a_line(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    for name, told in (("text.onnx", "not an ONNX model"), ("absent.onnx", "there is no such file")):
        with pytest.raises(ModelError, match=told):
            load_model(str(tmp_path / name))


# ---- the model zoo -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist():
    folder = supplied("tfc_mnist")
    data = np.load(folder / "data.npz")
    return folder, (data["x"] / 255).astype(np.float32)[:, None], data


@pytest.mark.parametrize("config", [load_config("a16-xnor"), SMALL], ids=lambda config: config.name)
def test_tfc_w1a1_gives_the_logits_of_qonnx(mnist, config):
    """All 10,000 images, every logit to the last bit of float32; 50 of them by the hardware."""
    folder, x, data = mnist
    labels, logits = data["y"], data["logits_1W1A"]
    compiled = compile_model(str(folder / "TFC_1W1A.onnx"), config, x[:8])
    (got,) = compiled.run(x, "isa").real_outputs.values()
    np.testing.assert_array_equal(got.astype(np.float32), logits)
    assert (got.argmax(1) == labels).mean() == pytest.approx(0.9296)
    on_board = compiled.run(x[:50], "rtl")
    (found,) = on_board.real_outputs.values()
    np.testing.assert_array_equal(found.astype(np.float32), logits[:50])
    assert on_board.counters is not None
    assert on_board.counters[Counter.CYCLES] == predicted_cycles(compiled.program)


@pytest.mark.parametrize("name", ["1W2A", "2W2A"])
def test_tfc_of_two_bits_gives_the_logits_of_qonnx(mnist, name):
    folder, x, data = mnist
    (got,) = compile_model(str(folder / f"TFC_{name}.onnx"), "a16").run(x, "isa").real_outputs.values()
    np.testing.assert_array_equal(got.astype(np.float32), data[f"logits_{name}"])
    assert (got.argmax(1) == data["y"]).mean() == pytest.approx({"1W2A": 0.9474, "2W2A": 0.9660}[name])


def test_a_float_cnn_keeps_its_accuracy(mnist):
    """MNIST-8 of the ONNX model zoo, 98.90 % in float, quantised here with 300 of the images."""
    folder, x, data = mnist
    compiled = compile_model(str(folder / "mnist8_conv_float.onnx"), "a16", x[:300])
    (got,) = compiled.run(x, "isa").real_outputs.values()
    assert (got.reshape(len(x), -1).argmax(1) == data["y"]).mean() >= 0.985
