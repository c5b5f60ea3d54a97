"""Binary layers from PyTorch to the accelerator, judged by the module itself."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from popshift.firmware_py.bits import pack_signs, packed_size, unpack_signs
from popshift.gen import graph_file
from popshift.gen.compilation import attached_graph, compile_graph, compile_module
from popshift.gen.compress.int8 import quantise
from popshift.gen.frontend.float_graph import evaluate
from popshift.gen.frontend.torch_export import from_module
from popshift.gen.graph import Convolution, Graph, Pool, Pooling, Requantisation, Tensor, Window
from popshift.gen.mapping.edges import plan_edges
from popshift.gen.mapping.tiling import Rectangle, cut, sizes
from popshift.hw import numerics
from popshift.hw.config import load_config
from popshift.hw.errors import ModelError
from popshift.hw.isa import Counter
from popshift.sim.cycles import predicted_cycles

TINY = load_config("tiny").replace(activation_depth=2048, weight_depth=4096, parameter_depth=1024)
BYTES = TINY.replace(name="bytes", rows=8, cols=8, tile_rows=2, post_lanes=8, pe_kinds=["xnor"])
GROUPS = TINY.replace(name="groups", rows=4, cols=16, tile_rows=2, post_lanes=2, pe_kinds=["mul", "xnor"])
SINGLE = TINY.replace(
    name="single",
    **{"rows": 3, "cols": 8, "tile_rows": 1, "post_lanes": 1, "pe_kinds": ["xnor"]},
    **{"requantise": "compact", "accumulator_width": 24},
)
ARRAYS = pytest.mark.parametrize("config", [BYTES, GROUPS, SINGLE], ids=lambda config: config.name)
SEED = 6


def binary_tensor(name: str, channels: int, height: int, width: int) -> Tensor:
    return Tensor(name, (packed_size(channels), height, width), 1.0, 0, bits=channels)


def one_layer(
    rng: np.random.Generator,
    config,
    shape: tuple[int, int, int],
    window: Window,
    channels: int,
    *,
    to_bits: bool,
    pool: Window | None = None,
) -> Graph:
    """A convolution with random weights and biases, and if asked for the maximum of its bits."""
    mode = config.requantise
    graph = Graph(mode=mode, inputs=["x"], outputs=["y"])
    graph.tensors["x"] = binary_tensor("x", *shape)
    size = window.output_size(*shape[1:])
    name = "y" if pool is None else "z"
    graph.tensors[name] = Tensor(name, (channels, *size), 1.0, 3)
    factors = [numerics.quantise_multiplier(float(f), mode) for f in rng.uniform(0.1, 1.9, channels)]
    requantisation = Requantisation(
        multiplier=np.array([multiplier for multiplier, _ in factors]),
        shift=np.array([shift for _, shift in factors]),
        low=-128,
        high=127,
    )
    if to_bits:
        graph.tensors[name] = binary_tensor(name, channels, *size)
        requantisation = Requantisation.identity(channels, mode)
    weight = rng.choice([-1, 1], (channels, shape[0], *window.kernel)).astype(np.int8)
    bias = rng.integers(-9, 9, channels)
    graph.operators.append(
        Convolution(
            name="layer",
            input="x",
            output=name,
            window=window,
            weight=weight,
            bias=bias,
            requantisation=requantisation,
        )
    )
    if pool is not None:
        graph.tensors["y"] = binary_tensor("y", channels, *pool.output_size(*size))
        graph.operators.append(
            Pool(
                name="pool",
                input="z",
                output="y",
                window=pool,
                operation=Pooling.MAX,
                requantisation=Requantisation.identity(packed_size(channels), mode),
            )
        )
    return graph


SHAPES = {
    "one byte": ((8, 5, 6), Window((3, 3), padding=(1, 1, 1, 1)), 8, None),
    "channels fill no byte": ((13, 4, 7), Window((3, 3), padding=(1, 1, 1, 1)), 11, None),
    "stride, one-sided padding": ((20, 8, 7), Window((3, 3), (2, 2), (1, 0, 0, 1)), 24, None),
    "5x5, two classes at every edge": ((9, 7, 6), Window((5, 5), padding=(2, 2, 2, 2)), 16, None),
    "padding wider than the image": ((16, 1, 2), Window((3, 3), padding=(2, 2, 2, 2)), 9, None),
    "one column": ((16, 9, 1), Window((3, 1), padding=(1, 1, 0, 0)), 30, None),
    "dilated": ((8, 9, 9), Window((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)), 8, None),
    "fully connected": ((70, 3, 3), Window((3, 3)), 37, None),
    "pooled": ((24, 6, 6), Window((3, 3), padding=(1, 1, 1, 1)), 20, Window((2, 2), (2, 2))),
    "pooled with padding": ((9, 7, 5), Window((1, 1)), 40, Window((3, 3), (2, 2), (1, 1, 1, 1))),
}

CASES = [(name, True) for name in SHAPES] + [
    (name, False) for name, (*_, pool) in SHAPES.items() if pool is None
]
"""Layers whose output is bits, and int8; only bits have a maximum here."""


@ARRAYS
@pytest.mark.parametrize(("name", "to_bits"), CASES, ids=str)
def test_layers_are_what_pytorch_computes(config, name, to_bits):
    """Zero padding and all: the sums are those of a float convolution of 1 and -1."""
    shape, window, channels, pool = SHAPES[name]
    rng = np.random.default_rng(SEED)
    graph = one_layer(rng, config, shape, window, channels, to_bits=to_bits, pool=pool)
    compiled = compile_graph(graph, config, "layer")
    x = rng.choice([-1.0, 1.0], (2, *shape)).astype(np.float32)
    executed, golden = compiled.run(x, "isa"), compiled.run(x, "golden")
    for tensor, values in executed.tensors.items():
        np.testing.assert_array_equal(golden.tensors[tensor], values, err_msg=tensor)
    layer = graph.operators[0]
    top, bottom, left, right = window.padding
    padded = functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    weight, bias = torch.from_numpy(layer.weight).double(), torch.from_numpy(layer.bias).double()
    sums = functional.conv2d(padded, weight, bias, window.stride, dilation=window.dilation).long()
    if to_bits:
        wanted = torch.where(sums >= 0, 1.0, -1.0)
        if pool is not None:
            wanted = functional.max_pool2d(wanted, pool.kernel, pool.stride, pool.padding[0])
        np.testing.assert_array_equal(executed.real_outputs["y"].reshape(wanted.shape), wanted.numpy())
    else:
        r = layer.requantisation
        wanted = numerics.requantise(
            sums.numpy(),
            r.multiplier[:, None, None],
            r.shift[:, None, None],
            **{"zero_point": 3, "low": -128, "high": 127, "mode": config.requantise},
        )
        np.testing.assert_array_equal(executed.tensors["y"], wanted)


def test_hardware_agrees_and_takes_the_cycles_predicted():
    config, rng = GROUPS, np.random.default_rng(SEED)
    for name in ("channels fill no byte", "pooled with padding", "one column"):
        shape, window, channels, pool = SHAPES[name]
        graph = one_layer(rng, config, shape, window, channels, to_bits=True, pool=pool)
        compiled = compile_graph(graph, config, "layer")
        x = rng.choice([-1.0, 1.0], (2, *shape)).astype(np.float32)
        run, golden = compiled.run(x, "rtl"), compiled.run(x, "golden")
        np.testing.assert_array_equal(run.outputs["y"], golden.outputs["y"], err_msg=name)
        assert run.counters is not None and run.counters[Counter.CYCLES] == predicted_cycles(compiled.program)


def test_a_layer_too_large_for_the_memories_comes_in_parts():
    """Ranges of whole bytes, written to the banks where the range before ended."""
    rng = np.random.default_rng(SEED)
    shape, window = (40, 5, 5), Window((3, 3), padding=(1, 1, 1, 1))
    small = {"weight_depth": 64, "parameter_depth": 128}
    for config in (BYTES.replace(**small), SINGLE.replace(**small, name="small")):
        graph = one_layer(rng, config, shape, window, 72, to_bits=True)
        compiled = compile_graph(graph, config, "layer")
        assert len(compiled.program.layers) > 3
        x = rng.choice([-1.0, 1.0], (2, *shape)).astype(np.float32)
        executed, golden = compiled.run(x, "isa"), compiled.run(x, "golden")
        np.testing.assert_array_equal(executed.outputs["y"], golden.outputs["y"])


# ---- folding -----------------------------------------------------------------------------------------------


class Sign(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x >= 0, 1.0, -1.0)


class Binary(nn.Conv2d):
    """Plain signs times one power of two for every filter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True).log2().round().exp2()
        weight = torch.where(self.weight >= 0, 1.0, -1.0) * scale
        return functional.conv2d(Sign()(x), weight, None, self.stride, self.padding)


