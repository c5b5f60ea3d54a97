"""The TensorFlow Lite front end, judged by what TensorFlow Lite for Microcontrollers computes: on real
networks of ../shared/data, and on models made here, as checksums of its outputs.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
from tests import tflite_models as models
from tests.supplied import supplied
from tests.tflite_models import Writer, checksum, random_model, samples
from typer.testing import CliRunner

from popshift.firmware_py.program import Program
from popshift.firmware_py.tensors import QuantisedInputs
from popshift.gen import golden, graph_file
from popshift.gen.cli.main import app
from popshift.gen.compilation import compile_model
from popshift.gen.execution import verify
from popshift.gen.explain import explain_model
from popshift.gen.frontend import load_model
from popshift.gen.frontend.integer_network import IntegerNetwork
from popshift.gen.frontend.tflite import from_tflite
from popshift.gen.frontend.tflite_factors import division
from popshift.gen.graph import Pool
from popshift.gen.real_outputs import host_integers
from popshift.hw import numerics
from popshift.hw.config import load_config
from popshift.hw.errors import InputError, ModelError
from popshift.hw.isa import Counter
from popshift.hw.numerics import Requantise
from popshift.sim.cycles import predicted_cycles

TINY = load_config("tiny").replace(activation_depth=2048, weight_depth=4096, parameter_depth=1024)
ROOMY = TINY.replace(name="roomy", rows=8, activation_depth=16384, parameter_depth=4096, weight_depth=16384)
TFLM = {
    "convolution": "523f2e46 dc5cdc6c e4f4ea31 6f2b7605 b5714820 fcf026eb 4efeb32a",
    "depthwise": "4156a902 9f49f1f1 9115d629 68aa8557 2055668d 643f1315 0ee48389",
    "fully_connected": "f28f9420 b9a6d9a7 cf88da11 dee816f9 c8b71bf4 b7a18820 5f97c0c2",
    "pool": "aa25ea36 a4519573 d25a090c 87e59cb2 3aeb18ea 4b53cdcc bbf943f9",
    "average": "58dffeda 714688b1 d45fcfa1 c94e877c 65c21fb4 4279c7fa cd499655",
    "mean": "19dcaabf 47ff5c9f 0a904188 a57baeed b4fa58a5 452548d1 d1c62967",
    "add": "2ed76b06 3287f024 82df8bce fa25df63 20fa2210 139b6dc0 97911e85",
    "padded": "f6f74fbf 54e1f089 66649e83 c5b530f7 a14feeb3 77e54c58 4fd8c795",
    "relu": "95b296a4 4c154bd4 0d95a3a1 ff07f00c b9952327 b31d38f9 cd499655",
    "softmax": "5c5f0aca 8f68a2ae 627b8bcb e0e2b62a e49504e4 4a12a9a7 0d43f451",
    "network": "37fbbd62 e3c34c5c 725d4e33 b630236d 72c85e2a 2f2abc82 3f5edec8",
    "sequence": "3c2d46e4 cb0ea2db 758c9d6a 82e671bb 1c8315fc c7d60d5f 0f85eab2",
    "pixelwise": "b4ce87d3 3c6018f3 9f3a1db5 d457d964 7ddde751 523d85bf ef34c521",
}
"""Checksum of the models, then of the outputs of each: printed by ``python -m tests.tflite_models`` with
tflite-micro 0.dev20261023182759.
"""


def written(data: bytes | Writer, folder: Path) -> str:
    path = folder / "model.tflite"
    path.write_bytes(data if isinstance(data, bytes) else data.to_bytes())
    return str(path)


def real_network(folder: str) -> tuple[Path, dict[str, np.ndarray]]:
    """A .tflite file of ../shared/data, and what is beside it: inputs, labels, outputs of TFLM."""
    (path,) = (path for path in supplied(folder).glob("*.tflite") if "float32" not in path.name)
    return path, np.load(path.parent / "data.npz")


def computed(network: IntegerNetwork, x: np.ndarray) -> np.ndarray:
    """The int8 output (n, elements) for inputs in the file's layout, by golden model and host."""
    graph = network.graph
    channels, height, width = graph.tensors[graph.inputs[0]].shape
    images = np.moveaxis(x.reshape(-1, height, width, channels), 3, 1)
    result = graph.tensors[graph.outputs[0]]
    values = golden.run(graph, np.ascontiguousarray(images))[result.name]
    flat = np.moveaxis(values, 1, 3).reshape(len(x), -1)
    if result.name not in network.tails:
        return flat
    integers = network.tails[result.name].integers(flat)
    assert integers is not None
    return integers


