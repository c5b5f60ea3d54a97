"""Sums of two tensors, grouped convolutions and signs on their own, from PyTorch to the accelerator."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from popshift.gen import golden, graph_file
from popshift.gen.compilation import compile_graph, compile_module
from popshift.gen.compress.sums import sum_factors
from popshift.gen.frontend.float_graph import FloatConvolution, evaluate
from popshift.gen.frontend.torch_export import from_module
from popshift.gen.graph import Add, Convolution, Factor, Graph, Requantisation, Tensor, Window
from popshift.gen.mapping import prepared
from popshift.gen.train.binary.blocks import BinaryBlock
from popshift.gen.train.binary.layers import BinaryConv2d
from popshift.hw import numerics
from popshift.hw.config import load_config
from popshift.hw.errors import ModelError
from popshift.hw.isa import Counter, Opcode
from popshift.hw.numerics import Requantise
from popshift.sim.cycles import instructions_of, predicted_cycles
from popshift.sim.run import run_program

TINY = load_config("tiny").replace(activation_depth=4096, weight_depth=4096, parameter_depth=512)
SINGLE = TINY.replace(
    name="single",
    **{"rows": 6, "cols": 3, "tile_rows": 3, "tile_cols": 1, "post_lanes": 1},
    **{"requantise": "compact", "accumulator_width": 24},
)
WIDE = TINY.replace(name="wide", rows=16, cols=8, tile_rows=4, post_lanes=8, pe_kinds=["mul", "xnor"])
CUT = WIDE.replace(name="cut", accumulator_depth=24)
ARRAYS = pytest.mark.parametrize("config", [TINY, SINGLE, WIDE], ids=lambda config: config.name)
SEED = 4


class Networks:
    """Random integer networks: names of tensors are the order they are made in."""

    def __init__(self, seed: int, mode: Requantise) -> None:
        self.rng = np.random.default_rng(seed)
        self.channels = int(self.rng.integers(1, 24))
        self.size = int(self.rng.integers(1, 9)), int(self.rng.integers(1, 9))
        self.graph = Graph(mode=mode, inputs=["x"], outputs=[])
        self.tensor("x", int(self.rng.integers(1, 12)))

    def tensor(self, name: str, channels: int) -> str:
        scale, zero_point = float(self.rng.uniform(0.02, 0.2)), int(self.rng.integers(-128, 128))
        self.graph.tensors[name] = Tensor(name, (channels, *self.size), scale, zero_point)
        return name

    def factors(self, real: float, channels: int, low: int = -128) -> Requantisation:
        multiplier, shift = numerics.quantise_multiplier(real, self.graph.mode)
        return Requantisation(
            multiplier=np.full(channels, multiplier, np.int64),
            shift=np.full(channels, shift, np.int64),
            low=low,
            high=127,
        )

    def convolution(self, source: str, kernel: int = 1, *, groups: int = 1) -> str:
        name = self.tensor(f"t{len(self.graph.tensors)}", self.channels)
        inputs = self.graph.tensors[source].shape[0] // groups
        self.graph.operators.append(
            Convolution(
                name=f"layer {name}",
                input=source,
                output=name,
                window=Window((kernel, kernel), padding=(kernel // 2,) * 4),
                weight=self.rng.integers(-127, 128, (self.channels, inputs, kernel, kernel)).astype(np.int8),
                bias=self.rng.integers(-900, 900, self.channels),
                requantisation=self.factors(float(self.rng.uniform(0.001, 0.01)), self.channels),
                groups=groups,
            )
        )
        return name

    def sum(self, one: str, other: str) -> str:
        name = self.tensor(f"t{len(self.graph.tensors)}", self.channels)
        scales = (self.graph.tensors[tensor].scale for tensor in (one, other, name))
        first, second, last = sum_factors(*scales, self.graph.mode)
        factors = Requantisation(
            multiplier=np.array([last.multiplier]),
            shift=np.array([last.shift]),
            low=int(self.rng.choice([-128, self.rng.integers(-128, 20)])),
            high=127,
        )
        self.graph.operators.append(
            Add(
                name=f"sum {name}",
                input=one,
                other=other,
                output=name,
                first=first,
                second=second,
                requantisation=factors,
            )
        )
        return name

    def images(self, count: int = 2) -> np.ndarray:
        shape = self.graph.tensors["x"].shape
        return self.rng.integers(-128, 128, (count, *shape)).astype(np.int8)


def residual_network(seed: int, mode: Requantise) -> Networks:
    """Both inputs made by convolutions, one of them, none, and twice the same."""
    made = Networks(seed, mode)
    first = made.convolution("x", 3)
    sums = made.sum(made.convolution(first, 3), first)
    sums = made.sum(made.convolution(sums, 1), made.convolution(sums, 3))
    sums = made.sum(sums, first)
    sums = made.sum(sums, sums)
    made.graph.outputs = [made.sum(sums, made.convolution(sums, 1))]
    return made


def check_levels(graph: Graph, config, images: np.ndarray, *, rtl: bool) -> None:
    """Every tensor of the program at isa, every output and the cycles at rtl, against the golden model."""
    compiled = compile_graph(graph, config)
    wanted = golden.run(graph, images)
    stored = compiled.program.quantise_inputs(images)
    overlapped = run_program(compiled.program, stored, every_tensor=False, check_hazards=True)
    for name, values in overlapped.items():
        np.testing.assert_array_equal(values, wanted[name], err_msg=f"tensor {name}, layers overlap")
    for level in ("isa", "rtl") if rtl else ("isa",):
        found = compiled.run(images, level, every_tensor=level == "rtl")
        assert set(graph.outputs) <= set(found.tensors)
        for name, values in found.tensors.items():
            np.testing.assert_array_equal(values, wanted[name], err_msg=f"{level}, tensor {name}")
        if level == "rtl":
            assert found.counters is not None
            assert found.counters[Counter.CYCLES] == predicted_cycles(compiled.program)


@ARRAYS
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_equal_at_all_levels(config, seed):
    made = residual_network(SEED + seed, config.requantise)
    check_levels(made.graph, config, made.images(), rtl=seed < 2)


def test_a_layer_that_is_cut_adds_the_right_part():
    """More channels than the parameter memory holds, more pixels than the accumulators."""
    made = Networks(SEED, TINY.requantise)
    made.channels, made.size = 21, (9, 8)
    made.tensor("x", 21)
    made.graph.outputs = [made.sum("x", made.convolution("x", 3))]
    config = TINY.replace(parameter_depth=5, accumulator_depth=16, program_depth=96)
    sections = [layer.name for layer in compile_graph(made.graph, config).program.layers]
    assert len(sections) > 6
    check_levels(made.graph, config, made.images(), rtl=True)


# ---- the sum itself ----------------------------------------------------------------------------------------


def doubling_high_product(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul, from its text; division truncates."""
    nudge = 1 << 30 if a * b >= 0 else 1 - (1 << 30)
    total = a * b + nudge
    return total // (1 << 31) if total >= 0 else -(-total // (1 << 31))