def norm(channels: int, generator: torch.Generator, spread: float = 4.0) -> nn.BatchNorm2d:
    """Factors of both signs and zero; statistics that leave some channels constant, some with ties."""
    found = nn.BatchNorm2d(channels)
    found.weight.data = torch.randn(channels, generator=generator)
    found.bias.data = torch.randn(channels, generator=generator)
    found.running_mean = (torch.randn(channels, generator=generator) * spread).round()
    found.running_var = torch.rand(channels, generator=generator) * spread**2 + 0.1
    found.weight.data[:2] = 0
    found.bias.data[1:5] = torch.tensor([-1.0, 0.0, 0.0, 99.0])
    return found


def every_sum(inputs: int) -> torch.Tensor:
    """Inputs (inputs + 1, inputs, 1, 1) whose sums of products with ones are all that there are."""
    return torch.ones(inputs + 1, inputs).tril(-1)[:, :, None, None] * 2 - 1


@pytest.mark.parametrize("activation", [nn.Hardtanh(), nn.Hardtanh(-0.5, 2.0), nn.ReLU(), nn.Identity()])
def test_thresholds_are_the_module_for_every_reachable_sum(activation):
    """60 channels, 37 inputs: batch norm, activation and sign of all 38 sums, by the module and folded."""
    generator = torch.Generator().manual_seed(SEED)
    layer = Binary(37, 60, 1, bias=False)
    layer.weight.data = torch.rand(layer.weight.shape, generator=generator) + 0.5
    layer.weight.data[::3] *= 8
    module = nn.Sequential(Sign(), layer, norm(60, generator), activation, Sign()).eval()
    inputs = every_sum(37)
    config = GROUPS
    graph = quantise(from_module(module, inputs[:1]), inputs, config.requantise)
    compiled = compile_graph(graph, config, "sums")
    with torch.no_grad():
        wanted = module(inputs).numpy()
    assert 0.2 < (wanted > 0).mean() < 0.8 or isinstance(activation, nn.ReLU)
    (got,) = compiled.run(inputs.numpy(), "isa").real_outputs.values()
    np.testing.assert_array_equal(got.reshape(wanted.shape), wanted)


