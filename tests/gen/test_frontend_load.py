"""Models named on the command line: files by suffix, and module:function."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from popshift.gen.frontend import FRONTENDS, check_model, load_model
from popshift.gen.frontend.float_graph import FloatConvolution
from popshift.hw.errors import ModelError

SOURCE = """
import torch
from torch import nn

def two():
    return nn.Linear(4, 2), torch.zeros(1, 4)

def three():
    return nn.Linear(4, 2), torch.zeros(1, 4), torch.ones(5, 4)

def bad():
    return nn.Sequential(nn.Linear(4, 2), nn.Tanh()), torch.zeros(1, 4)

def fails():
    raise RuntimeError("no data")

def one():
    return nn.Linear(4, 2)

number = 3
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the current folder."""
    name = f"network_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_exported_file(tmp_path: Path) -> None:
    linear = nn.Linear(4, 2)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(linear, (torch.zeros(1, 4),)), path)
    model = load_model(str(path))
    (operator,) = model.graph.operators
    assert isinstance(operator, FloatConvolution) and model.module is None and model.calibration is None
    np.testing.assert_array_equal(operator.weight.reshape(2, 4), linear.weight.detach().double().numpy())
    assert [finding.operator for finding in check_model(str(path))] == ["linear"]


def test_function(network: str) -> None:
    model = load_model(f"{network}:two")
    assert model.graph.inputs == ["input"] and model.calibration is None
    assert isinstance(model.module, nn.Linear)
    calibration = load_model(f"{network}:three").calibration
    assert calibration is not None and calibration.shape == (5, 4)
    assert [finding.supported for finding in check_model(f"{network}:bad")] == [True, False]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}:none", "{}:none: module {} has no none; check the function's name"),
        ("{}:number", "{}:number: number is not a function; name a function without parameters"),
        (
            "{}:fails",
            "{}:fails: the function failed (RuntimeError: no data); correct it; it is called without "
            "arguments",
        ),
        (
            "{}:one",
            "{}:one: the function returned Linear; return (module, example) or (module, example, "
            "calibration)",
        ),
        ("absent_{}:f", "absent_{}:f: No module named 'absent_{}'; check the name and the current folder"),
        ("model.tflow", "model.tflow: unknown kind of model; give .pt2, .onnx, .tflite or module:function"),
        (
            "model",
            "model: not a model file and not module:function; give .pt2, .onnx, .tflite or module:function",
        ),
        ("missing.pt2", "missing.pt2: there is no such file; check the path"),
    ],
)
def test_refusal(network: str, spec: str, expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(spec.replace("{}", network))
    assert str(caught.value) == expected.replace("{}", network)


def test_front_ends_are_chosen_by_suffix(tmp_path: Path) -> None:
    assert list(FRONTENDS) == [".pt2", ".onnx", ".tflite"]
    path = tmp_path / "NET.PT2"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="not an exported program"):
        load_model(str(path))