def divided_by_power(x: int, exponent: int) -> int:
    """gemmlowp's RoundingDivideByPOT, from its text."""
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if (x & mask) > threshold else 0)


def tflite_multiplier(real: float) -> tuple[int, int]:
    mantissa, exponent = math.frexp(real)
    return round(mantissa * (1 << 31)), exponent


def tflite_add(x: int, y: int, scales: tuple[float, float, float], zeros: tuple[int, int, int]) -> int:
    """ADD of the reference kernels: int8 in and out, no activation."""
    twice = 2 * max(scales[:2])
    total = 0
    for value, scale, zero in zip((x, y), scales, zeros, strict=False):
        multiplier, exponent = tflite_multiplier(scale / twice)
        total += divided_by_power(doubling_high_product((value - zero) << 20, multiplier), -exponent)
    multiplier, exponent = tflite_multiplier(twice / ((1 << 20) * scales[2]))
    result = divided_by_power(doubling_high_product(total, multiplier), -exponent) + zeros[2]
    return min(max(result, -128), 127)


@pytest.mark.parametrize("seed", range(6))
def test_a_sum_is_tensorflow_lites(seed):
    rng = np.random.default_rng(SEED + seed)
    a, b, c = (float(scale) for scale in 2 ** rng.uniform(-9, 3, 3))
    zeros = tuple(int(zero) for zero in rng.integers(-128, 128, 3))
    first, second, last = sum_factors(a, b, c, Requantise.EXACT)
    graph = Graph(mode=Requantise.EXACT, inputs=["x", "y"], outputs=["z"])
    for name, scale, zero in zip("xyz", (a, b, c), zeros, strict=True):
        graph.tensors[name] = Tensor(name, (256, 16, 16), scale, zero)
    factors = Requantisation(
        multiplier=np.array([last.multiplier]), shift=np.array([last.shift]), low=-128, high=127
    )
    graph.operators.append(
        Add(name="sum", input="x", other="y", output="z", first=first, second=second, requantisation=factors)
    )
    x, y = (values.astype(np.int8) for values in np.meshgrid(range(-128, 128), range(-128, 128)))
    found = golden.run(graph, {"x": x.reshape(1, 256, 16, 16), "y": y.reshape(1, 256, 16, 16)})["z"].ravel()
    chosen = rng.permutation(found.size)[:4000]
    wanted = [tflite_add(int(x.flat[i]), int(y.flat[i]), (a, b, c), zeros) for i in chosen]
    np.testing.assert_array_equal(found[chosen], wanted)


