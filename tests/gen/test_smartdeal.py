"""SmartDeal decompositions against their definition, worked out here in rational arithmetic."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from popshift.gen.compress.smartdeal import SmartDealConfig, decompose, decomposition
from popshift.gen.compress.smartdeal.fit import fit, improve_coefficients, nearest_level
from popshift.gen.compress.smartdeal.layers import SmartDealWeight
from popshift.gen.compress.smartdeal.slices import Slicing
from popshift.hw.errors import InputError, ModelError

LEVELS = (0, 1, 2, 4, 8, 16, 32, 64)


def random_layer(seed: int, layer: Any, *arguments, **options) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return layer(*arguments, **options)


def parametrisation(layer: Any) -> SmartDealWeight:
    inner = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(inner, SmartDealWeight)
    return inner


# ---- levels ------------------------------------------------------------------------------------------------


@given(st.floats(-300, 300, width=32))
def test_nearest_level_is_the_nearest(x):
    found = float(nearest_level(torch.tensor([x])))
    distances = {level: abs(Fraction(abs(x)) - level) for level in LEVELS}
    smallest = min(level for level, distance in distances.items() if distance == min(distances.values()))
    assert abs(found) == smallest
    assert found == 0 or math.copysign(1, found) == math.copysign(1, x)


# ---- slicing -----------------------------------------------------------------------------------------------


@given(
    st.tuples(
        st.integers(1, 5), st.integers(1, 90), st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 3, 4])
    ),
    st.integers(3, 200),
)
def test_slices_join_to_what_was_cut(shape, most_rows):
    slicing = Slicing.of(shape, most_rows)
    weight = torch.arange(math.prod(shape)).reshape(shape).float() + 1
    cut = slicing.cut(weight)
    assert cut.shape[2] == slicing.rows <= max(most_rows, shape[2])
    assert torch.equal(slicing.join(cut), weight)
    assert torch.count_nonzero(cut) == weight.numel(), "the rest is filled with zeros"


def test_rows_are_kernel_rows_and_slices_have_whole_channels():
    slicing = Slicing.of((2, 128, 3, 3), 192)
    assert (slicing.slices, slicing.rows, slicing.columns) == (2, 192, 3)
    weight = torch.randn(2, 128, 3, 3)
    cut = slicing.cut(weight)
    assert torch.equal(cut[1, 1, 3 * 5 + 2], weight[1, 64 + 5, 2])
    linear = Slicing.of((4, 1000), 192)
    assert (linear.slices, linear.rows, linear.columns) == (2, 167, 3)


# ---- the fit -----------------------------------------------------------------------------------------------


def test_no_single_coefficient_can_be_better():
    generator = torch.Generator().manual_seed(2)
    matrices, basis = (
        torch.randn(3, 3, 8, generator=generator),
        torch.randn(3, 3, 3, generator=generator) / 20,
    )
    kept = torch.ones_like(matrices)
    found = improve_coefficients(matrices, kept, basis)
    for _ in range(30):  # until nothing changes
        found = improve_coefficients(matrices, kept, basis, found)
    rows, bases, wanted = (t.double().numpy() for t in (found.mT, basis, matrices.mT))
    for n, i, j in np.ndindex(3, 8, 3):
        errors = []
        for level in (rows[n, i, j], *LEVELS, *(-level for level in LEVELS)):
            row = rows[n, i].copy()
            row[j] = level
            errors.append(np.square(wanted[n, i] - row @ bases[n]).sum())
        assert errors[0] <= min(errors) + 1e-5


def test_more_starts_and_iterations_never_hurt():
    generator = torch.Generator().manual_seed(3)
    matrices = torch.randn(16, 60, 3, generator=generator)
    kept = torch.ones_like(matrices, dtype=torch.bool)

    def error(restarts: int, iterations: int) -> float:
        search = torch.Generator().manual_seed(0)
        coefficients, basis = fit(matrices, kept, restarts=restarts, iterations=iterations, generator=search)
        return float((matrices - coefficients @ basis).norm() / matrices.norm())

    errors = [error(1, 1), error(1, 15), error(10, 15)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.18, "Gaussian weights: the published alternation leaves 0.185 to 0.189"


# ---- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        random_layer(0, nn.Conv2d, 5, 4, 3, stride=2, padding=1),
        random_layer(1, nn.Conv2d, 70, 3, (3, 3), bias=False),
        random_layer(2, nn.Conv2d, 7, 6, 1),
        random_layer(3, nn.Conv2d, 2, 3, (2, 5)),
        random_layer(4, nn.Linear, 50, 6),
    ],
    ids=["3x3", "two-slices", "1x1", "2x5", "linear"],
)
def test_outputs_are_those_of_the_integers(layer: Any):
    """y = scale * sum x (Ce B) in rational arithmetic, from the definition alone."""
    result, (report,) = decompose(nn.Sequential(layer), SmartDealConfig(row_sparsity=0.3, group=2))
    decomposed = result[0]
    found = decomposition(decomposed)
    assert set(found.coefficients.abs().unique().tolist()) <= set(LEVELS)
    assert int(found.basis.abs().max()) <= 127
    exact = np.zeros(layer.weight.shape, object)
    for f in range(exact.shape[0]):
        flat = []
        for s, i in np.ndindex(found.slicing.slices, found.slicing.rows):
            row = found.coefficients[f, s, i].tolist()
            for column in range(found.slicing.columns):
                product = sum(c * int(found.basis[f, s, j, column]) for j, c in enumerate(row))
                flat.append(Fraction(float(found.scale[f])) * product)
        exact[f] = np.array(flat[: exact[f].size], object).reshape(exact[f].shape)
    np.testing.assert_allclose(decomposed.weight.detach().numpy(), exact.astype(float), rtol=2e-7)
    x = torch.randint(-128, 128, (2, *((exact.shape[1], 6, 6) if exact.ndim == 4 else (50,)))).double()
    reference = layer.double()
    with torch.no_grad():
        reference.weight.copy_(torch.from_numpy(exact.astype(float)))
        wanted, got = reference(x), decomposed.double()(x)
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-4)
    assert 0 < report.error < 0.75


def test_weights_that_are_powers_of_two_lose_nothing():
    layer = random_layer(5, nn.Conv2d, 4, 3, 3)
    signs = torch.randint(0, 2, layer.weight.shape) * 2 - 1
    with torch.no_grad():
        layer.weight.copy_(0.37 * signs * 2.0 ** torch.randint(0, 5, layer.weight.shape))
        layer.weight[1] = 0
        layer.weight[2] = 0
        layer.weight[2, 3, 1, 2] = 0.01
    result, (report,) = decompose(layer, SmartDealConfig())
    assert report.error < 1e-6
    assert torch.allclose(result.weight, layer.weight, rtol=1e-6)
    assert not decomposition(result).coefficients[1].any()
    assert torch.count_nonzero(result.weight[2]) == 1


@pytest.mark.parametrize("group", [1, 4])
def test_groups_share_their_zero_rows(group):
    layer = random_layer(6, nn.Conv2d, 6, 8, 3)
    result, (report,) = decompose(layer, SmartDealConfig(row_sparsity=0.5, group=group))
    rows = result.weight.detach().reshape(8 // group, group, 18, 3)
    zero = (rows == 0).all(3)
    assert torch.equal(zero, zero[:, :1].expand_as(zero)) and (zero[:, 0].sum(1) == 9).all()
    strength = layer.weight.detach().reshape(8 // group, group, 18, 3).abs().sum((1, 3))
    for pattern, values in zip(zero[:, 0], strength, strict=True):
        assert values[pattern].max() < values[~pattern].min()
    assert report.row_sparsity == 0.5
    assert report.code_bits == 4 * 3 * 9 * 8 and report.index_bits == 18 * 8 // group
    assert report.basis_bits == 8 * 9 * 8
    total = report.code_bits + report.index_bits + report.basis_bits
    assert report.compression == 32 * layer.weight.numel() / total


def test_elements_are_dropped_on_request():
    layer = random_layer(7, nn.Linear, 60, 16)
    _, (report,) = decompose(layer, SmartDealConfig(element_sparsity=0.6))
    assert 0.6 <= report.element_sparsity < 0.65


def test_depthwise_convolutions_and_the_original_stay_as_they_are():
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.Linear(3, 2)
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result, reports = decompose(network, SmartDealConfig())
    assert [report.name for report in reports] == ["2", "3"]
    assert not parametrize.is_parametrized(result[0]) and not parametrize.is_parametrized(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# ---- as parameters -----------------------------------------------------------------------------------------


def test_optimiser_state_dict_and_export_work():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(
        random_layer(8, nn.Conv2d, 3, 4, 3), nn.Flatten(), random_layer(9, nn.Linear, 144, 2)
    )
    config = SmartDealConfig(row_sparsity=0.4, group=4)
    result, _ = decompose(network, config)
    kept = parametrisation(result[0]).kept.clone()
    optimiser = torch.optim.SGD(result.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (result(x) - 1).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    assert set(decomposition(result[0]).coefficients.abs().unique().tolist()) <= set(LEVELS)
    assert not decomposition(result[0]).coefficients[~kept].any(), "zero rows stay zero"

    again, _ = decompose(network, config)
    again.load_state_dict(result.state_dict())
    assert torch.equal(again(x), result(x))
    exported = torch.export.export(result.eval(), (x[:1],))
    assert torch.equal(exported.module()(x[:1]), result(x[:1]))


def test_assigning_a_weight_decomposes_it():
    layer = random_layer(10, nn.Conv2d, 3, 4, 3)
    result, _ = decompose(layer, SmartDealConfig())
    new = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(5))
    result.weight = new
    wanted, _ = decompose(random_layer(10, nn.Conv2d, 3, 4, 3), SmartDealConfig())
    assert not torch.equal(result.weight, wanted.weight)
    assert float((result.weight.detach() - new).norm() / new.norm()) < 0.2


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_sparsity": 1.0}, "row_sparsity must be at least 0 and below 1, not 1.0"),
        ({"element_sparsity": float("nan")}, "element_sparsity must be at least 0 and below 1, not nan"),
        ({"group": 0}, "group must be an integer of at least 1, not 0"),
        ({"slice_rows": 2.5}, "slice_rows must be an integer of at least 3, not 2.5"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SmartDealConfig(**options)


def test_bad_weights_are_refused_by_name():
    layer = nn.Linear(3, 2)
    network = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="layer 0: a weight is NaN or infinite; train it again"):
        decompose(network, SmartDealConfig())
    decomposed, _ = decompose(nn.Sequential(nn.Linear(3, 2)), SmartDealConfig())
    with pytest.raises(ModelError, match="layer 0: its weight has a parametrisation already"):
        decompose(decomposed, SmartDealConfig())
