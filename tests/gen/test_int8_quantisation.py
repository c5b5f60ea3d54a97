"""Post-training quantisation: scales, limits, refusals, and what accuracy it keeps."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from popshift.firmware_py.tensors import dequantise
from popshift.gen import golden
from popshift.gen.compress.int8 import quantise
from popshift.gen.compress.ranges import QuantisationOptions, RangeMethod, affine
from popshift.gen.compress.report import compare
from popshift.gen.frontend.float_graph import FloatConvolution, FloatGraph, FloatPool, FloatTensor, evaluate
from popshift.gen.frontend.torch_export import from_module
from popshift.gen.graph import Convolution, Graph, Pooling, Window
from popshift.hw.errors import InputError, ModelError
from popshift.hw.numerics import Requantise, identity_multiplier

MODES = list(Requantise)


def one_layer(
    weight: np.ndarray, bias: np.ndarray, shape: tuple[int, int, int], **limits: float
) -> FloatGraph:
    """A fully connected layer on an image of `shape`."""
    operator = FloatConvolution(
        name="fc",
        input="x",
        output="y",
        window=Window(shape[1:]),
        weight=np.asarray(weight, np.float64).reshape(-1, *shape),
        bias=np.asarray(bias, np.float64),
        **limits,
    )
    tensors = {"x": FloatTensor("x", shape), "y": FloatTensor("y", (len(bias), 1, 1))}
    return FloatGraph(inputs=["x"], outputs=["y"], tensors=tensors, operators=[operator])


def one_pool(shape: tuple[int, int, int], pool: FloatPool) -> FloatGraph:
    rows, columns = pool.window.output_size(shape[1], shape[2])
    tensors = {"x": FloatTensor("x", shape), "y": FloatTensor("y", (shape[0], rows, columns))}
    return FloatGraph(inputs=["x"], outputs=["y"], tensors=tensors, operators=[pool])


def convolution(graph: Graph) -> Convolution:
    (operator,) = graph.operators
    assert isinstance(operator, Convolution)
    return operator


def largest_error(float_graph: FloatGraph, graph: Graph, data: np.ndarray) -> float:
    """Largest difference of the outputs, in steps of the output tensor."""
    y = graph.tensors["y"]
    real = evaluate(float_graph, torch.as_tensor(data))["y"].numpy()
    return float(
        np.abs(real - dequantise(golden.run(graph, data)["y"], y.scale, y.zero_point)).max() / y.scale
    )


def test_affine_covers_the_range_and_hits_zero() -> None:
    assert affine(0.0, 255.0) == (1.0, -128)
    assert affine(-255.0, 0.0) == (1.0, 127)
    assert affine(0.0, 0.0) == (1.0, 0)
    scale, zero_point = affine(-1.0, 3.0)
    assert scale == 4 / 255 and zero_point == round(-128 + 255 / 4)


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_symmetric_per_channel(mode: Requantise) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 3 * 4 * 4)) * np.array([1e-3, 1, 50, 1, 1, 1])[:, None]
    weight[4] = 0
    weight[5] = 0
    bias = np.array([0.1, 0, 3.0, -1.0, 5.0, 0.0])
    float_graph = one_layer(weight, bias, (3, 4, 4))
    data = rng.normal(size=(64, 3, 4, 4))
    graph = quantise(float_graph, data, mode)
    integers = convolution(graph).weight.reshape(6, -1)
    assert integers.dtype == np.int8 and convolution(graph).bias.dtype == np.int64
    assert (np.abs(integers[:4].astype(int)).max(1) == 127).all() and not integers[4:].any()
    outputs = dequantise(
        golden.run(graph, data)["y"], graph.tensors["y"].scale, graph.tensors["y"].zero_point
    )
    assert np.abs(outputs[:, 4] - 5.0).max() <= graph.tensors["y"].scale
    assert np.abs(outputs[:, 5]).max() == 0
    assert largest_error(float_graph, graph, data) < 3.5


@pytest.mark.parametrize("mode", MODES)
def test_fused_activation_clamps_at_its_limits(mode: Requantise) -> None:
    rng = np.random.default_rng(1)
    weight, data = rng.normal(size=(4, 20)), rng.normal(size=(200, 20, 1, 1))
    relu = quantise(one_layer(weight, np.zeros(4), (20, 1, 1), low=0.0), data, mode)
    assert (convolution(relu).requantisation.low, convolution(relu).requantisation.high) == (-128, 127)
    assert relu.tensors["y"].zero_point == -128
    hard = quantise(one_layer(weight, np.zeros(4), (20, 1, 1), low=-1.0, high=2.0), data, mode)
    y = hard.tensors["y"]
    values = dequantise(golden.run(hard, data * 10)["y"], y.scale, y.zero_point)
    assert values.min() == pytest.approx(-1.0, abs=y.scale) and values.max() == pytest.approx(
        2.0, abs=y.scale
    )
    # A clamp beyond the observed range must not come into play.
    high = quantise(one_layer(weight, np.zeros(4), (20, 1, 1), low=-1e9, high=1e9), data, mode)
    assert (convolution(high).requantisation.low, convolution(high).requantisation.high) == (-128, 127)


@pytest.mark.parametrize("mode", MODES)
def test_max_pool_keeps_the_quantisation(mode: Requantise) -> None:
    pool = FloatPool(
        name="p",
        input="x",
        output="y",
        window=Window((2, 2), (2, 2), (1, 0, 0, 1)),
        operation=Pooling.MAX,
        low=0.0,
    )
    data = np.random.default_rng(2).normal(size=(20, 3, 5, 5)) - 1
    graph = quantise(one_pool((3, 5, 5), pool), data, mode)
    x, y = graph.tensors["x"], graph.tensors["y"]
    assert (x.scale, x.zero_point) == (y.scale, y.zero_point)
    requantisation = graph.operators[0].requantisation
    pairs = zip(requantisation.multiplier.tolist(), requantisation.shift.tolist(), strict=True)
    assert set(pairs) == {identity_multiplier(mode)}
    assert requantisation.low == y.zero_point
    assert largest_error(one_pool((3, 5, 5), pool), graph, data) <= 0.5 + 1e-9


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (7, 7)])
def test_average_pool_is_within_two_steps(kernel: tuple[int, int], mode: Requantise) -> None:
    padding = (0, 0, 0, 0) if kernel != (1, 1) else (1, 2, 0, 1)
    pool = FloatPool(
        name="p",
        input="x",
        output="y",
        window=Window(kernel, padding=padding),
        operation=Pooling.AVERAGE,
        divisor=math.prod(kernel),
    )
    float_graph = one_pool((2, 8, 9), pool)
    data = np.random.default_rng(3).normal(size=(30, 2, 8, 9)) + 1
    graph = quantise(float_graph, data, mode)
    x, y = graph.tensors["x"], graph.tensors["y"]
    if kernel == (1, 1):  # only pads: an exact copy
        assert (x.scale, x.zero_point) == (y.scale, y.zero_point)
        np.testing.assert_array_equal(
            golden.run(graph, data)["y"][:, :, 1:-2, :-1], golden.run(graph, data)["x"]
        )
    else:
        assert y.scale < x.scale
    # Half a step of the output, and the input's half step on average over the window.
    assert largest_error(float_graph, graph, data) <= 0.5 + 0.5 * x.scale / y.scale + 0.01


@pytest.mark.parametrize("mode", MODES)
def test_constant_tensors(mode: Requantise) -> None:
    float_graph = one_layer(np.ones((2, 3)), np.array([-5.0, -7.0]), (3, 1, 1), low=0.0)
    graph = quantise(float_graph, np.zeros((4, 3, 1, 1)), mode)
    assert (graph.tensors["x"].scale, graph.tensors["y"].scale) == (1.0, 1.0)
    assert not dequantise(golden.run(graph, np.zeros((1, 3)))["y"], 1.0, graph.tensors["y"].zero_point).any()


@pytest.mark.parametrize("width", [24, 32])
@pytest.mark.parametrize("mode", MODES)
def test_bias_that_dwarfs_the_weights_still_fits(mode: Requantise, width: int) -> None:
    float_graph = one_layer(np.full((1, 3), 1e-12), np.array([4.0]), (3, 1, 1))
    data = np.random.default_rng(4).normal(size=(8, 3, 1, 1))
    graph = quantise(float_graph, data, mode, accumulator_width=width)
    assert 1 << (width - 3) < abs(int(convolution(graph).bias[0])) <= 1 << (width - 2)
    assert largest_error(float_graph, graph, data) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_range_too_narrow_for_the_hardware_is_widened(mode: Requantise) -> None:
    weight = np.array([[100.0, -100.0]])
    float_graph = one_layer(weight, np.array([0.001]), (2, 1, 1))
    data = np.repeat(np.linspace(-1, 1, 32)[:, None], 2, axis=1).reshape(32, 2, 1, 1)
    graph = quantise(float_graph, data, mode)
    accumulator_step = graph.tensors["x"].scale * 100 / 127
    assert graph.tensors["y"].scale == pytest.approx(
        accumulator_step / (7.99 if mode is Requantise.EXACT else 1.99)
    )


def test_accumulator_that_could_overflow_is_refused() -> None:
    inputs = 140_000
    float_graph = one_layer(np.ones((1, inputs)), np.ones(1), (inputs, 1, 1))
    with pytest.raises(ModelError) as caught:
        quantise(float_graph, np.ones((1, inputs, 1, 1)), Requantise.EXACT)
    # Zero point -128: the products reach 127 * 128 * inputs, taking it out again as much once more.
    # The bias, 1, is 255 steps of the input times 127 of the weights.
    bound = 2 * 127 * 128 * inputs + 255 * 127
    assert str(caught.value) == (
        f"layer fc: the accumulator of output channel 0 can reach {bound}, which does not fit 32 bits; "
        "give the layer fewer inputs, or smaller weights (weight decay)"
    )


def test_narrow_accumulators_refuse_what_wide_ones_take() -> None:
    inputs = 300
    float_graph, data = (
        one_layer(np.ones((1, inputs)), np.zeros(1), (inputs, 1, 1)),
        np.ones((1, inputs, 1, 1)),
    )
    quantise(float_graph, data, Requantise.EXACT)
    with pytest.raises(ModelError, match="output channel 0 can reach 9753600, which does not fit 24 bits"):
        quantise(float_graph, data, Requantise.EXACT, accumulator_width=24)


def test_requantisation_that_could_overflow_is_refused() -> None:
    inputs = 40_000
    weight = np.tile([[1.0, -1.0]], inputs // 2)
    data = np.ones((1, inputs, 1, 1))
    with pytest.raises(ModelError, match="layer fc: the requantisation of output channel 0 can overflow"):
        quantise(one_layer(weight, np.array([1e-3]), (inputs, 1, 1)), data, Requantise.EXACT)


def test_pooling_window_beyond_the_hardware_is_refused() -> None:
    pool = FloatPool(
        name="p", input="x", output="y", window=Window((65, 64)), operation=Pooling.AVERAGE, divisor=4160
    )
    with pytest.raises(
        ModelError, match="layer p: its window has 4160 pixels, at most 4096 are possible; pool in two"
    ):
        quantise(one_pool((1, 65, 64), pool), np.zeros((1, 1, 65, 64)), Requantise.EXACT)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (np.zeros((2, 4)), r"calibration data: the shape must be \(N, 3, 1, 1\), not \(2, 4\)"),
        (np.zeros((0, 3, 1, 1)), "calibration data: there is no sample; give at least one, better a hundred"),
        (
            np.full((2, 3, 1, 1), np.nan),
            "calibration data: 6 of 6 values are NaN or infinite; remove those samples",
        ),
        (np.zeros((1, 3, 1, 1), complex), r"calibration data: the dtype must be real, not torch\.complex128"),
        ("digits", "calibration data: not an array of numbers"),
    ],
)
def test_bad_calibration_data(data: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        quantise(one_layer(np.ones((1, 3)), np.zeros(1), (3, 1, 1)), data, Requantise.EXACT)


def test_activations_that_are_not_finite() -> None:
    float_graph = one_layer(np.full((1, 2), 1e308), np.zeros(1), (2, 1, 1))
    with pytest.raises(ModelError, match="tensor y: the calibration data makes it NaN or infinite"):
        quantise(float_graph, np.full((1, 2, 1, 1), 1e3), Requantise.EXACT)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ranges": "median"}, "ranges must be one of minmax, percentile, mse, not 'median'"),
        ({"percentile": 20}, "percentile must be above 50 and at most 100, not 20"),
        ({"batch": 0}, r"batch must be 1 \.\. 256, not 0"),
    ],
)
def test_bad_options(options: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        QuantisationOptions(**options)


def test_range_methods_cut_outliers() -> None:
    rng = np.random.default_rng(5)
    data = rng.normal(size=(4000, 1, 1, 1))
    data[17] = 40.0
    float_graph = one_layer(np.ones((1, 1)), np.zeros(1), (1, 1, 1))
    scales, ratios = {}, {}
    for method in RangeMethod:
        graph = quantise(
            float_graph, data, Requantise.EXACT, QuantisationOptions(ranges=method, percentile=99.9)
        )
        scales[method] = graph.tensors["x"].scale
        error = dequantise(golden.run(graph, data)["x"], scales[method], graph.tensors["x"].zero_point) - data
        ratios[method] = float((error**2).mean())
    assert scales[RangeMethod.MINMAX] == (40.0 - data.min()) / 255
    assert scales[RangeMethod.PERCENTILE] < 8 / 255
    assert (
        ratios[RangeMethod.MSE] <= ratios[RangeMethod.MINMAX]
        and ratios[RangeMethod.MSE] <= ratios[RangeMethod.PERCENTILE]
    )


def test_small_batches_calibrate_alike() -> None:
    rng = np.random.default_rng(6)
    float_graph = one_layer(rng.normal(size=(3, 5)), np.zeros(3), (5, 1, 1))
    data = rng.normal(size=(11, 5, 1, 1))
    for method in RangeMethod:
        whole = quantise(float_graph, data, Requantise.EXACT, QuantisationOptions(ranges=method))
        parts = quantise(float_graph, data, Requantise.EXACT, QuantisationOptions(ranges=method, batch=2))
        for name, tensor in whole.tensors.items():
            assert parts.tensors[name].scale == pytest.approx(tensor.scale, rel=1e-9)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network trained for a moment, and held-out images."""
    torch.manual_seed(0)
    data, target = load_digits(return_X_y=True)
    x, y = torch.tensor(data / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(target)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x[:1400]), y[:1400]).backward()
        optimiser.step()
    return module.eval(), x, y