def test_a_max_pool_in_front_of_batch_norm_becomes_an_or():
    """Where batch norm turns channels round, the bits are negated, and so are the weights that read them."""
    generator = torch.Generator().manual_seed(SEED)
    module = nn.Sequential(
        *(Sign(), Binary(9, 24, 3, padding=1), nn.MaxPool2d(2), norm(24, generator), nn.Hardtanh(), Sign()),
        *(Binary(24, 16, 3, padding=1), norm(16, generator), Sign()),
    ).eval()
    assert (module[3].weight < 0).any() and (module[3].weight > 0).any()
    x = torch.randn(8, 9, 6, 6, generator=generator)
    compiled = compile_module(module, x, GROUPS)
    kinds = [type(operator).__name__ for operator in compiled.graph.operators]
    assert kinds == ["Convolution", "Pool", "Convolution"]
    executed, golden = compiled.run(x, "isa"), compiled.run(x, "golden")
    for tensor, values in executed.tensors.items():
        np.testing.assert_array_equal(golden.tensors[tensor], values, err_msg=tensor)
    with torch.no_grad():
        wanted = module(x).numpy()
    (got,) = executed.real_outputs.values()
    np.testing.assert_array_equal(got, wanted)


def network() -> nn.Sequential:
    """int8, bits, int8 again."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), norm(16, generator, 1.0), nn.Hardtanh()),
        *(Binary(16, 24, 3, padding=1), nn.MaxPool2d(2), norm(24, generator), nn.Hardtanh()),
        *(Binary(24, 40, 3, padding=1, stride=2), norm(40, generator), nn.Hardtanh()),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(40, 10)),
    ).eval()


def test_binary_and_int8_layers_in_one_network():
    module = network()
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(SEED))
    compiled = compile_module(module, x, GROUPS)
    bits = [compiled.graph.tensors[operator.output].bits for operator in compiled.graph.operators]
    assert bits == [16, 24, 24, 0, 0, 0]
    executions = [layer.mapping.get("execution") for layer in compiled.program.layers]
    assert [name for name in executions if name] == ["dense", "xnor", "xnor", "dense"]
    executed, golden = compiled.run(x, "isa"), compiled.run(x, "golden")
    for tensor, values in executed.tensors.items():
        np.testing.assert_array_equal(golden.tensors[tensor], values, err_msg=tensor)
    with torch.no_grad():
        wanted = module(x).argmax(1).numpy()
    (got,) = executed.real_outputs.values()
    assert (got.argmax(1) == wanted).mean() >= 0.9
    again = graph_file.from_bytes(graph_file.to_bytes(compiled.graph))
    assert again.tensors == compiled.graph.tensors
    assert attached_graph(compiled.program).tensors == compiled.graph.tensors


def test_first_layer_of_int8_weights_gives_the_signs_of_its_sums():
    """Also where max pooling lies between, where batch norm leaves a channel constant or turns it round."""
    generator = torch.Generator().manual_seed(SEED)
    layer = nn.Conv2d(2, 16, 3, bias=False)
    layer.weight.data = torch.randint(-127, 128, layer.weight.shape, generator=generator).float()
    layer.weight.data[:, 0, 0, 0] = 127  # so that int8 weights are these very numbers
    behind = Binary(16, 16, 1)
    behind.weight.data = torch.where(torch.eye(16, dtype=torch.bool), 1.0, -1.0)[:, :, None, None]
    module = nn.Sequential(layer, nn.MaxPool2d(2), norm(16, generator, 400.0), Sign(), behind).eval()
    x = torch.randint(-127, 128, (32, 2, 8, 8), generator=generator).float()
    x[0, 0, 0, :2] = torch.tensor([-128.0, 127.0])
    compiled = compile_module(module, x, GROUPS)
    assert compiled.graph.tensors[compiled.graph.inputs[0]].scale == 1
    with torch.no_grad():
        wanted = module(x).numpy()
        near = (module[:3](x).abs() < 0.01).any(1, keepdim=True).numpy()
    (got,) = compiled.run(x, "isa").real_outputs.values()
    assert ((got == wanted) | near).all() and near.mean() < 0.1


def test_batch_norm_behind_a_max_pool_goes_in_front_of_it():
    """Channels that it turns round are negated, and so are the weights behind."""
    generator = torch.Generator().manual_seed(SEED)
    module = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.MaxPool2d(2), norm(16, generator), nn.Hardtanh(-2, 2)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 4, 6)),
    ).eval()
    x = torch.randn(40, 3, 8, 8, generator=generator)
    graph = from_module(module, x[:1])
    with torch.no_grad():
        wanted = module(x).double()
    torch.testing.assert_close(evaluate(graph, x)[graph.outputs[0]].flatten(1), wanted, rtol=1e-4, atol=1e-4)


def test_a_negated_output_is_refused():
    """The host would get bits that are the wrong way round in some channels."""
    generator = torch.Generator().manual_seed(SEED)
    module = nn.Sequential(Sign(), Binary(8, 8, 1), nn.MaxPool2d(2), norm(8, generator), Sign()).eval()
    with pytest.raises(ModelError, match="batch norm follows pooling"):
        from_module(module, torch.zeros(1, 8, 4, 4))


def test_sums_that_fit_int8_leave_as_they_are():
    """A last layer of 64 inputs: what follows is done by the host, number by number in float32."""
    generator = torch.Generator().manual_seed(SEED)
    module = nn.Sequential(Sign(), Binary(64, 5, 1), nn.Flatten(), nn.Softmax(1)).eval()
    module[1].weight.data = torch.rand(module[1].weight.shape, generator=generator) + 0.5
    x = torch.randn(16, 64, 1, 1, generator=generator)
    with pytest.warns(UserWarning, match="softmax"):
        compiled = compile_module(module, x, BYTES)
    with torch.no_grad():
        wanted = module[:3](x).numpy()
    (got,) = compiled.run(x, "isa").real_outputs.values()
    np.testing.assert_array_equal(got.astype(np.float32), wanted)


# ---- what cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (nn.Sequential(Sign(), nn.Conv2d(4, 4, 3)), "its input is binary, its weights are not"),
        (nn.Sequential(Sign(), nn.AvgPool2d(2)), "its input is binary, of which only maxima can be pooled"),
        (nn.Sequential(Sign(), Binary(4, 4, 1), Sign(), nn.BatchNorm2d(4)), "follows the sign of"),
    ],
    ids=["weights", "average", "batch norm behind"],
)
def test_what_a_sign_cannot_be_next_to(module, told):
    with pytest.raises(ModelError, match=told):
        from_module(module.eval(), torch.zeros(1, 4, 6, 6))


class Compares(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x >= 0).float()


@pytest.mark.parametrize("module", [Compares(), nn.Sequential(nn.Conv2d(1, 2, 1), Compares())])
def test_a_comparison_is_no_sign(module):
    with pytest.raises(ModelError, match=r"write a sign as torch\.where\(x >= 0, 1\.0, -1\.0\)"):
        from_module(module, torch.zeros(1, 1, 4, 4))


def test_an_array_without_xnor_refuses():
    module = nn.Sequential(Sign(), Binary(8, 8, 1), Sign()).eval()
    with pytest.raises(ModelError, match=r"tiny cannot work with binary activations.*xnor"):
        compile_module(module, torch.zeros(2, 8, 4, 4), TINY)
    module = nn.Sequential(nn.Conv2d(8, 8, 1), Sign()).eval()
    with pytest.raises(ModelError, match=r"tiny cannot work with binary activations.*xnor"):
        compile_module(module, torch.rand(2, 8, 4, 4), TINY)
    module = nn.Sequential(nn.AvgPool2d(2), Sign()).eval()
    with pytest.raises(ModelError, match=r"tiny cannot work with binary activations.*xnor"):
        compile_module(module, torch.rand(2, 8, 4, 4), TINY)


# ---- edges -------------------------------------------------------------------------------------------------


def test_one_region_for_a_tile_with_padding_of_one():
    plan = plan_edges(Window((3, 3), padding=(1, 1, 1, 1)), (8, 9), cut((4, 4), (9,)))
    assert [region.edges for region in plan.regions] == [0b0111, 0b1011]
    (table,) = plan.tables
    assert [entry is None for entry in table] == [False] * 9
    assert (table[0].rows, table[0].columns) == ((0, 3), (0, 3))
    assert (table[4].rows, table[4].columns) == ((1, 3), (1, 3)), "top left: three more, and one"


def test_no_padding_no_classes():
    plan = plan_edges(Window((3, 3)), (8, 9), cut((6,), (7,)))
    assert [region.edges for region in plan.regions] == [0] and len(plan.tables[0]) == 1


def test_regions_cover_the_output_once():
    for padding in ((2, 2, 2, 2), (0, 3, 1, 2), (4, 0, 0, 4)):
        window = Window((5, 5), (1, 2), padding)
        height, width = window.output_size(9, 11)
        plan = plan_edges(window, (9, 11), cut(*(sizes(length, 2) for length in (height, width))))
        seen = np.zeros((height, width), int)
        for region in plan.regions:
            place: Rectangle = region.rectangle
            seen[place.y : place.y + place.height, place.x : place.x + place.width] += 1
        assert (seen == 1).all()


def test_packing_is_little_endian():
    values = np.array([1, -1, -1, 1, 0, -5, -1, -1, 3, -1])
    data = pack_signs(values)
    assert data.tolist() == [0b00011001, 1]
    assert unpack_signs(data, 10).tolist() == [1, -1, -1, 1, 1, -1, -1, -1, 1, -1]
