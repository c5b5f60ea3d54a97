"""Checkpoints, and the two ways to train SmartDeal weights."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from popshift.gen.compress.smartdeal import SmartDealConfig, compression, decompose, decomposition
from popshift.gen.compress.smartdeal.layers import smartdeal_weights
from popshift.gen.train import digits
from popshift.gen.train.bucket_switch import BucketSwitch, BucketSwitchOptions, others, switched
from popshift.gen.train.smartdeal import project_and_retrain, retrain
from popshift.gen.train.trainer import TrainingOptions, accuracy, train
from popshift.hw.errors import InputError

OPTIONS = TrainingOptions(epochs=4, batch=32, learning_rate=1e-2, weight_decay=0, seed=3)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
        )


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of four noisy patterns, and which one each shows."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (256,), generator=generator)
    patterns = torch.randn(4, 1, 6, 6, generator=generator)
    return patterns[labels] + 0.8 * torch.randn(256, 1, 6, 6, generator=generator), labels


@pytest.fixture(scope="module")
def trained(data) -> nn.Sequential:
    model = network()
    train(model, *data, dataclasses.replace(OPTIONS, epochs=6))
    return model


def noisy(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return batch + 0.1 * torch.randn(batch.shape, generator=generator)


# ---- checkpoints -------------------------------------------------------------------------------------------


def test_a_training_that_stopped_goes_on_as_if_it_had_not(data, tmp_path: Path):
    whole, parts = network(), network()
    losses = train(whole, *data, OPTIONS, augment=noisy)
    file = tmp_path / "run.pt"
    calls = 0

    def stops(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 20:  # in the third epoch of eight batches each
            raise KeyboardInterrupt
        return noisy(batch, generator)

    with pytest.raises(KeyboardInterrupt):
        train(parts, *data, OPTIONS, augment=stops, checkpoint=file)
    parts = network(seed=99)  # its weights come from the checkpoint
    assert train(parts, *data, OPTIONS, augment=noisy, checkpoint=file) == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], value), name
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    again = network(seed=5)
    assert train(again, *data, OPTIONS, checkpoint=file) == losses, "nothing is left to do"


def test_checkpoints_of_something_else_are_refused(data, tmp_path: Path):
    file = tmp_path / "run.pt"
    train(network(), *data, dataclasses.replace(OPTIONS, epochs=1), checkpoint=file)
    with pytest.raises(
        InputError, match=r"run\.pt: the checkpoint is of a training with other epochs; delete"
    ):
        train(network(), *data, OPTIONS, checkpoint=file)
    with pytest.raises(InputError, match="the checkpoint is of another network; delete it"):
        train(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 4)),
            *data,
            dataclasses.replace(OPTIONS, epochs=1),
            checkpoint=file,
        )
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="not a checkpoint, or damaged; delete it"):
        train(network(), *data, OPTIONS, checkpoint=file)
    missing = tmp_path / "nowhere" / "run.pt"
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*; choose a folder"):
        train(network(), *data, OPTIONS, checkpoint=missing)


# ---- SmartDeal ---------------------------------------------------------------------------------------------

CONFIG = SmartDealConfig(row_sparsity=0.6, group=4)


SWITCHING = BucketSwitchOptions(learning_rate=1e-2, threshold=1e-3, votes=2)


@pytest.mark.parametrize(
    "method",
    [retrain, project_and_retrain, functools.partial(retrain, bucket_switch=SWITCHING)],
    ids=["form", "project", "bucket-switch"],
)
def test_training_wins_back_what_the_decomposition_lost(method, data, trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    plain, _ = decompose(trained, CONFIG)
    result = method(trained, *data, CONFIG, OPTIONS)
    lost, won = accuracy(plain.eval(), *data), accuracy(result, *data)
    assert lost < accuracy(trained, *data) - 0.03 and won > lost + 0.03
    for name in ("0", "4"):
        found = decomposition(result.get_submodule(name))
        assert set(found.coefficients.abs().unique().tolist()) <= {0, 1, 2, 4, 8, 16, 32, 64}
        assert found.zero_rows.float().mean() >= 0.6
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_a_decomposed_training_can_be_resumed(data, trained, tmp_path: Path):
    for switch in (None, SWITCHING):
        file = tmp_path / f"{switch}.pt"
        run = functools.partial(retrain, trained, *data, CONFIG, OPTIONS, bucket_switch=switch)
        whole = run().state_dict()
        for found in (run(checkpoint=file), run(checkpoint=file)):
            assert all(torch.equal(value, whole[name]) for name, value in found.state_dict().items())


def test_projections_can_be_resumed(data, trained, tmp_path: Path):
    file = tmp_path / "run.pt"
    epochs = 0

    def counted(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal epochs
        epochs += len(batch) == len(data[0])
        return noisy(batch, generator)

    def stops(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if epochs == 2:
            raise KeyboardInterrupt
        return counted(batch, generator)

    options = dataclasses.replace(OPTIONS, batch=len(data[0]), learning_rate=3e-2)  # a batch is an epoch
    run = functools.partial(project_and_retrain, trained, *data, CONFIG, options)
    whole = run(augment=noisy).state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(augment=stops, checkpoint=file)
    resumed = run(augment=counted, checkpoint=file)
    assert epochs == 4, "the first two were not done again"
    assert all(torch.equal(value, whole[name]) for name, value in resumed.state_dict().items())
    again = run(augment=counted, checkpoint=file)
    assert epochs == 4 and not again.training
    assert all(torch.equal(value, whole[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("method", [retrain, project_and_retrain])
def test_checkpoints_of_another_decomposition_are_refused(method, data, trained, tmp_path: Path):
    """Their coefficients have the same shapes and stand for other weights."""
    file, options = tmp_path / "run.pt", dataclasses.replace(OPTIONS, epochs=1)
    method(trained, *data, CONFIG, options, checkpoint=file)
    other = dataclasses.replace(CONFIG, banks=4)
    with pytest.raises(InputError, match="the checkpoint is of a training with other smartdeal; delete"):
        method(trained, *data, other, options, checkpoint=file)


def test_switched_levels_are_neighbours():
    levels = [-64, -2, -1, 0, 1, 2, 64]
    up, down = [-32, -1, 0, 1, 2, 4, 64], [-64, -4, -2, -1, 0, 1, 32]
    level = torch.tensor(levels).float()
    for direction, wanted in ((1, up), (-1, down), (0, levels)):
        assert switched(level, torch.full_like(level, direction)).tolist() == wanted


def test_exponents_move_once_enough_steps_agree(trained):
    """With a gradient of our own: all coefficients shall grow, those that are pruned may not."""
    result, _ = decompose(trained, CONFIG)
    (form, carrier), *_ = smartdeal_weights(result)
    options = BucketSwitchOptions(learning_rate=0.1, momentum=0, threshold=0.05, votes=3)
    optimiser = BucketSwitch(result, options)
    before = decomposition(result.get_submodule("0")).coefficients.float()
    wanted = switched(before, form.kept.float())
    for step, gradient in enumerate((-1, -1, -0.4, -1)):  # 0.04 is below the threshold
        carrier.grad = torch.full_like(carrier, gradient)
        optimiser.step()
        now = decomposition(result.get_submodule("0")).coefficients.float()
        assert torch.equal(now, before if step < 3 else wanted)
    assert {id(p) for p in others(result)}.isdisjoint(id(c) for _, c in smartdeal_weights(result))


# ---- digits ------------------------------------------------------------------------------------------------


def test_digits_are_trained_in_smartdeal_form(monkeypatch):
    monkeypatch.setattr(digits, "_DENSE_EPOCHS", 3)
    monkeypatch.setattr(digits, "_SMARTDEAL_EPOCHS", 2)
    images = digits.load()
    config = SmartDealConfig(row_sparsity=0.2, skip=digits.TOO_SMALL)
    dense, result = digits.smartdeal_trained(images, 4, config)
    wanted = digits.trained(images, 4, epochs=3).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in dense.state_dict().items())
    found = compression(result)
    assert found.ratio > 8.5 and found.plain == {"conv1": 144} and not result.training
    before, after = (accuracy(each, images.test_images, images.test_labels) for each in (dense, result))
    assert before > 0.8 and after > before - 0.05