@pytest.mark.parametrize(
    ("folder", "images"), [("kws_dscnn", 40), ("ad_autoencoder", None), ("hello_world", None)]
)
def test_real_networks_give_the_bytes_of_tflm(folder, images):
    path, data = real_network(folder)
    network = from_tflite(path)
    x, wanted = data["x"][:images], data["tflm"][:images]
    np.testing.assert_array_equal(computed(network, x), wanted.reshape(len(x), -1))


@pytest.mark.parametrize("kind", TFLM)
def test_random_models_give_the_bytes_of_tflm(kind, tmp_path):
    files, *outputs = TFLM[kind].split()
    made = [random_model(kind, seed) for seed in range(len(outputs))]
    assert f"{zlib.crc32(b''.join(made)):08x}" == files, "the models have changed: make the table again"
    for seed, (model, wanted) in enumerate(zip(made, outputs, strict=True)):
        network = from_tflite(Path(written(model, tmp_path)))
        assert checksum(computed(network, samples(model, seed))) == wanted, f"{kind} {seed}"


@pytest.mark.parametrize(
    ("folder", "images"), [("kws_dscnn", 200), ("ad_autoencoder", None), ("hello_world", None)]
)
def test_real_networks_run_with_the_bytes_of_tflm(folder, images):
    """All supplied inputs (of the keywords the first 200) at isa, 20 at rtl, with the cycles predicted."""
    path, data = real_network(folder)
    compiled = compile_model(str(path), "a8")
    for level, count in (("isa", images), ("rtl", 20)):
        x, wanted = data["x"][:count], data["tflm"][:count]
        found = compiled.run(x, level)
        integers = {**found.outputs, **host_integers(compiled.program, found.outputs)}
        if folder == "kws_dscnn":
            assert (integers["Identity"].argmax(1) == data["y"][:count]).mean() > 0.85
        (last,) = [values for values in integers.values() if values.size == wanted.size][-1:]
        np.testing.assert_array_equal(last.reshape(wanted.shape), wanted, err_msg=level)
        if level == "rtl" and len(compiled.program.segments) == 1:
            assert found.counters is not None
            assert found.counters[Counter.CYCLES] == predicted_cycles(compiled.program)


def test_the_keyword_network_runs_on_the_smallest_board():
    """Its requantisation rounds once, so bytes may differ from TFLM's, but words are told as often."""
    path, data = real_network("kws_dscnn")
    compiled = compile_model(str(path), "icebreaker")
    (wanted,) = compiled.run(data["x"][:200], "golden").outputs.values()
    assert (wanted.reshape(200, -1).argmax(1) == data["y"][:200]).mean() > 0.85
    for level, count in (("isa", 200), ("rtl", 3)):
        found = compiled.run(data["x"][:count], level)
        np.testing.assert_array_equal(*found.outputs.values(), wanted[:count], err_msg=level)
    assert found.counters is not None
    assert found.counters[Counter.CYCLES] == predicted_cycles(compiled.program) < 520_000


@pytest.mark.parametrize("kind", TFLM)
def test_random_models_run_with_the_bytes_of_tflm(kind, tmp_path):
    """At isa; what does not fit the small array is left out, but not most of it."""
    done = 0
    for seed, wanted in enumerate(TFLM[kind].split()[1:]):
        model = random_model(kind, seed)
        x = samples(model, seed)
        try:
            compiled = compile_model(written(model, tmp_path), ROOMY)
        except ModelError as error:
            assert "the tensors alive here need" in str(error)
            continue
        found = compiled.run(x, "isa")
        tails = list(host_integers(compiled.program, found.outputs).values())
        (result,) = tails or [
            np.moveaxis(values, 1, 3).reshape(len(x), -1) for values in found.outputs.values()
        ]
        assert checksum(result) == wanted, f"{kind} {seed}"
        done += 1
    assert done >= 5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 12, 49, 64, 125, 1023, 4095, 4096])
