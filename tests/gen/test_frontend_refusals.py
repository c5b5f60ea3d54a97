"""What the PyTorch front end refuses, with the words the user reads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from popshift.gen.frontend.torch_export import check_exported, check_module, from_exported, from_module
from popshift.hw.errors import ModelError


class Function(nn.Module):
    """A module whose forward is the given function of a convolved input."""

    def __init__(self, function: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(self.conv(x))


def message(module: nn.Module, example: object) -> str:
    with pytest.raises(ModelError) as caught:
        from_module(module, example)
    assert caught.value.exit_status == 2
    return str(caught.value)


IMAGE = torch.zeros(2, 1, 8, 8)
BEHIND = "place it directly behind a convolution or linear layer, or fold it into the next layer's weights"
LAYERS = {
    "transposed": (
        nn.ConvTranspose2d(4, 2, 2),
        "layer 1 (conv_transpose2d): transposed convolution is not supported; resize the input on the "
        "host, or use pooling and strides",
    ),
    "reflect": (
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
        "layer 1 (pad): padding mode 'reflect', only zeros are supported; pad with zeros",
    ),
    "pad-value": (
        nn.ConstantPad2d(1, 0.5),
        "layer 1 (pad): padding with 0.5, only zeros are supported; pad with zeros",
    ),
    "crop": (
        nn.ZeroPad2d((-1, 0, 0, 0)),
        "layer 1 (pad): it pads channels or features, or crops; pad height and width with zeros only",
    ),
    "sigmoid": (
        nn.Sigmoid(),
        "layer 1 (sigmoid): this activation is not supported: it is not piecewise linear between two "
        "limits; use ReLU, ReLU6 or Hardtanh instead",
    ),
    "layer-norm": (
        nn.GroupNorm(2, 4),
        "layer 1 (group_norm): normalising with statistics of the sample is not supported; use batch norm "
        "behind a convolution",
    ),
    "batch-statistics": (
        nn.BatchNorm2d(4, track_running_stats=False),
        "layer 1 (batch_norm): it normalises with the statistics of the batch; use "
        "track_running_stats=True and "
        "export in eval mode",
    ),
    "ceil-mode": (
        nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
        "layer 1 (avg_pool2d): ceil_mode=True divides the last windows by fewer pixels; use "
        "count_include_pad=False",
    ),
    "adaptive": (
        nn.AdaptiveAvgPool2d((3, 4)),
        "layer 1 (adaptive_avg_pool2d): an output of 3 x 4 from 6 x 6 needs windows of unequal size; "
        "choose an output "
        "size that divides the input's",
    ),
    "upsample": (
        nn.Upsample(scale_factor=2),
        "layer 1 (upsample_nearest2d): resizing is not supported by this version; resize the input on the "
        "host, or "
        "use pooling and strides",
    ),
    "linear-per-pixel": (
        nn.Linear(6, 2),
        "layer 1 (linear): it works on the last axis of (4, 6, 6), not on one vector per sample; flatten "
        "its input, "
        "or use a 1 x 1 convolution",
    ),
    "softmax-inside": (
        nn.Sequential(nn.Softmax(1), nn.Conv2d(4, 1, 1)),
        "layer 1.0 (softmax): the network goes on behind it; softmax runs on the host only; remove it, or "
        "end the "
        "network before it",
    ),
    "reshape": (
        nn.Sequential(nn.Flatten(), nn.Unflatten(1, (9, 4, 4)), nn.Conv2d(9, 1, 1)),
        "layer 1.2 (conv2d): its input is a tensor (4, 6, 6) reshaped to (9, 4, 4), which would move data "
        "between "
        "channels; give the network its input in the shape that this layer takes",
    ),
    "norm-after-relu": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
        f"layer 1.1 (batch_norm): batch norm follows the activation of 0; {BEHIND}",
    ),
    "norm-after-pool": (
        nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(4)),
        f"layer 1.1 (batch_norm): batch norm follows pooling 1.0, so there are no weights to fold it into; "
        f"{BEHIND}",
    ),
    "norm-after-flatten": (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(144)),
        "layer 1.1 (batch_norm): it has one factor per pixel of a flattened tensor (4, 6, 6); normalise "
        "before "
        "flattening, or behind the linear layer",
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layer_is_refused(case: str) -> None:
    layer, expected = LAYERS[case]
    assert message(nn.Sequential(nn.Conv2d(1, 4, 3), layer), IMAGE) == expected


FUNCTIONS = {
    "number": (
        lambda y: y + 1,
        "layer add (add): arithmetic on activations is not supported by this version; put constants into the "
        "neighbouring layer's weights, or prepare the input on the host",
    ),
    "constant": (
        lambda y: y / 2,
        "layer div (div): arithmetic on activations is not supported by this version; put constants into the "
        "neighbouring layer's weights, or prepare the input on the host",
    ),
    "concatenation": (
        lambda y: torch.cat([y, y], 1),
        "layer cat (cat): joining tensors is not supported by this version; use one branch",
    ),
    "permutation": (
        lambda y: y.permute(0, 2, 3, 1),
        "layer permute (permute): moving data between dimensions is not supported; train the network "
        "in the order that its layers take",
    ),
    "channel-mean": (
        lambda y: y.mean(1),
        "layer mean (mean): a mean over the batch or the channels; average over height and width only",
    ),
    "merged-batch": (
        lambda y: y.reshape(-1),
        "layer reshape (reshape): it merges the batch with other dimensions; keep the batch as the first "
        "dimension",
    ),
    "always-dropout": (
        lambda y: functional.dropout(y, 0.5),
        "layer dropout (dropout): it drops activations at random also in eval mode; pass "
        "training=self.training",
    ),
    "integers": (
        lambda y: y.to(torch.int32),
        "layer to (to): it converts activations to torch.int32; keep them in float32",
    ),
    "tensor-limits": (
        lambda y: torch.clamp(y, torch.tensor(0.0), torch.tensor(1.0)),
        "layer clamp (clamp): its limits are tensors; use numbers as limits",
    ),
    "computed-weights": (
        lambda y: functional.conv2d(y, y),
        "layer conv2d_1 (conv2d): its weight is computed from the input; use constant parameters",
    ),
    "unknown": (
        lambda y: torch.cumsum(y, 2),
        "layer cumsum (cumsum): this operator is not supported; remove it, or replace it with supported "
        "layers",
    ),
    "constant-output": (
        lambda y: torch.ones(2),
        "layer ones (output): it is not computed from the input by any layer; return the result of a layer",
    ),
    "no-output": (
        lambda y: None,
        "layer - (output): the module returns no tensor; return the result of a layer",
    ),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_function_is_refused(case: str) -> None:
    function, expected = FUNCTIONS[case]
    assert message(Function(function), IMAGE) == expected


def test_all_problems_are_named_at_once() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.PReLU(), nn.BatchNorm2d(4), nn.GELU())
    lines = message(module, IMAGE).splitlines()
    assert lines[0] == "3 operators of the network cannot run on the accelerator:"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  layer 1 (sigmoid)",
        "  layer 2 (prelu)",
        "  layer 4 (gelu)",
    ]
    verdicts = [(finding.layer, finding.supported) for finding in check_module(module, IMAGE)]
    assert verdicts == [("0", True), ("1", False), ("2", False), ("3", True), ("4", False)]


def test_layers_are_named_by_their_path() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.silu(self.act(x))

    names = [
        f.layer for f in check_module(nn.Sequential(nn.Conv2d(1, 2, 3), Block()), IMAGE) if not f.supported
    ]
    assert names == ["1.act", "1.silu"]


def test_norm_of_a_shared_tensor() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.conv(x)
            return x, self.norm(x)

    assert message(Net(), IMAGE) == (
        "layer norm (batch_norm): the output of conv is also used without the batch norm; let every "
        "reader take the "
        "normalised tensor"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with torch.no_grad():
        module.get_parameter("0.weight")[1, 0, 2, 2] = value
        module.get_parameter("1.bias")[0] = value
    assert message(module, IMAGE) == (
        "2 operators of the network cannot run on the accelerator:\n"
        "  layer 0 (conv2d): parameter 0.weight holds NaN or infinity in 1 of 18 places; train the "
        "network again, with "
        "a lower learning rate or clipped gradients\n"
        "  layer 1 (batch_norm): parameter 1.bias holds NaN or infinity in 1 of 2 places; train the "
        "network again, with "
        "a lower learning rate or clipped gradients"
    )


INPUTS = {
    "integers": (
        nn.Flatten(),
        torch.zeros(1, 4, dtype=torch.int64),
        "layer input (input): it is of type torch.int64; give a float32 tensor",
    ),
    "no-batch": (
        nn.Conv2d(1, 2, 3),
        torch.zeros(1, 8, 8),
        "layer conv2d (conv2d): its input has no batch dimension; add one to the example: "
        "example.unsqueeze(0)",
    ),
    "five-dimensional": (
        nn.Conv3d(1, 2, 3),
        torch.zeros(1, 1, 4, 4, 4),
        "layer input (input): it has shape (1, 1, 4, 4, 4); give (batch, channels, height, width), "
        "(batch, channels, "
        "length) or (batch, features)",
    ),
    "two-inputs": (
        nn.Bilinear(2, 2, 2),
        (torch.zeros(1, 2), torch.zeros(1, 2)),
        "layer input1, input2 (input): the network takes 2 inputs, this version needs exactly one; give "
        "it one input "
        "tensor",
    ),
    "wrong-shape": (
        nn.Conv2d(3, 2, 3),
        torch.zeros(1, 1, 8, 8),
        "the module does not run on an example of shape (1, 1, 8, 8) (Given groups=1, weight of size [2, "
        "3, 3, 3], "
        "expected input[1, 1, 8, 8] to have 3 channels, but got 1 channels instead); give an example the "
        "module "
        "accepts",
    ),
    "not-a-tensor": (
        nn.ReLU(),
        "image.png",
        "the example must be a torch.Tensor; give one input of the network, batch first",
    ),
    "returns-its-input": (
        nn.Flatten(),
        torch.zeros(1, 2, 2),
        "layer flatten (output): it is not computed from the input by any layer; return the result of a "
        "layer",
    ),
}


@pytest.mark.parametrize("case", INPUTS)
def test_input_is_refused(case: str) -> None:
    module, example, expected = INPUTS[case]
    assert message(module, example) == expected


def test_dynamic_image_size() -> None:
    size = torch.export.Dim("size", min=4, max=64)
    program = torch.export.export(nn.Conv2d(1, 2, 3), (IMAGE,), dynamic_shapes=({2: size},))
    with pytest.raises(ModelError) as caught:
        from_exported(program)
    assert str(caught.value).startswith("layer input (input): dimension 2 is dynamic (")
    assert str(caught.value).endswith("; export with fixed sizes; only the batch may be dynamic")


def test_control_flow_that_depends_on_data(capfd: pytest.CaptureFixture[str]) -> None:
    text = message(Function(lambda y: y if y.sum() > 0 else -y), IMAGE)
    assert text == "Function: its control flow depends on the data; compute the same for every input"
    assert capfd.readouterr() == ("", "")


def test_state_that_changes_with_every_call() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.fc(x)

    module = Counter()
    assert message(module, torch.zeros(1, 2)) == (
        "layer calls (buffer): the module changes it at every call; remove the state from forward"
    )
    assert module.get_buffer("calls").item() == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_module() -> None:
    scripted = torch.jit.trace_module(nn.ReLU(), {"forward": torch.zeros(1)})
    assert isinstance(scripted, nn.Module)
    assert message(scripted, torch.zeros(1, 2)) == (
        "a plain torch.nn.Module is needed, not TopLevelTracedModule; give the module itself"
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_decomposed_program() -> None:
    program = torch.export.export(nn.Conv2d(1, 2, 3), (IMAGE,)).run_decompositions()
    (finding,) = check_exported(program)
    assert str(finding) == (
        "layer convolution (convolution): the program was decomposed after its export; save it as "
        "torch.export.export "
        "returns it, without run_decompositions"
    )


def test_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with pytest.raises(ModelError, match="there is no such file; check the path"):
        from_exported(path)
    path.write_bytes(b"not a zip archive")
    with pytest.raises(
        ModelError, match=r"model\.pt2: not an exported program \(.*\); write it with torch\.export\.save"
    ):
        from_exported(path)
