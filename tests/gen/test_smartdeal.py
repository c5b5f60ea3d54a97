"""SmartDeal decompositions against their definition, worked out here in rational arithmetic."""

import math
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from popshift.gen.compress.smartdeal import SmartDealConfig, compression, decompose, decomposition
from popshift.gen.compress.smartdeal.fit import fit, improve_coefficients, nearest_level
from popshift.gen.compress.smartdeal.layers import SmartDealWeight
from popshift.gen.compress.smartdeal.slices import Slicing
from popshift.hw.config import load_config
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
    st.tuples(st.integers(1, 5), st.integers(1, 120), st.integers(1, 4), st.integers(1, 7)),
    st.integers(3, 200),
    st.integers(1, 20),
)
def test_slices_join_to_what_was_cut(shape, most_rows, banks):
    slicing = Slicing.of(shape, most_rows, banks)
    filters, channels, height, width = shape
    weight = torch.arange(math.prod(shape)).reshape(shape).float() + 1
    cut = slicing.cut(weight)
    assert cut.shape == (filters, *slicing.taps.shape) and slicing.columns == 3
    assert torch.equal(slicing.join(cut), weight)
    assert torch.count_nonzero(cut) == weight.numel(), "the rest is filled with zeros"
    flat = torch.cat([weight.flatten(1), torch.zeros(filters, 1)], 1).long()
    assert torch.equal(cut.long(), flat[:, slicing.taps]), "the table says where everything is"
    assert slicing.slices == 1 or slicing.taps[-1, 0, 2] >= 0, "no slice is empty"

    channel_rows = height * (width if width < 3 else math.ceil(width / 3))  # of three channels, or of one
    if channel_rows * banks <= most_rows:
        assert slicing.rows <= most_rows
        assert slicing.slices == 1 or slicing.rows % (channel_rows * banks) == 0, "blocks are whole"
    else:
        assert slicing.rows <= max(most_rows, channel_rows)
    for i, row in enumerate(slicing.taps.reshape(-1, 3).tolist()):
        taps = [tap for tap in row if tap >= 0]
        assert int(slicing.channels.flatten()[i]) == (taps[-1] // (height * width) if taps else -1)
        assert row[3 - len(taps) :] == taps, "what is missing is missing at the front"
        places = [divmod(tap, height * width) for tap in taps]
        if width >= 3:
            assert taps == list(range(taps[0], taps[0] + len(taps))) if taps else True
            assert len({tap // width for tap in taps}) <= 1
        else:
            assert len({position for _, position in places}) <= 1
            if channels >= 3 * banks:
                assert len({channel % banks for channel, _ in places}) <= 1


def test_rows_are_kernel_rows_and_slices_have_whole_channels():
    slicing = Slicing.of((2, 128, 3, 3), 192, 16)
    assert (slicing.slices, slicing.rows, slicing.columns) == (2, 192, 3)
    weight = torch.randn(2, 128, 3, 3)
    cut = slicing.cut(weight)
    assert torch.equal(cut[1, 1, 3 * 5 + 2], weight[1, 64 + 5, 2])
    assert Slicing.of((1, 80, 3, 3), 192, 16).channels[:, 0].tolist() == [0, 48], "blocks of 16 channels"
    wide = Slicing.of((1, 2, 5, 5), 192, 16)
    assert wide.taps.tolist()[0][8:12] == [[20, 21, 22], [-1, 23, 24], [25, 26, 27], [-1, 28, 29]]


def test_rows_of_narrow_kernels_hold_channels_of_one_bank():
    linear = Slicing.of((4, 1000), 192, 16)
    assert (linear.slices, linear.rows) == (2, 176)  # 20 blocks of 48, then 40: 16 rows
    assert linear.taps[0, 16 + 2].tolist() == [50, 66, 82]
    assert linear.taps[1, 144:160].tolist() == [
        *[[960 + i, 976 + i, 992 + i] for i in range(8)],
        *[[-1, 960 + i, 976 + i] for i in range(8, 16)],
    ]
    assert (linear.taps[1, 160:] == -1).all() and (linear.taps[1, 159] >= 0).any()
    # Less than a block: a third of the channels apart; at most one bank's worth in the last block: one each.
    assert Slicing.of((4, 10, 1, 1), 192, 16).taps[0].tolist() == [
        [0, 4, 8],
        [1, 5, 9],
        [-1, 2, 6],
        [-1, 3, 7],
    ]
    last = Slicing.of((4, 16, 1, 1), 192, 4).taps[0, 4:].tolist()
    assert last == [[-1, -1, 12], [-1, -1, 13], [-1, -1, 14], [-1, -1, 15]]
    # Channels 0, 2 and 4 at each position of a 2 x 2 kernel.
    assert Slicing.of((1, 6, 2, 2), 192, 2).taps[0, :4].tolist() == [[i, 8 + i, 16 + i] for i in range(4)]


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
        random_layer(11, nn.Conv2d, 13, 3, (3, 2)),
    ],
    ids=["3x3", "two-slices", "1x1", "2x5", "linear", "3x2"],
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
        for s, i, column in np.argwhere(found.slicing.taps.numpy() >= 0).tolist():
            row = found.coefficients[f, s, i].tolist()
            product = sum(c * int(found.basis[f, s, j, column]) for j, c in enumerate(row))
            exact[f].flat[int(found.slicing.taps[s, i, column])] = Fraction(float(found.scale[f])) * product
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
    generator = torch.Generator().manual_seed(6)
    signs = torch.randint(0, 2, layer.weight.shape, generator=generator) * 2 - 1
    exponents = torch.randint(0, 5, layer.weight.shape, generator=generator)
    exponents[:, 0, 0] = 4  # all columns as large: half of 127 would not be an integer
    with torch.no_grad():
        layer.weight.copy_(0.37 * signs * 2.0**exponents)
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
    result, (report,) = decompose(layer, SmartDealConfig(row_sparsity=0.5, group=group, banks=1))
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


@pytest.mark.parametrize(
    ("channels", "lost"), [(64, {6}), (16, {1, 2})], ids=["12 rows a bank", "3 rows a bank"]
)
def test_every_bank_loses_as_many_rows(channels, lost):
    config = SmartDealConfig(row_sparsity=0.5, group=16, restarts=1, iterations=1)
    layer = random_layer(12, nn.Conv2d, channels, 32, 3)
    found = decomposition(decompose(layer, config)[0])
    zero = found.zero_rows.reshape(2, channels, 3)
    assert (zero.sum((1, 2)) == channels * 3 // 2).all()
    assert set(zero.reshape(2, -1, 16, 3).sum((1, 3)).unique().tolist()) == lost
    for banks in (8, 4, 2):  # as an array with fewer rows, or with copies of the input, sees them
        assert (zero.reshape(2, -1, banks, 3).sum((1, 3)) == channels * 3 // 2 // banks).all()
    # The weakest of each bank go, and of the two that make one bank of eight the one whose next is weaker.
    strength = layer.weight.detach().reshape(2, 16, channels, 3, 3).abs().sum((1, 4))
    for gone, values in zip(zero, strength, strict=True):
        for bank in range(8):
            halves = [(values[first::16].flatten(), gone[first::16].flatten()) for first in (bank, bank + 8)]
            for here, dropped in halves:
                assert here[dropped].max() < here[~dropped].min()
            (more, few) = sorted(halves, key=lambda half: -int(half[1].sum()))
            if more[1].sum() > few[1].sum():
                assert more[0][more[1]].max() < few[0][~few[1]].min()


def test_banks_of_unequal_size_lose_their_share():
    """Bank 0 has channels 0 and 4, the others one each: 12 of 15 rows go, 2.4 of 3 in each but the first."""
    layer = random_layer(13, nn.Conv2d, 5, 4, 3)
    config = SmartDealConfig(row_sparsity=0.8, group=4, banks=4, restarts=1, iterations=1)
    zero = decomposition(decompose(layer, config)[0]).zero_rows.reshape(5, 3).sum(1)
    lost = [int(zero[0] + zero[4]), *zero[1:4].tolist()]
    assert sum(lost) == 12 and lost[0] in (4, 5) and set(lost[1:]) <= {2, 3}


def test_no_bank_loses_more_than_its_share_rounded_up():
    """Bank 0 has the two weakest of four rows and loses one: half of its own."""
    layer = nn.Conv2d(4, 2, (1, 3))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.1, 1.0, 0.9, 0.2])[:, None, None].expand(2, 4, 1, 3))
    config = SmartDealConfig(row_sparsity=0.5, group=2, banks=3)
    found = decomposition(decompose(layer, config)[0])
    assert found.zero_rows.flatten().tolist() == [True, False, True, False]


def test_the_target_decides_what_is_skipped_for_free():
    config = SmartDealConfig.for_target(load_config("a8"), row_sparsity=0.25)
    assert (config.banks, config.group, config.row_sparsity) == (8, 8, 0.25)
    assert SmartDealConfig.for_target(load_config("a8"), group=1).group == 1


def test_filled_up_rows_cost_nothing():
    """200 inputs in 4 blocks of 48 and 8 more: 72 rows in slices of 32, the last one with 24 missing."""
    layer = random_layer(14, nn.Linear, 200, 6)
    config = SmartDealConfig(slice_rows=32, row_sparsity=0.5, group=4)
    result, (report,) = decompose(layer, config)
    found = decomposition(result)
    assert found.coefficients.shape == (6, 3, 32, 3) and found.zero_rows[:, 2, 8:].all()
    assert report.row_sparsity == 0.5 and report.code_bits == 4 * 3 * 36 * 6
    assert report.index_bits == 72 * 2 and report.basis_bits == 8 * 9 * 3 * 6


def test_compression_counts_what_is_left_out():
    network = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 8, 3), depthwise=nn.Conv2d(8, 8, 3, groups=8), second=nn.Conv2d(8, 16, 3)
        )
    )
    result, reports = decompose(network, SmartDealConfig(skip=("first",)))
    assert [report.name for report in reports] == ["second"]
    found = compression(result)
    assert found.plain == {"first": 72, "depthwise": 72}
    assert found.ratio == 32 * (144 + 1152) / (8 * 144 + reports[0].bits)
    assert str(found).endswith("; 144 weights of first, depthwise count 8 bits each")
    assert compression(network).ratio == 4 and compression(nn.ReLU()).ratio == 0


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
        ({"banks": 0}, "banks must be an integer of at least 1, not 0"),
        ({"skip": "conv1"}, "skip must be a tuple of names, not 'conv1'"),
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
    for name in ("1", "9"):
        with pytest.raises(InputError, match=f"there is no layer '{name}' to skip; layers: 0"):
            decompose(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), SmartDealConfig(skip=(name,)))
