"""Model files as cases of the bench."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.tflite_models import random_model, samples

from popshift.gen.bench import measure, tables
from popshift.gen.bench.cases import choose
from popshift.gen.compilation import compile_model
from popshift.gen.execution import Level
from popshift.gen.frontend.tflite import from_tflite
from popshift.hw.config import load_config
from popshift.hw.errors import InputError

TINY = load_config("tiny")


def test_a_model_file_is_a_case_with_what_lies_beside_it(tmp_path):
    """Outputs of somebody else's: here those of the golden model, two of them changed."""
    path = tmp_path / "net.tflite"
    path.write_bytes(random_model("convolution", 1))
    compact = TINY.replace(requantise="exact", activation_depth=4096, weight_depth=4096)
    (record,) = measure.run_cases(choose([str(path)]), compact, level=Level.ISA)
    assert (record.case, record.images, record.reference_mismatches) == ("net.tflite", 32, None)
    x = samples(path.read_bytes(), 1)
    outputs = from_tflite(path)
    compiled = compile_model(str(path), compact)
    wanted = compiled.run(x, "isa").outputs[outputs.graph.outputs[0]]
    wanted = np.moveaxis(wanted, 1, 3).copy()
    wanted.ravel()[[3, 5]] ^= 1
    np.savez(tmp_path / "data.npz", x=x, tflm=wanted)
    (record,) = measure.run_cases(choose([str(path)]), compact, level=Level.ISA)
    assert (record.images, record.mismatches, record.reference_mismatches) == (len(x), 0, 2)
    assert record.accuracy is None
    assert "other than the reference" in tables.case_table([dataclasses.asdict(record)]).columns


X = np.zeros((4, 12), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": X[:0], "y": np.zeros(0, int)}, "it holds x, y, but no inputs x"),
        ({"tflm": X}, "it holds tflm, but no inputs x"),
        ({"x": X, "y": np.zeros(3, int)}, r"it holds 4 inputs x, but y has shape \(3,\)"),
        ({"x": X, "logits_net": np.zeros(())}, r"it holds 4 inputs x, but logits_net has shape \(\)"),
        (b"damaged", "not a NumPy file of numbers"),
    ],
    ids=["empty", "no inputs", "labels", "outputs", "damaged"],
)
def test_what_does_not_belong_together_is_told(tmp_path, arrays, told):
    path = tmp_path / "net.pt2"
    network = torch.nn.Linear(12, 4).eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 12),)), path)
    if isinstance(arrays, bytes):
        (tmp_path / "data.npz").write_bytes(arrays)
    else:
        np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=told) as refused:
        next(measure.run_cases(choose([str(path)]), TINY, level=Level.ISA))
    assert "data.npz" in str(refused.value)


def test_files_of_one_name_stay_apart(tmp_path):
    names = [str(tmp_path / folder / "net.TFLITE") for folder in "ab"]
    assert list(choose([*names, "conv64"])) == [*names, "conv64"]
    assert list(choose(names[:1])) == ["net.TFLITE"]


def test_a_float_model_is_calibrated_with_its_inputs_and_judged_by_classes(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)).eval()
    x = torch.randint(0, 256, (200, 3, 2, 2), dtype=torch.uint8)
    scores = network(x / 255).detach().numpy()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(network, ((x / 255)[:1],)), path)
    labels = scores.argmax(1)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=labels, logits_net=scores)
    (record,) = measure.run_cases(choose([str(path)]), TINY, level=Level.ISA)
    assert record.accuracy is not None and record.accuracy > 0.95
    assert record.compression == 4
    assert record.reference_mismatches == round(200 * (1 - record.accuracy))
    np.savez(tmp_path / "data.npz", x=x.numpy()[:, :2])
    with pytest.raises(InputError, match=r"data.npz has inputs of \(2, 2, 2\), the network takes"):
        next(measure.run_cases(choose([str(path)]), TINY, level=Level.ISA))