@pytest.mark.parametrize("mode", MODES)
def test_digits_keep_their_accuracy(
    digits: tuple[nn.Module, torch.Tensor, torch.Tensor], mode: Requantise
) -> None:
    module, x, y = digits
    float_graph = from_module(module, x[:1])
    graph = quantise(float_graph, x[:300], mode)
    with torch.no_grad():
        real = (module(x[1400:]).argmax(1) == y[1400:]).double().mean().item()
    outputs = golden.run(graph, x[1400:])[graph.outputs[0]].reshape(-1, 10)
    integer = float((outputs.argmax(1) == y[1400:].numpy()).mean())
    assert real > 0.85, "the float network must have learned something"
    assert abs(real - integer) <= 0.015


def test_report_has_a_row_for_every_tensor(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    module, x, _ = digits
    float_graph = from_module(module, x[:1])
    graph = quantise(float_graph, x[:300], Requantise.EXACT)
    report = compare(float_graph, graph, x[:300])
    assert [row.layer for row in report.rows] == ["input", "0", "3", "5"]
    assert report.samples == 300
    for row in report.rows:
        assert row.low <= row.high and row.scale == graph.tensors[row.tensor].scale
        assert row.sqnr_db is None or row.sqnr_db > 25
    assert len(report.table()) == 5 and report.table()[0][-1] == "SQNR (dB)"
    assert report.to_dict()["rows"][1]["shape"] == (8, 8, 8)
    # The digits have 17 grey levels, which min/max quantisation represents exactly to a rounding of 1/2.
    assert report.rows[0].scale == 1 / 255
