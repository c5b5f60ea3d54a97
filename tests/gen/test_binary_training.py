"""Binary networks: signs and their gradients, weights of one bit, distillation, training, size."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from popshift.gen.train import digits as data
from popshift.gen.train.binary import (
    VARIANTS,
    BinaryBlock,
    BinaryConv2d,
    BinaryLinear,
    BinaryStyle,
    Distillation,
    Estimator,
    Surrogate,
    binary_layers,
    binary_sign,
    binary_trained,
    compare_parts,
    full_precision_twin,
    resnet18_storage,
    resnet20,
    set_progress,
    storage,
    train_binary,
    vgg_small,
)
from popshift.gen.train.binary import digits as recipe
from popshift.gen.train.binary.blocks import PaddedShortcut
from popshift.gen.train.binary.distillation import attention, recorded, representation_loss
from popshift.gen.train.binary.estimators import largest_sharpness, smallest_quantile, useful_reach
from popshift.gen.train.binary.layers import balanced, binary_weight, power_of_two_scale
from popshift.gen.train.trainer import TrainingOptions, accuracy, shift_pixels, train
from popshift.hw.errors import InputError

OPTIONS = TrainingOptions(epochs=4, batch=32, learning_rate=3e-2, weight_decay=0.1, seed=3)
STYLE = BinaryStyle(surrogate=Surrogate(estimator=Estimator.DTE, share=0.5))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits() -> data.Digits:
    return data.load()


@pytest.fixture(scope="module")
def few(digits) -> tuple[torch.Tensor, torch.Tensor]:
    return digits.train_images[:320], digits.train_labels[:320]


# ---- the sign and its gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", Estimator)
def test_the_sign_is_one_of_two_numbers_and_that_of_zero_is_one(estimator):
    values = torch.cat([random(1000), torch.tensor([0.0, -0.0, 1e-45, -1e-45, math.inf, -math.inf])])
    expected = torch.where(values >= 0, 1.0, -1.0)
    assert expected[-6:].tolist() == [1, 1, 1, -1, 1, -1]
    surrogate = Surrogate(estimator=estimator, progress=0.7)
    for found in (binary_sign(values), binary_sign(values.clone().requires_grad_(), surrogate)):
        assert found.dtype == torch.float32 and torch.equal(found, expected)
    with torch.no_grad():
        assert not binary_sign(values.clone().requires_grad_(), surrogate).requires_grad


def gradient(values: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:
    leaf = values.clone().requires_grad_()
    weights = torch.arange(1.0, 1 + len(values))
    (binary_sign(leaf, surrogate) * weights).sum().backward()
    assert leaf.grad is not None
    return leaf.grad / weights


def tanh_differences(values: torch.Tensor, t: float) -> torch.Tensor:
    """Central differences of k tanh(t x), in float64."""
    step = 1e-6
    k = max(1 / t, 1)
    high, low = (k * torch.tanh(t * (values.double() + sign * step)) for sign in (1, -1))
    return ((high - low) / (2 * step)).float()


def test_straight_through_ends_at_one():
    values = torch.tensor([-3, -1.001, -1, -0.5, 0, 0.5, 1, 1.001, 3])
    expected = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 0, 0])
    for progress in (0.0, 0.5, 1.0):
        found = gradient(values, Surrogate(estimator=Estimator.STE, progress=progress))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_error_decay_is_the_slope_of_a_hyperbolic_tangent(progress):
    values = torch.linspace(-3, 3, 121)
    t = 0.1 * 100**progress
    surrogate = Surrogate(estimator=Estimator.EDE, progress=progress)
    assert surrogate.sharpness == pytest.approx(t)
    assert torch.allclose(gradient(values, surrogate), tanh_differences(values, t), atol=1e-4, rtol=1e-4)
    assert gradient(torch.zeros(1), surrogate) == pytest.approx(max(1.0, t))


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0, 3.0])
def test_the_distribution_keeps_a_share_of_useful_slopes(progress, offset):
    values = offset * random(2000, seed=1).sign() + 0.1 * random(2000, seed=2)
    surrogate = Surrogate(estimator=Estimator.DTE, share=0.3, useful=0.2, progress=progress)
    t = surrogate.sharpness_for(values)
    found = gradient(values, surrogate)
    assert torch.allclose(found, tanh_differences(values, t), atol=1e-4, rtol=1e-4)
    assert (found >= 0.2 - 1e-4).float().mean() >= 0.3
    assert t <= surrogate.sharpness * (1 + 1e-12)
    if t < surrogate.sharpness:  # as sharp as that allows
        assert useful_reach(t, 0.2) == pytest.approx(smallest_quantile(values, 0.3), rel=1e-6)
    assert (t == surrogate.sharpness) == (offset == 0 or progress == 0 or (offset < 3 and progress == 0.5))


def test_a_tenth_of_a_gaussian_never_limits_the_estimator():
    """With the share and slope that are usual it is then error decay."""
    both = [
        gradient(random(4000), Surrogate(estimator=estimator, share=0.1, useful=0.1, progress=1.0))
        for estimator in (Estimator.EDE, Estimator.DTE)
    ]
    assert torch.equal(*both)


def test_sharpness_is_found_on_both_sides_of_one():
    for bound in (0.05, 0.2, 0.5, 1.0, 1.8, 2.5, 10.0):
        t = largest_sharpness(bound, 1000.0, 0.1)
        assert useful_reach(t, 0.1) == pytest.approx(bound, rel=1e-9)
    assert largest_sharpness(0.0, 10.0, 0.1) == 10.0


def test_quantiles_come_from_all_pixels():
    ramp = torch.arange(64 * 64.0).reshape(1, 1, 64, 64).expand(8, 16, 64, 64)
    assert smallest_quantile(-ramp, 0.25) == pytest.approx(1024, rel=0.05)
    assert smallest_quantile(torch.tensor([3.0, -1.0]), 0.5) == 1
    assert smallest_quantile(torch.tensor([3.0, -1.0]), 0.51) == 3


def test_the_schedule_goes_from_one_end_to_the_other():
    network = nn.Sequential(BinaryConv2d(8, 8, 3), nn.Flatten(), BinaryLinear(8, 4))
    for epoch, t in ((0, 0.1), (5, 1.0), (10, 10.0)):
        set_progress(network, epoch, 10)
        assert [layer.surrogate.sharpness for _, layer in binary_layers(network)] == [pytest.approx(t)] * 2
    for epoch, epochs in ((11, 10), (-1, 10), (0, 0)):
        with pytest.raises(InputError, match=f"epoch must be 0 .. {epochs} of at least one, not {epoch}"):
            set_progress(network, epoch, epochs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sharpness_min": 0.0}, "must be positive and in order, not 0.0 and 10.0"),
        ({"sharpness_max": 0.01}, "must be positive and in order, not 0.1 and 0.01"),
        ({"share": 1.0}, "share must be between 0 and 1, not 1.0"),
        ({"useful": 0.0}, "useful must be between 0 and 1, not 0.0"),
        ({"progress": 1.5}, "progress must be 0 .. 1, not 1.5"),
    ],
)
def test_impossible_surrogates_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Surrogate(**wrong)


# ---- weights of one bit ------------------------------------------------------------------------------------


def test_weights_are_balanced_signs_times_a_power_of_two():
    weight = random(16, 8, 3, 3) * torch.logspace(-1, 2, 16)[:, None, None, None] + 0.3
    even = balanced(weight)
    assert even.mean((1, 2, 3)).abs().max() < 1e-6
    assert torch.allclose(even.std((1, 2, 3)), torch.ones(16))
    found = binary_weight(weight)
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    assert torch.equal(found > 0, centred >= 0)
    exponents = even.abs().mean((1, 2, 3)).log2().round()
    assert found.abs().flatten(1).unique(dim=1).shape == (16, 1)
    assert [float(each) for each in found[:, 0, 0, 0].abs()] == [2.0**s for s in exponents.tolist()]
    heavy = torch.zeros(1, 72).index_fill(1, torch.tensor([0]), 1.0)
    assert binary_weight(heavy).abs().unique().item() == 0.25  # heavy tails have smaller scales


def test_without_balance_sign_and_scale_are_those_of_the_weight_itself():
    weight = 0.3 * random(16, 8, 3, 3) + 0.1
    found = binary_weight(weight, balance=False)
    assert torch.equal(found > 0, weight >= 0)
    expected = weight.abs().mean((1, 2, 3), keepdim=True).log2().round().exp2().expand_as(weight)
    assert torch.equal(found.abs(), expected)


def test_scales_are_exact_powers_of_two_over_the_whole_range():
    exponents = range(-126, 128)
    weight = torch.tensor([[math.ldexp(1.0, s)] for s in exponents])
    assert torch.equal(power_of_two_scale(weight * 1.2), weight)


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (4, 3, 3, 3), (4, 10)])
@pytest.mark.parametrize("value", [0.0, 0.1, -0.7, 1e-30, 1e10])
@pytest.mark.parametrize("balance", [True, False])
def test_filters_of_equal_weights_give_no_nan(shape, value, balance):
    weight = torch.full(shape, value, requires_grad=True)
    found = binary_weight(weight, balance=balance, surrogate=Surrogate())
    assert torch.equal(found > 0, torch.full(shape, balance or value >= 0))
    (found * random(*shape)).sum().backward()
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_no_gradient_flows_through_the_scale_but_through_the_balance():
    weight = random(4, 8, 3, 3).requires_grad_()
    (binary_weight(weight, surrogate=Surrogate()) * random(4, 8, 3, 3, seed=1)).sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0
    assert weight.grad.sum((1, 2, 3)).abs().max() < 1e-4  # a shift of all weights of a filter changes nothing
    raw = random(4, 8, 3, 3).requires_grad_()
    (binary_weight(raw, balance=False, surrogate=Surrogate(estimator=Estimator.STE))).sum().backward()
    scale = power_of_two_scale(raw.detach()).expand_as(raw)
    assert raw.grad is not None and torch.equal(raw.grad, torch.where(raw.abs() <= 1, scale, 0.0))


# ---- layers ------------------------------------------------------------------------------------------------


def test_a_convolution_counts_equal_bits_and_padding_counts_nothing():
    layer = BinaryConv2d(8, 16, 3, stride=2, padding=1).eval()
    images = random(2, 8, 6, 6)
    scale = power_of_two_scale(balanced(layer.weight)).flatten()
    found = layer(images) / scale[:, None, None]
    bits = functional.unfold((images >= 0).float(), 3, padding=1, stride=2)  # (2, 72, 9)
    inside = functional.unfold(torch.ones_like(images), 3, padding=1, stride=2)
    weights = (binary_weight(layer.weight) > 0).float().flatten(1)[None, :, :, None]
    equal = ((bits[:, None] == weights) * inside[:, None]).sum(2)
    assert torch.equal(found.flatten(2), 2 * equal - inside.sum(1)[:, None])
    assert layer.bias is None and "estimator=ede" in repr(layer)
    assert torch.equal(layer(images), layer.train()(images))


def test_a_linear_layer_counts_equal_bits():
    layer = BinaryLinear(24, 5, bias=True).eval()
    values = random(7, 24)
    weights = binary_weight(layer.weight)
    expected = functional.linear(torch.where(values >= 0, 1.0, -1.0), weights, layer.bias)
    assert torch.equal(layer(values), expected) and "estimator=ede" in repr(layer)
    assert BinaryLinear(24, 5).bias is None


def test_what_a_binary_convolution_cannot_be():
    with pytest.raises(InputError, match="groups must be 1, not 8"):
        BinaryConv2d(8, 8, 3, groups=8)
    with pytest.raises(InputError, match="padding_mode must be 'zeros', not 'reflect'"):
        BinaryConv2d(8, 8, 3, padding_mode="reflect")


def test_a_block_adds_what_came_in():
    block = BinaryBlock(8, 16, 2).eval()
    images = random(2, 8, 6, 6)
    shortcut = torch.zeros(2, 16, 3, 3)
    shortcut[:, 4:12] = images[:, :, ::2, ::2]
    assert torch.equal(block(images), (block.norm(block.conv(images)) + shortcut).clamp(-1, 1))
    assert isinstance(BinaryBlock(8, 8).shortcut, nn.Identity)
    with pytest.raises(InputError, match="channels must be at least 8, not 4"):
        PaddedShortcut(8, 4, 1)


def test_vgg_small_and_resnet20_have_their_layers():
    vgg, residual = vgg_small(0).eval(), resnet20(0).eval()
    images = random(1, 3, 32, 32)
    with torch.inference_mode():
        assert vgg(images).shape == residual(images).shape == (1, 10)
    assert [layer.weight.shape[:2] for _, layer in binary_layers(vgg)] == [
        *((128, 128), (256, 128), (256, 256), (512, 256), (512, 512))
    ]
    kinds = [type(layer) for layer in vgg][:8]
    first = [nn.Conv2d, nn.BatchNorm2d, nn.Hardtanh, BinaryConv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.Hardtanh]
    assert kinds == [*first, BinaryConv2d]
    strides = [layer.stride for _, layer in binary_layers(residual) if isinstance(layer, BinaryConv2d)]
    assert strides == [(2, 2) if number in (6, 12) else (1, 1) for number in range(18)]
    again = vgg_small(0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in vgg.state_dict().items())


# ---- distillation ------------------------------------------------------------------------------------------


def test_a_twin_has_plain_layers_with_the_same_weights():
    network = nn.Sequential(resnet20(0, channels=(4, 8, 8)), BinaryLinear(10, 3, bias=True))
    twin = full_precision_twin(network)
    assert not list(binary_layers(twin)) and len(list(binary_layers(network))) == 19
    values = twin.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())
    images = random(1, 3, 32, 32)
    layer = BinaryConv2d(3, 4, 3, stride=2, padding=1, dilation=2, bias=True)
    plain = full_precision_twin(nn.Sequential(layer))
    expected = functional.conv2d(images, layer.weight, layer.bias, 2, 1, 2)
    assert torch.equal(plain(images), expected)


def test_equal_representations_lose_nothing():
    here = [random(4, 8, 6, 6).requires_grad_(), random(4, 32, seed=1).requires_grad_()]
    scaled = [3 * here[0].detach(), here[1].detach()]  # only where the energy is counts, not how much
    loss = representation_loss(here, scaled)
    assert loss.item() < 1e-6
    exact = representation_loss(here, [each.detach() for each in here])
    exact.backward()
    assert exact.item() == 0
    assert all(each.grad is not None and not each.grad.any() for each in here)
    other = [random(4, 8, 6, 6, seed=5), random(4, 32, seed=6)]
    assert 0 < representation_loss(here, other).item() <= 2 * math.sqrt(2)
    assert attention(torch.zeros(2, 3, 4, 4)).tolist() == torch.zeros(2, 16).tolist()
    for mine, others in ((here, here[:1]), ([], [])):
        with pytest.raises(InputError, match=f"{len(mine)} and {len(others)} representations to compare"):
            representation_loss(mine, others)


def test_what_is_compared_are_the_activations_before_they_become_signs():
    student = recipe.network(0, STYLE, widths=(8, 8, 8))
    teacher = full_precision_twin(recipe.network(1, STYLE, widths=(8, 8, 8)))
    images, labels = random(4, 1, 8, 8), torch.arange(4)
    with recorded(student, ["conv2", "conv3"]) as found:
        student(images)
    assert torch.equal(found[0], student[:3](images)) and [len(each) for each in found] == [4, 4]
    plain, weighted = (Distillation(teacher, weight=weight)(student, images, labels) for weight in (0, 10))
    with recorded(teacher, ["conv2", "conv3"]) as wanted:
        teacher(images)
    expected = 10 * representation_loss(found, wanted).item()
    assert (weighted - plain).item() == pytest.approx(expected, rel=1e-4)
    weighted.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters()) and not teacher.training
    assert not any(layer._forward_pre_hooks for layer in itertools.chain(student, teacher))


# ---- training ----------------------------------------------------------------------------------------------


def test_a_binary_training_that_stopped_goes_on_as_if_it_had_not(few, tmp_path: Path):
    teacher = full_precision_twin(recipe.network(3, STYLE, widths=(8, 8, 8)))
    train(teacher, *few, dataclasses.replace(OPTIONS, epochs=1))

    def run(network: nn.Module, file: Path | None = None, augment=shift_pixels) -> list[float]:
        return train_binary(network, *few, OPTIONS, teacher=teacher, augment=augment, checkpoint=file)

    whole, parts = (recipe.network(3, STYLE, widths=(8, 8, 8)) for _ in range(2))
    losses = run(whole)
    file, calls = tmp_path / "run.pt", 0

    def stops(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 25:  # in the third epoch of ten batches each
            raise KeyboardInterrupt
        return shift_pixels(batch, generator)

    with pytest.raises(KeyboardInterrupt):
        run(parts, file, stops)
    parts = recipe.network(99, STYLE, widths=(8, 8, 8))
    assert run(parts, file) == losses
    assert all(torch.equal(parts.state_dict()[name], value) for name, value in whole.state_dict().items())
    assert all(layer.surrogate.progress == 0.75 for _, layer in binary_layers(parts))
    with pytest.raises(InputError, match="of a training with other layers; delete"):
        run(recipe.network(3, BinaryStyle(), widths=(8, 8, 8)), file)
    with pytest.raises(InputError, match="of a training with other teacher, distillation; delete"):
        train_binary(whole, *few, OPTIONS, checkpoint=file)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_short_training_improves(name, digits):
    network = recipe.network(0, VARIANTS[name].style, widths=(16, 16, 16)).eval()
    before = accuracy(network, digits.test_images, digits.test_labels)
    teacher = full_precision_twin(network) if VARIANTS[name].distillation else None
    options = dataclasses.replace(OPTIONS, epochs=3)
    losses = train_binary(network, digits.train_images, digits.train_labels, options, teacher=teacher)
    assert losses[-1] < losses[0] and not network.training
    assert accuracy(network, digits.test_images, digits.test_labels) > max(0.7, before)
    for _, layer in binary_layers(network):
        assert binary_weight(layer.weight).abs().flatten(1).unique(dim=1).shape[1] == 1


def test_parts_are_compared_at_equal_length(few):
    images, labels = few
    small = data.Digits(images, labels, images[:64], labels[:64])
    settings = dataclasses.replace(recipe.COMPARED, widths=(8, 8))
    found = compare_parts(small, [0, 1], 2, recipe=settings)
    assert list(found) == ["STE", "IMB", "IR-Net", "IMB + DTE", "DIR-Net"]
    for outcome in found.values():
        assert len(outcome.accuracy.values) == len(outcome.moved.values) == len(outcome.loss.values) == 2
        assert outcome.accuracy.mean == pytest.approx(sum(outcome.accuracy.values) / 2)
        difference = outcome.loss.values[0] - outcome.loss.values[1]
        assert outcome.loss.spread == pytest.approx(abs(difference) / math.sqrt(2))
    again = compare_parts(small, [1], 2, variants={"one": VARIANTS["IR-Net"]}, recipe=settings)["one"]
    assert again.loss.values == found["IR-Net"].loss.values[1:] and again.loss.spread == 0
    assert recipe.moved(images[:2]).shape == (18, 1, 8, 8)
    assert torch.equal(recipe.moved(images)[4 * 320 : 5 * 320], images)


# ---- the network to be compiled ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(digits) -> nn.Sequential:
    short = recipe.Recipe(
        widths=(32, 32, 32),
        binary=dataclasses.replace(recipe.COMPILED.binary, epochs=6),
        teacher=dataclasses.replace(recipe.COMPILED.teacher, epochs=2),
    )
    return binary_trained(digits, 0, recipe=short)


def test_the_digits_are_read(classifier, digits):
    assert accuracy(classifier, digits.test_images, digits.test_labels) >= 0.94
    kinds = (nn.Conv2d, BinaryConv2d, nn.BatchNorm2d, nn.Hardtanh, nn.MaxPool2d, nn.AvgPool2d)
    assert {type(layer) for layer in classifier} == {*kinds, nn.Flatten, nn.Linear}
    for _, layer in binary_layers(classifier):
        assert layer.weight.shape[0] % 8 == layer.weight.shape[1] % 8 == 0


def test_the_network_is_exported_with_plain_comparisons(classifier, digits):
    images = digits.test_images[:8]
    exported = torch.export.export(classifier, (images,))
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.ge.Scalar") == 4 and all(target.startswith("aten.") for target in targets)
    assert sum(target.startswith("aten.where") for target in targets) >= 4
    assert "aten.conv2d.default" in targets
    assert torch.equal(exported.module()(images), classifier(images))


def test_a_network_needs_a_binary_layer():
    with pytest.raises(InputError, match=r"widths must be of two convolutions at least, not \(8,\)"):
        recipe.network(0, STYLE, widths=(8,))


# ---- size --------------------------------------------------------------------------------------------------


def test_resnet18_is_eleven_times_smaller():
    found = resnet18_storage()
    assert found.weights == 11_678_912 and len(found.layers) == 21
    binary = [layer for layer in found.layers if layer.bits == 1]
    assert len(binary) == 16 and sum(layer.weights for layer in binary) == 10_985_472
    assert found.ratio == pytest.approx(11.265, abs=1e-3)
    before, after = found.megabytes  # DIR-Net: 46.77 and 4.21 (4.20 without scales), 11.1 times
    assert before == pytest.approx(46.77, abs=0.02) and after == pytest.approx(4.20, abs=0.02)
    assert before / after == pytest.approx(11.1, abs=0.07)


@pytest.mark.parametrize(
    ("bits", "ratio"),
    [
        ({"first": 8, "last": 8, "shortcuts": 8}, 22.605),
        ({"shortcuts": 1}, 13.423),
        ({"last": 8}, 17.892),
    ],
)
def test_what_makes_resnet18_smaller_still(bits, ratio):
    assert resnet18_storage(**bits).ratio == pytest.approx(ratio, abs=1e-3)


def test_any_network_can_be_counted():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), BinaryConv2d(8, 8, 1), nn.Linear(8, 2))
    found = storage(network, lambda _, layer: 1 if isinstance(layer, BinaryConv2d) else 8)
    assert [(layer.name, layer.weights, layer.bits) for layer in found.layers] == [
        *(("0", 72, 8), ("2", 64, 1), ("3", 16, 8))
    ]
    assert found.others == 8 + 16 + 2 and found.weight_bits == 72 * 8 + 64 + 16 * 8
    assert found.ratio == pytest.approx(152 * 32 / 768)
