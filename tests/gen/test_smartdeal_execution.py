"""SmartDeal layers from PyTorch to the accelerator, judged by rational arithmetic written here."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from popshift.firmware_py.weight_words import passes
from popshift.gen.compilation import attached_graph, compile_graph, compile_module
from popshift.gen.compress import smartdeal
from popshift.gen.compress.smartdeal import SmartDealConfig
from popshift.gen.compress.smartdeal.options import ONE_SLICE
from popshift.gen.explain import explain_program, mapping_text
from popshift.gen.frontend.torch_export import from_exported, from_module
from popshift.gen.mapping.digits import digits
from popshift.gen.mapping.schemes import candidates
from popshift.gen.mapping.tiling import ABOUT_AS_LONG
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.errors import InputError, ModelError
from popshift.hw.isa import Kind, Opcode

TINY = load_config("tiny")
REBUILD = TINY.replace(name="rebuild", rebuild=True, weight_depth=4096)
SHIFT = TINY.replace(name="shift", cols=6, tile_cols=3, pe_kinds=["shift"], weight_depth=4096)
MIXED = TINY.replace(
    name="mixed", cols=6, tile_cols=3, pe_kinds=["mul", "shift"], rebuild=True, weight_depth=4096
)
ARRAYS = pytest.mark.parametrize("config", [REBUILD, SHIFT, MIXED], ids=lambda config: config.name)


def decomposed(layer: nn.Module, config: AcceleratorConfig, **options) -> nn.Module:
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    options = {"restarts": 2, "iterations": 3, **options}
    return smartdeal.decompose(layer, SmartDealConfig.for_target(config, **options))[0].eval()


def integers(layer: nn.Module) -> tuple[np.ndarray, list[Fraction]]:
    """``sum over j Ce[m][i][j] B[m][j][s]`` at the taps of a layer's weight, as Python ints; the scales."""
    found = smartdeal.decomposition(layer)
    shape = layer.weight.shape
    weight = np.zeros((shape[0], int(np.prod(shape[1:]))), object)
    for m, g, i, s in np.ndindex(*found.coefficients.shape):
        tap = int(found.slicing.taps[g, i, s])
        if tap >= 0:
            row, column = found.coefficients[m, g, i].tolist(), found.basis[m, g, :, s].tolist()
            weight[m, tap] += sum(c * b for c, b in zip(row, column, strict=True))
    return weight.reshape(shape), [Fraction(float(scale)) for scale in found.scale]