def test_sums_survive_the_file():
    made = residual_network(SEED, Requantise.EXACT)
    again = graph_file.from_bytes(graph_file.to_bytes(made.graph))
    images = made.images()
    for name, values in golden.run(made.graph, images).items():
        np.testing.assert_array_equal(golden.run(again, images)[name], values)


def test_a_sum_hides_behind_the_layer_with_more_weights():
    made = Networks(SEED, TINY.requantise)
    point, wide = made.convolution("x", 1), made.convolution("x", 3)
    made.graph.outputs = [made.sum(point, wide)]
    *_, last = prepared(made.graph, TINY).operators
    assert isinstance(last, Convolution) and last.window.kernel == (3, 3) and last.sum is not None
    assert (last.sum.other, last.sum.result.name, last.output) == (point, wide, made.graph.outputs[0])
    assert all(isinstance(factor, Factor) for factor in (last.sum.own, last.sum.of_other))


def test_what_cannot_add_says_so():
    made = residual_network(SEED, Requantise.EXACT)
    with pytest.raises(ModelError) as caught:
        compile_graph(made.graph, TINY.replace(residual=False))
    assert "configuration tiny cannot add two tensors; use a configuration with residual = true" in str(
        caught.value
    )
    shifts = TINY.replace(cols=12, tile_cols=4, pe_kinds=["shift"])
    with pytest.raises(ModelError, match="cannot work with sums of tensors"):
        compile_graph(made.graph, shifts)


# ---- groups ------------------------------------------------------------------------------------------------


@ARRAYS
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(9, 9, 9), (10, 20, 10), (12, 18, 3), (21, 21, 7)])
def test_groups_are_pytorchs(config, inputs, outputs, groups):
    made = Networks(SEED + groups, config.requantise)
    made.tensor("x", inputs)
    made.channels = outputs
    made.graph.outputs = [made.convolution("x", 3, groups=groups)]
    (layer,) = made.graph.operators
    assert isinstance(layer, Convolution)
    images = made.images()
    check_levels(made.graph, config, images, rtl=False)
    source, result = made.graph.tensors["x"], made.graph.tensors[layer.output]
    real = torch.from_numpy(images.astype(np.float64) - source.zero_point)
    weight, bias = torch.from_numpy(layer.weight.astype(np.float64)), torch.from_numpy(layer.bias).double()
    sums = functional.conv2d(real, weight, bias, padding=1, groups=groups).numpy().astype(np.int64)
    factors = layer.requantisation
    wanted = numerics.requantise(
        sums,
        factors.multiplier[:, None, None],
        factors.shift[:, None, None],
        **{"zero_point": result.zero_point, "low": -128, "high": 127, "mode": config.requantise},
    )
    np.testing.assert_array_equal(golden.run(made.graph, images)[layer.output], wanted)