def test_division_rounds_every_sum_half_away_from_zero(count):
    sums = np.arange(-128 * count, 127 * count + 1, dtype=np.int64)
    multiplier, shift = division(count, Requantise.EXACT)
    assert multiplier < 1 << numerics.EXACT_MULTIPLIER_BITS and shift in Requantise.EXACT.shifts
    got = numerics.scale(sums, multiplier, shift, Requantise.EXACT)
    np.testing.assert_array_equal(got, np.sign(sums) * ((abs(sums) + count // 2) // count))


@pytest.mark.parametrize("kind", ["convolution", "depthwise", "fully_connected", "pool"])
def test_compact_is_close_and_says_so(kind, tmp_path):
    differing = []
    for seed in range(4):
        model = random_model(kind, seed)
        path = Path(written(model, tmp_path))
        exact, compact = from_tflite(path), from_tflite(path, Requantise.COMPACT)
        x = samples(model, seed, 16)
        difference = computed(exact, x).astype(int) - computed(compact, x)
        assert abs(difference).max() <= 1
        differing.append(np.mean(difference != 0))
        assert "rounds once instead of twice" in compact.notes[0]
    assert np.mean(differing) < 0.02
    with pytest.raises(ModelError, match="quantised for exact requantisation"):
        compile_model(str(path), TINY.replace(requantise="compact"), loaded=load_model(str(path)))


def test_the_graph_file_keeps_raw_pooling(tmp_path):
    pools = []
    for seed in range(8):
        model = random_model("pool", seed)
        graph = from_tflite(Path(written(model, tmp_path))).graph
        data = graph_file.to_bytes(graph)
        again = graph_file.from_bytes(data)
        assert graph_file.to_bytes(again) == data
        pools += [operator.raw for operator in again.operators if isinstance(operator, Pool)]
    assert set(pools) == {False, True}


# ---- the whole way -----------------------------------------------------------------------------------------


def cube(seed: int = 0) -> Writer:
    """A convolution, a fully connected layer and a softmax on an image of 4 x 4 pixels and 4 channels."""
    rng = np.random.default_rng(seed)
    writer = Writer()
    writer.inputs = [writer.tensor((1, 4, 4, 4), 0.05, 7, signature=(-1, 4, 4, 4))]
    middle = models.convolution(writer, rng, writer.inputs[0])
    writer.outputs = [models.softmax(writer, rng, middle)]
    return writer


def test_a_program_takes_and_gives_the_layout_of_the_file(tmp_path):
    """Sizes that allow both readings are read as in the file, once: at every level."""
    model = cube().to_bytes()
    x = samples(model, 0)
    network = from_tflite(Path(written(model, tmp_path)))
    wanted = computed(network, x)
    compiled = compile_model(str(tmp_path / "model.tflite"), TINY)
    assert compiled.notes == ("SOFTMAX t9 is computed by the host",)
    program = Program.from_bytes(compiled.program.to_bytes())
    assert program.inputs[0].dims == (4, 4, 4)
    real = 0.05 * (x.astype(np.float64) - 7)
    for inputs in (x, real, program.quantise_inputs(x)):
        execution, difference = verify(program, inputs, "isa")
        assert difference is None
        (integers,) = host_integers(program, execution.outputs).values()
        np.testing.assert_array_equal(integers.reshape(len(x), -1), wanted)
        (values,) = execution.real_outputs.values()
        np.testing.assert_array_equal(values, (wanted.reshape(values.shape) + 128.0) / 256)
    assert isinstance(program.quantise_inputs(x), QuantisedInputs)
    np.testing.assert_array_equal(program.quantise_inputs(x)["t0"], np.moveaxis(x, 3, 1))


def test_sizes_that_the_file_works_out_are_known(tmp_path):
    """What Keras' Flatten becomes for an open batch: SHAPE, STRIDED_SLICE, PACK, RESHAPE."""

    def flattened(*, with_sizes: bool) -> Path:
        rng, writer = np.random.default_rng(2), Writer()
        writer.inputs = [writer.tensor((1, 4, 4, 3), 0.1, 3)]
        end = models.convolution(writer, rng, writer.inputs[0])
        elements = int(np.prod(writer.tensors[end]["shape"]))
        to = models.constant(writer, (1, elements))
        if with_sizes:
            sizes = writer.operator("SHAPE", [end], [writer.tensor((4,), dtype=np.int32)])
            ends = [models.constant(writer, (number,)) for number in (0, 1, 1)]
            batch = writer.operator("STRIDED_SLICE", [sizes, *ends], [writer.tensor((), dtype=np.int32)])
            rest = models.constant(writer, elements)
            to = writer.operator("PACK", [batch, rest], [writer.tensor((2,), dtype=np.int32)])
        tensor = writer.tensors[end]
        flat = writer.tensor((1, elements), tensor["scales"], tensor["zero_point"])
        end = writer.operator("RESHAPE", [end, to], [flat])
        writer.outputs = [models.fully_connected(writer, rng, end)]
        path = tmp_path / f"{with_sizes}.tflite"
        path.write_bytes(writer.to_bytes())
        return path

    x = np.random.default_rng(0).integers(-128, 128, (9, 4, 4, 3)).astype(np.int8)
    plain, worked_out = (from_tflite(flattened(with_sizes=with_sizes)) for with_sizes in (False, True))
    np.testing.assert_array_equal(computed(worked_out, x), computed(plain, x))


def test_inputs_of_other_shapes(tmp_path):
    rng = np.random.default_rng(1)
    writer = Writer()
    writer.inputs = [writer.tensor((1, 3, 5, 2), 0.1, 0)]
    writer.outputs = [models.convolution(writer, rng, writer.inputs[0])]
    program = compile_model(written(writer, tmp_path), TINY).program
    x = rng.standard_normal((6, 3, 5, 2))
    np.testing.assert_array_equal(
        program.quantise_inputs(x)["t0"], program.quantise_inputs(np.moveaxis(x, 3, 1))["t0"]
    )
    with pytest.raises(
        InputError, match=r"must be \(n, 3, 5, 2\) or \(n, 2, 3, 5\), not \(3, 5, 2\); put the"
    ):
        program.quantise_inputs(x[0])
    with pytest.raises(InputError, match=r"not \(6, 5, 3, 2\); give what the network was compiled for"):
        program.quantise_inputs(x.swapaxes(1, 2))


def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = cube().to_bytes()
    written(model, tmp_path)
    np.save("x.npy", samples(model, 0))
    run = CliRunner().invoke
    explained = run(app, ["explain", "model.tflite", "-c", "a16"])
    assert explained.exit_code == 0, explained.output
    assert "computed by the host" in explained.output and "no data moves" in explained.output
    assert run(app, ["compile", "model.tflite", "-c", "a16", "-o", "x.pop"]).exit_code == 0
    simulated = run(app, ["simulate", "x.pop", "-i", "x.npy", "--level", "isa", "-o", "y.npz"])
    assert simulated.exit_code == 0, simulated.output
    outputs = np.load("y.npz")
    wanted = computed(from_tflite(tmp_path / "model.tflite"), samples(model, 0))
    np.testing.assert_array_equal(outputs["t9"], wanted)
    np.testing.assert_allclose(outputs["t8_real"], (wanted + 128.0) / 256)


def test_calibration_data_are_not_used(tmp_path):
    compiled = compile_model(written(cube(), tmp_path), TINY, np.zeros((1, 4, 4, 4)))
    assert compiled.notes[-1] == "the network is quantised already: the calibration data are not used"
    explained = explain_model(str(tmp_path / "model.tflite"), TINY)
    assert explained.maps and "random inputs" not in str(explained.notes)
    assert compiled.quantisation_report() is None