def nearest(value: Fraction) -> int:
    """Half up; no test below has a tie."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def judge(layer: nn.Module, compiled, inputs: np.ndarray, got: np.ndarray, sums) -> int:
    """Every output compared with ``scale * sum x * (Ce B) + bias`` in rational numbers; returns how many.

    The multiplier of 31 bits may move what lies within 2**-20 of a tie: those are left out.
    """
    graph = compiled.graph
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    weight, scales = integers(layer)
    step_in, step_out = Fraction(source.scale), Fraction(target.scale)
    judged = 0
    for image, channel, y, x in np.ndindex(*got.shape):
        total = sums(inputs[image].astype(object) - source.zero_point, weight[channel], y, x)
        scale = step_in * scales[channel]
        bias = nearest(Fraction(float(layer.bias.detach()[channel].double())) / scale)
        exact = (total + bias) * scale / step_out
        if abs(exact - nearest(exact)) > Fraction(1, 2) - Fraction(1, 1 << 12):
            continue
        wanted = min(max(nearest(exact) + target.zero_point, -128), 127)
        assert got[image, channel, y, x] == wanted
        judged += 1
    return judged


@ARRAYS
@pytest.mark.parametrize(("stride", "row_sparsity"), [(1, 0.0), (2, 0.5)])
def test_a_convolution_is_what_rational_arithmetic_says(config, stride, row_sparsity):
    layer = decomposed(nn.Conv2d(5, 7, 3, stride, padding=1), config, row_sparsity=row_sparsity)
    samples = torch.randn(8, 5, 6, 7, generator=torch.Generator().manual_seed(2))
    compiled = compile_module(layer, samples, config)
    run = compiled.run(samples[:2], "isa")
    inputs = compiled.program.quantise_inputs(samples[:2].numpy())[compiled.graph.inputs[0]]

    def sums(image, weight, y, x):
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        patch = padded[:, y * stride : y * stride + 3, x * stride : x * stride + 3]
        return int((patch * weight).sum())

    got = run.tensors[compiled.graph.outputs[0]]
    assert judge(layer, compiled, inputs, got, sums) > 0.98 * got.size


@ARRAYS
@pytest.mark.parametrize("features", [11, 48, 100])
def test_a_linear_layer_is_what_rational_arithmetic_says(config, features):
    layer = decomposed(nn.Linear(features, 9), config)
    samples = torch.randn(16, features, generator=torch.Generator().manual_seed(3))
    compiled = compile_module(layer, samples, config)
    inputs = compiled.program.quantise_inputs(samples[:4].numpy())[compiled.graph.inputs[0]]
    got = compiled.run(samples[:4], "isa").tensors[compiled.graph.outputs[0]]

    def sums(image, weight, y, x):
        return int((image.reshape(-1) * weight).sum())

    assert judge(layer, compiled, inputs, got, sums) > 0.98 * got.size


def network() -> nn.Sequential:
    """Batch norm with factors of both signs and zero, 1x1 and 5x5 kernels, strides, a linear layer."""
    torch.manual_seed(4)
    found = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 10, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(10, 6, 1), nn.ReLU()),
        *(nn.Conv2d(6, 5, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 4)),
    )
    found[1].weight.data = torch.tensor([1.0, -1.5, 0, 0.5, 2, 1, -0.1, 1])
    return found.eval()


@ARRAYS
@pytest.mark.parametrize("row_sparsity", [0.0, 0.5])
def test_whole_networks_agree_at_all_levels(config, row_sparsity):
    options = SmartDealConfig.for_target(config, row_sparsity=row_sparsity, restarts=1, iterations=2)
    module, _ = smartdeal.decompose(network(), options)
    samples = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    compiled = compile_module(module.eval(), samples, config)
    golden, executed = compiled.run(samples, "golden"), compiled.run(samples, "isa")
    for name, values in executed.tensors.items():
        np.testing.assert_array_equal(golden.tensors[name], values, err_msg=name)
    again = attached_graph(compiled.program)
    for before, after in zip(compiled.graph.operators, again.operators, strict=True):
        np.testing.assert_array_equal(before.weight, after.weight)
        assert (before.factors is None) == (after.factors is None)


def test_the_module_is_left_as_it_is():
    module, _ = smartdeal.decompose(network(), SmartDealConfig(restarts=1, iterations=1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph = from_module(module, torch.zeros(1, 3, 8, 8))
    assert all(operator.smartdeal is not None for operator in graph.operators)
    after = module.state_dict()
    assert after.keys() == before.keys() and all(after[name].equal(before[name]) for name in before)
    assert smartdeal.is_decomposed(module[0]) and module(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_an_array_without_smartdeal_takes_int8_and_says_so():
    module, _ = smartdeal.decompose(network(), SmartDealConfig(restarts=1, iterations=1))
    config = TINY.replace(weight_depth=4096)
    with pytest.warns(
        UserWarning, match="neither rebuild nor shift PEs: the SmartDeal weights of 0, 3, 5, 7, 10"
    ):
        compiled = compile_module(module.eval(), torch.randn(4, 3, 8, 8), config)
    assert all(operator.factors is None for operator in compiled.graph.operators)


def test_a_graph_with_smartdeal_weights_is_refused_there():
    layer = decomposed(nn.Conv2d(4, 4, 3), REBUILD)
    graph = compile_module(layer, torch.randn(4, 4, 6, 6), REBUILD).graph
    with pytest.raises(ModelError, match="configuration tiny cannot work with SmartDeal weights"):
        compile_graph(graph, TINY)


def test_zero_rows_cost_neither_passes_nor_words():
    config = REBUILD.replace(rows=8, tile_rows=2)
    words, tiles = {}, {}
    for row_sparsity in (0.0, 0.5):
        layer = decomposed(nn.Conv2d(16, 8, 3, padding=1), config, row_sparsity=row_sparsity)
        (record,) = [
            record
            for record in compile_module(layer, torch.randn(4, 16, 8, 8), config).program.layers
            if record.kind == "convolution"
        ]
        words[row_sparsity], tiles[row_sparsity] = record.mapping["weight_words"], record.mapping["row_tiles"]
    assert tiles == {0.0: 18, 0.5: 9}
    # Two column tiles of four filters; in each of them bases, and rows of coefficients.
    assert words == {0.0: 2 * (isa.BASIS_WORDS + 6 * 8), 0.5: 2 * (isa.BASIS_WORDS + 3 * 8)}


def test_copies_of_the_input_share_the_columns_of_a_row():
    """12 rows of coefficients on 8 rows that hold 4 channels twice: 36 rows of weights in 5 passes."""
    config = REBUILD.replace(rows=8, tile_rows=2)
    layer = decomposed(nn.Conv2d(4, 4, 3), config)
    program = compile_module(layer, torch.randn(4, 4, 8, 8), config).program
    assert program.layers[-1].mapping["row_tiles"] == 5
    segment = program.segments[0]
    words = [int(word) for word in segment.instructions]
    place, found = 0, None
    while found is None:
        item = isa.decode(words, place)
        assert isinstance(item, isa.Instruction)
        found = item if item.opcode is Opcode.MATRIX else None
        place += isa.LENGTHS[item.opcode]
    assert (found["kind"], found["k_tiles"], found["replays"]) == (Kind.REBUILD, 5, 3)
    steps = passes(found, config, segment.weights)
    assert [bool(step.weights.any()) for step in steps] == [True] * 5


@pytest.mark.parametrize(
    ("channels", "execution", "row_tiles"),
    [(4, "rebuild", 5), (3, "rebuild by tap", 2)],
    ids=["as few passes", "a third pass"],
)
def test_a_row_for_every_weight_where_that_saves_passes(channels, execution, row_tiles):
    """Three channels on 16 rows: 27 weights need two passes, a replayed tile of 9 rows would serve three."""
    config = REBUILD.replace(rows=8 if channels == 4 else 16, tile_rows=2)
    layer = decomposed(nn.Conv2d(channels, 4, 3, padding=1), config)
    samples = torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(6))
    compiled = compile_module(layer, samples, config)
    mapping = compiled.program.layers[-1].mapping
    assert (mapping["execution"], mapping["row_tiles"]) == (execution, row_tiles)
    golden, executed = compiled.run(samples, "golden"), compiled.run(samples, "isa")
    for name, values in executed.tensors.items():
        np.testing.assert_array_equal(golden.tensors[name], values, err_msg=name)


def test_the_faster_execution_is_taken_and_explained():
    layer = decomposed(nn.Conv2d(4, 2, 3, padding=1), MIXED)
    program = compile_module(layer, torch.randn(4, 4, 8, 8), MIXED).program
    record = explain_program(program).layers[-1]
    others = record.mapping["other_executions"]
    assert others and record.predicted_cycles <= min(others.values()) * ABOUT_AS_LONG
    assert mapping_text(record).startswith(record.mapping["execution"])
    for name, cycles in others.items():
        assert f"{name} {cycles:,} cycles" in mapping_text(record)


@pytest.mark.parametrize(
    ("config", "layer", "options", "told"),
    [
        (REBUILD, nn.Conv2d(4, 2, 3), {}, "not factored: the configuration has no shift PEs"),
        (SHIFT, nn.Conv2d(4, 2, 3), {}, "not rebuild: the configuration has rebuild = false"),
        (SHIFT, nn.Conv2d(8, 2, 3), {"slice_rows": 12}, "in 2 slices, each with a basis of its own"),
        (SHIFT, nn.Conv2d(4, 2, 5), {}, "some rows of coefficients have fewer than three weights"),
    ],
    ids=["no shift", "no rebuild", "slices", "missing weights"],
)
def test_what_is_impossible_is_told(config, layer, options, told):
    module = decomposed(layer, config, **options)
    size = module.in_channels, 8, 8
    program = compile_module(module, torch.randn(4, *size), config).program
    assert told in mapping_text(program.layers[-1])


def test_digits_write_every_weight_exactly():
    rows, basis = digits(np.arange(-127, 128))
    assert rows.shape == (255, 1, 3)
    assert (rows[:, 0].astype(int) @ np.array(basis) == np.arange(-127, 128)).all()
    values = np.array([24384, -24384, 128, -129, 1000, 12345, -23457, 0])
    rows, basis = digits(values)
    assert rows.shape == (8, 3, 3) and max(map(abs, basis)) <= 127
    assert set(np.abs(rows).ravel().tolist()) <= {0, *(1 << power for power in range(7))}
    assert ((rows.astype(int) @ np.array(basis)).sum(1) == values).all()


def test_sums_that_do_not_fit_are_refused():
    """1,100 coefficients of 64, each times an activation of -128, need 25 bits; times basis they fit 32."""
    layer = decomposed(nn.Linear(3 * 1100, 2, bias=False), SHIFT, banks=1100)
    weight = layer.parametrizations.weight
    with torch.no_grad():
        weight.original0.zero_()[..., 0] = 64 * weight[0].unit[..., 0]
        weight.original1.zero_()[..., 0, 0] = 1
    config = SHIFT.replace(activation_depth=16384, weight_depth=1 << 16)
    with pytest.raises(ModelError, match=r"a sum can reach 9011200 in the accumulators, beyond 24 bits"):
        compile_module(layer, torch.randn(2, 3300), config)


def test_candidates_prefer_what_the_configuration_was_made_for():
    layer = decomposed(nn.Conv2d(4, 2, 3), MIXED)
    compiled = compile_module(layer, torch.randn(4, 4, 6, 6), MIXED)
    graph, source = compiled.graph, compiled.program.inputs[0]
    found = candidates(graph.operators[0], source, graph.tensors[graph.outputs[0]], MIXED)
    names = [entry.scheme.name for entry in found]
    assert names == ["rebuild", "factored", "digits"]


@pytest.mark.filterwarnings("ignore:No complete tensor found")
def test_an_exported_program_says_that_it_lost_the_form(tmp_path):
    layer = decomposed(nn.Conv2d(4, 4, 3), REBUILD)
    exported = torch.export.export(layer, (torch.randn(1, 4, 6, 6),))
    torch.export.save(exported, tmp_path / "small.pt2")
    graph = from_exported(tmp_path / "small.pt2")
    assert graph.notes == [
        "an exported program keeps no SmartDeal form, weights are quantised to int8: compile the module"
    ]
    assert [operator.smartdeal for operator in graph.operators] == [None]
    assert np.allclose(graph.operators[0].weight, layer.weight.detach().numpy())


def test_the_target_may_be_named():
    assert SmartDealConfig.for_target("a8").banks == 8
    with pytest.raises(InputError, match=r"row_sparsity must be at least 0 and below 1, not '0\.5'"):
        SmartDealConfig(**{"row_sparsity": "0.5"})
    one = SmartDealConfig.for_target(SHIFT)
    assert (one.group, one.slice_rows) == (2, ONE_SLICE)