def test_a_depthwise_layer_reads_only_its_own_channels():
    made = Networks(SEED, WIDE.requantise)
    made.size, made.channels = (6, 6), 32
    made.tensor("x", 32)
    made.graph.outputs = [made.convolution("x", 3, groups=32)]
    (layer,) = compile_graph(made.graph, WIDE).program.layers[-1:]
    # 8 channels to a column tile, two copies of them in 16 banks: two taps of each in a pass.
    assert (layer.mapping["input_period"], layer.mapping["row_tiles"]) == (8, 5)
    assert layer.macs == 36 * 9 * 32


# ---- from PyTorch ------------------------------------------------------------------------------------------


class Down(nn.Module):
    """A projection shortcut, then one of every second pixel with channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.shortcut = nn.BatchNorm2d(6), nn.Conv2d(4, 6, 1, stride=2)
        self.c = nn.Conv2d(6, 9, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.b(functional.relu(self.a(x)))) + self.shortcut(x))
        return functional.relu(self.c(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)))


def residual_module() -> nn.Module:
    torch.manual_seed(SEED)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, groups=1),
        nn.ReLU6(),
        Down(),
        nn.Conv2d(9, 18, 3, padding=1, groups=9),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(18),
        nn.Linear(18, 5),
    )
    with torch.no_grad():
        network.train()(torch.randn(32, 3, 9, 8))
    return network.eval()


def test_the_float_graph_is_the_module():
    network = residual_module()
    images = torch.randn(5, 3, 9, 8)
    graph = from_module(network, images[:1])
    with torch.no_grad():
        wanted = network.double()(images.double())
    found = evaluate(graph, images)[graph.outputs[0]].reshape(5, -1)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
    copies = [op for op in graph.operators if isinstance(op, FloatConvolution) and op.window.kernel == (1, 1)]
    strides = [op.window.stride for op in copies if op.name.startswith("2.")]
    assert strides == [(2, 2), (2, 2)]  # no pass for a strided copy


def test_batch_norm_behind_a_pool_moves_into_the_layer_behind_it():
    torch.manual_seed(SEED)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 3))
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), *head)
    network.train()(torch.randn(40, 2, 7, 7))
    images = torch.randn(4, 2, 7, 7)
    graph = from_module(network.eval(), images[:1])
    with torch.no_grad():
        wanted = network.double()(images.double())
    torch.testing.assert_close(evaluate(graph, images)[graph.outputs[0]].reshape(4, -1), wanted)
    assert len(graph.operators) == 3


def test_a_residual_module_runs():
    network = residual_module()
    images = torch.randn(64, 3, 9, 8)
    compiled = compile_module(network, images, WIDE)
    check_levels(
        compiled.graph, WIDE, golden.run(compiled.graph, images[:2])[compiled.graph.inputs[0]], rtl=True
    )
    with torch.no_grad():
        wanted = network(images).numpy()
    (found,) = compiled.run(images, "isa").real_outputs.values()
    assert np.abs(found.reshape(64, -1) - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x + x.mean(dim=(2, 3), keepdim=True), "it adds tensors of the shapes"),
        (lambda x: torch.add(x, functional.relu(x), alpha=2), "alpha = 2, only 1 is supported"),
        (lambda x: x[:, :, 1:], "taking a part of a tensor is not supported; cut the input on the host"),
        (lambda x: x[:, ::2], "it takes every n-th channel; leave channels out of the weights"),
    ],
)
def test_refusals(forward, message):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return forward(self.conv(x))

    with pytest.raises(ModelError) as caught:
        from_module(Network(), torch.randn(1, 2, 8, 8))
    assert message in str(caught.value)


def test_a_slice_of_everything_changes_nothing():
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x[:])[:, :, 0:][:, 0:4]

    network, x = Network(), torch.randn(5, 2, 6, 6)
    graph = from_module(network, x)
    torch.testing.assert_close(evaluate(graph, x)[graph.outputs[0]].float(), network(x))


def test_a_sum_that_is_next_to_nothing_runs():
    """Two branches that cancel: the factor of their sum would be larger than any there is."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
            for mine, other in zip(self.second.parameters(), self.first.parameters(), strict=True):
                mine.data = -other.data

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) + self.second(x)

    network, x = Network(), torch.randn(16, 2, 5, 5)
    compiled = compile_module(network, x, WIDE)
    stored = golden.run(compiled.graph, x[:2])
    check_levels(compiled.graph, WIDE, stored[compiled.graph.inputs[0]], rtl=False)
    (found,) = compiled.run(x, "isa").real_outputs.values()
    assert np.abs(found).max() < 0.02 * network.first(x).abs().max().item()


