"""The digits' data and training, and `popshift demo` from end to end on the smallest configuration."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from popshift.firmware_py.program import Program
from popshift.gen import demo
from popshift.gen.cli.main import app
from popshift.gen.compress import smartdeal
from popshift.gen.execution import Level
from popshift.gen.frontend.float_graph import evaluate
from popshift.gen.report.cycles import counted_layers
from popshift.gen.report.demo import demo_page, write_report
from popshift.gen.report.page import render
from popshift.gen.steps import Steps
from popshift.gen.train import digits, trainer
from popshift.gen.train.binary import full_precision_twin
from popshift.gen.train.binary.blocks import BinaryStyle
from popshift.gen.train.binary.digits import network
from popshift.hw.config import load_config
from popshift.hw.errors import EXIT_BAD_INPUT, InputError, ModelError
from popshift.hw.isa import CYCLE_CAUSES, Counter

RTL_IMAGES = 6


@pytest.fixture(scope="module")
def found() -> demo.Demo:
    return demo.run(load_config("tiny"), images=RTL_IMAGES)


# ---- data and training -------------------------------------------------------------------------------------


def test_split_is_fixed_and_keeps_every_digit_in_its_share():
    data = digits.load()
    assert len(data.test_labels) == 360 and len(data.train_labels) == 1437
    assert data.test_images.shape == (360, 1, 8, 8) and data.test_images.dtype == torch.float32
    assert float(data.train_images.min()) >= 0 and float(data.train_images.max()) == 1
    whole, test = (torch.bincount(labels).numpy() for labels in (data.train_labels, data.test_labels))
    assert np.abs(test - 0.2 * (whole + test)).max() < 1
    assert torch.equal(data.test_images, digits.load().test_images)


def test_training_repeats_itself_and_leaves_global_state_alone():
    data = digits.load()
    images, labels = data.train_images[:200], data.train_labels[:200]
    options = trainer.TrainingOptions(epochs=2, seed=7)

    def weights(seed: int, options: trainer.TrainingOptions) -> torch.Tensor:
        network = digits.network(seed)
        losses = trainer.train(network, images, labels, options, augment=trainer.shift_pixels)
        assert losses[1] < losses[0] and not network.training
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = weights(7, options)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads
    torch.rand(5)
    assert torch.equal(weights(7, options), first)
    assert not torch.equal(weights(7, dataclasses.replace(options, seed=8)), first)
    assert not torch.equal(weights(8, options), first)


def test_training_needs_a_label_for_each_image():
    with pytest.raises(
        InputError, match=r"^training: 3 images and 2 labels given; give one label per image$"
    ):
        trainer.train(
            digits.network(0),
            torch.zeros(3, 1, 8, 8),
            torch.zeros(2).long(),
            trainer.TrainingOptions(epochs=1),
        )


def test_shifted_images_are_the_images_moved_by_at_most_a_pixel():
    images = torch.rand(200, 2, 5, 4)
    shifted = trainer.shift_pixels(images, torch.Generator().manual_seed(3))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    moves = [(y, x) for y in range(3) for x in range(3)]
    candidates = torch.stack([padded[:, :, y : y + 5, x : x + 4] for y, x in moves])
    same = (candidates == shifted).flatten(2).all(2)
    assert (same.sum(0) == 1).all() and same.any(1).all(), "each image moved one way, every way taken"


# ---- the demo ----------------------------------------------------------------------------------------------


def test_network_is_accurate_in_float_and_in_int8(found: demo.Demo):
    assert found.float_accuracy >= 0.975
    assert found.accuracy >= 0.96
    assert abs(found.float_accuracy - found.accuracy) <= 0.01


def test_every_integer_is_compared_and_none_differs(found: demo.Demo):
    graph = found.compiled.graph
    per_image = sum(int(np.prod(graph.tensors[operator.output].shape)) for operator in graph.operators)
    assert [(check.level, check.images, check.numbers) for check in found.checks] == [
        (Level.ISA, 360, 360 * per_image),
        (Level.RTL, demo.PROFILED_IMAGES, demo.PROFILED_IMAGES * per_image),
        (Level.RTL, RTL_IMAGES, RTL_IMAGES * digits.CLASSES),
    ]
    assert found.mismatches == 0 and not any(check.first for check in found.checks)


def test_cycles_are_counted_by_the_hardware_and_predicted(found: demo.Demo):
    layers = counted_layers(found.compiled.program, found.profile)
    assert sum(layer.cycles for layer in layers) == found.cycles
    for layer in layers:
        assert abs(layer.error) <= 0.02, layer
        assert layer.causes is not None and sum(layer.causes) == layer.cycles
        assert len(layer.causes) == len(CYCLE_CAUSES)
    assert found.utilisation == found.macs / (found.cycles * 16)
    assert found.macs == 9 * 16 * 64 + 9 * 16 * 32 * 64 + 9 * 32 * 32 * 16 + 128 * 10
    assert found.profile.counters is not None and found.profile.counters[Counter.LINK_ERRORS] == 0


def test_json_has_what_the_issue_names(found: demo.Demo):
    values = json.loads(json.dumps(found.to_dict()))
    assert values["images_isa"] == 360 and values["images_rtl"] == RTL_IMAGES and values["mismatches"] == 0
    assert values["cycles_per_image"] == found.cycles > 1000
    assert abs(values["predicted_cycles_per_image"] - found.cycles) <= 0.02 * found.cycles
    assert 0.5 < values["utilisation"] < 1 and values["seconds"] > 0
    assert values["config"] == "tiny" and values["seed"] == 0 and "torch" in values["tools"]


def test_a_wrong_program_is_found_out_at_both_levels(found: demo.Demo, monkeypatch: pytest.MonkeyPatch):
    """One bit of one bias on its way to the accelerator: the golden model knows nothing of it."""
    program, graph = found.compiled.program, found.compiled.graph
    wrong = dataclasses.replace(found.compiled, program=_with_flipped_bit(program))
    monkeypatch.setattr(demo, "compile_module", lambda *_, **__: wrong)
    monkeypatch.setattr(digits, "trained", lambda *_: digits.network(0).eval())
    broken = demo.run(load_config("tiny"), images=1)
    tensor = graph.operators[0].output
    assert [check.level for check in broken.checks if check.first.startswith(f"tensor {tensor}, ")] == [
        Level.ISA,
        Level.RTL,
    ]
    assert broken.mismatches > 360 and not demo_page(broken).good
    assert "are not the ones PyTorch computes" in render(demo_page(broken))


def _with_flipped_bit(program: Program) -> Program:
    first, *rest = program.segments
    parameters = first.parameters.copy()
    parameters[0, 1] ^= 0x80  # bit 15 of the bias of channel 0
    return dataclasses.replace(program, segments=[dataclasses.replace(first, parameters=parameters), *rest])


# ---- report and command ------------------------------------------------------------------------------------


def test_report_has_every_section(found: demo.Demo, tmp_path: Path):
    text = write_report(found, tmp_path / "new" / "folder").read_text(encoding="utf-8")
    for title in (
        "Every integer compared",
        "Accuracy",
        "Test images",
        "The network",
        "On the array",
        "Where the cycles went",
        "Activation memory",
        "What was done",
    ):
        assert f"<h2>{title}</h2>" in text
    assert not re.search(r"<script|<link|<iframe|https?:|url\(|@import", text), "nothing from outside"
    wrong = int((found.predictions != found.data.test_labels.numpy()).sum())
    assert text.count('<div class="wrong">') == wrong
    assert text.count("data:image/png;base64,") == max(48, wrong)
    for layer in found.compiled.program.layers:
        assert f"<td>{layer.name}</td>" in text
    assert f"{found.cycles:,}" in text and f"{found.config.digest:016x}" in text


@pytest.fixture
def command(found: demo.Demo, monkeypatch: pytest.MonkeyPatch):
    """Runs ``popshift demo`` with the job already done; ``calls`` keeps what the job was asked."""

    class Command:
        def __init__(self) -> None:
            self.calls: list[dict] = []

        def __call__(self, *arguments: str, result: demo.Demo = found):
            def run(config, **options):
                self.calls.append({"config": config.name, **options})
                return result

            monkeypatch.setattr(demo, "run", run)
            return CliRunner().invoke(app, ["demo", *arguments])

    return Command()


def test_command_writes_report_program_and_json(command, found: demo.Demo, tmp_path: Path):
    options = ["-c", "tiny", "--images", "6", "--seed", "3", "-o", str(tmp_path / "out"), "--json"]
    done = command(*options, "--save", str(tmp_path / "digits.pop"))
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert Path(values["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Program.load(values["program"]).to_bytes() == found.compiled.program.to_bytes()
    (call,) = command.calls
    assert (call["config"], call["images"], call["seed"]) == ("tiny", 6, 3)


def test_command_prints_tables(command, found: demo.Demo, tmp_path: Path):
    done = command("-o", str(tmp_path))
    assert done.exit_code == 0 and command.calls[0]["config"] == "a16" and command.calls[0]["images"] == 360
    assert f"{found.cycles:,}" in done.stdout and "Compared with PyTorch" in done.stdout


@pytest.fixture(scope="module")
def smartdeal_demo() -> demo.Demo:
    """On untrained weights: what is tested is the comparison, not the training."""
    config = load_config("tiny").replace(rebuild=True)

    def untrained(data, seed, options):
        dense = digits.network(seed).eval()
        return dense, smartdeal.decompose(dense, options)[0].eval()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "smartdeal_trained", untrained)
        return demo.run(config, images=1, form=demo.Form.SMARTDEAL)


@pytest.fixture(scope="module")
def binary_demo() -> demo.Demo:
    """On untrained weights, too."""
    binary = {"rows": 8, "cols": 8, "pe_kinds": ["mul", "xnor"], "activation_depth": 2048}
    config = load_config("tiny").replace(**binary, weight_depth=8192, parameter_depth=512)

    def untrained(data, seed):
        made = network(seed, BinaryStyle(), widths=(16, 16, 16)).train()
        made(data.train_images[:64])
        return full_precision_twin(made).eval(), made.eval()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "binary_and_twin", untrained)
        return demo.run(config, images=1, form=demo.Form.BINARY)


def test_binary_is_compared_with_int8(binary_demo: demo.Demo, command, tmp_path: Path):
    found, twin = binary_demo, binary_demo.twin
    assert twin is not None and found.mismatches == 0 and twin.storage.plain == ("conv1", "classify")
    executions = [layer.mapping.get("execution") for layer in found.compiled.program.layers]
    assert [way for way in executions if way] == ["dense", "xnor", "xnor", "dense"]
    values = found.to_dict()
    assert values["cycles_per_image"] < values["cycles_per_image_int8"]
    assert values["weight_bytes_per_image"] < values["weight_bytes_per_image_int8"]
    assert {"accuracy_binary", "accuracy_int8"} <= values.keys()
    text = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert "<h2>Weights: binary</h2>" in text and "popshift demo --binary -c tiny" in text
    done = command("--binary", "-o", str(tmp_path), result=found)
    assert done.exit_code == 0 and command.calls[-1]["config"] == "a16-xnor"
    assert "times smaller than fp32" in done.stdout
    both = command("--binary", "--smartdeal", "-o", str(tmp_path), result=found)
    assert both.exit_code == EXIT_BAD_INPUT


def test_binary_needs_hardware_for_it():
    with pytest.raises(ModelError, match="configuration tiny has no xnor PEs"):
        demo.run(load_config("tiny"), form=demo.Form.BINARY)


def test_smartdeal_is_compared_with_int8(smartdeal_demo: demo.Demo, command, tmp_path: Path):
    found, twin = smartdeal_demo, smartdeal_demo.twin
    assert twin is not None and found.mismatches == 0 and found.checks[-1].what.endswith("int8 weights")
    executions = {layer.name: layer.mapping.get("execution") for layer in found.compiled.program.layers}
    assert (executions["conv1"], executions["conv2"], executions["conv3"]) == ("dense", "rebuild", "rebuild")
    before, after = (
        sum(
            layer.cycles
            for layer in counted_layers(one.compiled.program, one.profile)
            if "conv2" in layer.name
        )
        for one in (twin, found)
    )
    assert before > 1.8 * after
    values = found.to_dict()
    assert values["weight_bytes_per_image"] < 0.4 * values["weight_bytes_per_image_int8"]
    assert values["compression"] > 8 and {"accuracy_smartdeal", "accuracy_int8"} <= values.keys()
    text = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert "<h2>Weights: SmartDeal</h2>" in text and "popshift demo --smartdeal -c tiny" in text
    assert "conv1: 1 input channel" in text and "conv2: 16 input channels" not in text, "no taps to draw"
    done = command("--smartdeal", "-o", str(tmp_path), result=found)
    assert done.exit_code == 0 and command.calls[-1]["config"] == "a16-rebuild"
    assert f"cycles an image: {found.cycles:,}, with int8 weights" in done.stdout


def test_smartdeal_needs_hardware_for_it():
    with pytest.raises(ModelError, match="configuration tiny has neither rebuild nor shift PEs"):
        demo.run(load_config("tiny"), form=demo.Form.SMARTDEAL)


def test_command_fails_if_an_integer_differs(command, found: demo.Demo, tmp_path: Path):
    bad = dataclasses.replace(
        found.checks[0], mismatches=1, first="tensor conv1, index (0, 1, 2, 3): 4 instead of 5"
    )
    done = command("-o", str(tmp_path), result=dataclasses.replace(found, checks=[bad, *found.checks[1:]]))
    assert done.exit_code == 1
    assert "first difference at isa: tensor conv1, index (0, 1, 2, 3): 4 instead of 5" in done.stdout


def test_command_refuses_bad_input_before_it_starts(command, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert command("--images", "0").exit_code == 2
    assert command("--images", "361").exit_code == 2
    done = command("-c", "a61")
    assert done.exit_code == 2 and "did you mean" in done.stderr
    done = command("-o", str(tmp_path / "file" / "below"))
    assert done.exit_code == 2 and "cannot make this folder" in done.stderr
    assert not command.calls


def test_steps_show_title_seconds_and_note(capsys: pytest.CaptureFixture[str]):
    steps = Steps(Console(width=100))
    with steps.step("count [sheep]") as step:
        step.note = "99 [%]"
    with pytest.raises(ZeroDivisionError), steps.step("fail"):
        _ = 1 / 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "count [sheep]" in lines[0] and "99 [%]" in lines[0]
    assert [step.title for step in steps.done] == ["count [sheep]"] and steps.seconds >= 0


def test_int8_network_answers_like_the_float_one(found: demo.Demo):
    float_graph = found.compiled.float_graph
    assert float_graph is not None
    scores = evaluate(float_graph, found.data.test_images)[float_graph.outputs[0]]
    assert (scores.flatten(1).argmax(1).numpy() == found.predictions).mean() >= 0.99