# ---- signs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [8, 13, 24])
def test_binary_blocks_with_shortcuts_run(channels):
    """Signs of an int8 tensor that is also added: the blocks of Bi-Real Net."""
    torch.manual_seed(SEED)
    blocks = [BinaryBlock(channels, channels), BinaryBlock(channels, channels + 11, stride=2)]
    first = (nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.Hardtanh())
    network = nn.Sequential(*first, *blocks)
    images = torch.randn(24, 3, 6, 7)
    network.train()(images)
    compiled = compile_module(network.eval(), images, WIDE)
    stored = golden.run(compiled.graph, images[:2])
    check_levels(compiled.graph, WIDE, stored[compiled.graph.inputs[0]], rtl=channels == 13)
    signs = [t for t in compiled.graph.tensors.values() if t.bits]
    assert [t.bits for t in signs] == [channels, channels]


@pytest.mark.parametrize(
    ("channels", "size", "kernel"), [(32, (8, 8), 3), (32, (8, 10), 3), (16, (8, 8), 5), (24, (9, 7), 5)]
)
def test_sums_behind_windows_beyond_the_image(channels, size, kernel):
    """Several tables of parameters for the edges of a binary image, each with the sum's words in front."""
    torch.manual_seed(SEED)
    block = BinaryBlock(channels, channels)
    block.conv = BinaryConv2d(channels, channels, kernel, padding=kernel // 2)
    network = nn.Sequential(nn.Conv2d(3, channels, 1), block)
    images = torch.randn(8, 3, *size)
    network.train()(images)
    compiled = compile_module(network.eval(), images, CUT)
    adds = [
        item["parameter_base"]
        for segment in compiled.program.segments
        for item in instructions_of(segment)
        if item.opcode is Opcode.ADD
    ]
    assert len(set(adds)) > 1, "one table for all edges: nothing is tested"
    stored = golden.run(compiled.graph, images[:2])[compiled.graph.inputs[0]]
    check_levels(compiled.graph, CUT, stored, rtl=kernel == 3)


def test_signs_are_those_of_the_numbers():
    torch.manual_seed(SEED)
    network = nn.Sequential(nn.Conv2d(3, 11, 1), BinaryBlock(11, 11))
    images = torch.randn(8, 3, 5, 5)
    network.train()(images)
    graph = compile_module(network.eval(), images, WIDE).graph
    found = golden.run(graph, images)
    sign = next(op for op in graph.operators if graph.tensors[op.output].bits)
    source = graph.tensors[sign.input]
    bits = np.unpackbits(found[sign.output].view(np.uint8), axis=1, bitorder="little")[:, :11]
    np.testing.assert_array_equal(bits, found[sign.input] >= source.zero_point)


def test_signs_need_eight_rows():
    torch.manual_seed(SEED)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), BinaryBlock(8, 8)).eval()
    few = WIDE.replace(rows=4, post_lanes=4)
    with pytest.raises(ModelError, match="4 rows, eight channels make a byte of signs"):
        compile_module(network, torch.randn(8, 3, 5, 5), few)


def test_the_copy_of_a_sum_is_no_tensor_of_the_network():
    made = residual_network(SEED, TINY.requantise)
    placed = {layout.name for layout in compile_graph(made.graph, TINY).program.tensors}
    fused = {op.sum.result.name for op in prepared(made.graph, TINY).operators if _has_sum(op)}
    assert not placed & fused


def _has_sum(operator) -> bool:
    return isinstance(operator, Convolution) and dataclasses.replace(operator).sum is not None
