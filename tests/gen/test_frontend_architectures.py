"""The float graph computes what the module computes, on small architectures in every style PyTorch allows."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from popshift.gen.frontend.float_graph import FloatConvolution, FloatPool, evaluate
from popshift.gen.frontend.torch_export import check_module, from_exported, from_module
from popshift.gen.graph import Pooling, Window


class FunctionalNet(nn.Module):
    """Everything as functions: asymmetric padding, views, a mean, in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), dilation=(1, 2))
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(x, (1, 0, 2, 1))
        x = functional.relu_(self.norm(self.first(x)))
        x = functional.hardtanh(self.second(functional.pad(x, (0, 1))), -0.5, 0.75)
        return self.head(functional.dropout(x.mean(dim=(2, 3)), 0.3, self.training))


class Branches(nn.Module):
    """One tensor with three readers, one of them the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.left, self.right = nn.Conv2d(3, 2, 1), nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        stem = self.stem(x)
        return torch.relu(self.left(stem)), self.right(stem.flatten(1)), stem, stem.relu()


class InPlace(nn.Module):
    """relu_ changes what the second reader, and a view made before it, see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        flat = x.view(x.shape[0], -1)
        x.relu_()
        return self.head(flat)


class Padding(nn.Module):
    """Zero padding in front of operators that do not pad with zeros themselves."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        padded = functional.pad(x, (2, 1, 0, 3))
        return (
            functional.max_pool2d(padded, 2),
            padded,
            functional.avg_pool2d(padded, 3, 2, padding=1),
            functional.relu(padded).mean((2, 3)),
            padded.clamp(0.25, 0.5),
            functional.adaptive_avg_pool2d(functional.pad(x, (0, 1)), (4, 3)),
        )


class PartialWindows(nn.Module):
    """Poolings whose windows reach beyond the image."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shifted = functional.pad(x, (1, 0, 0, 2))
        return (
            functional.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False),
            functional.avg_pool2d(shifted, (2, 4), (2, 3), padding=(1, 2), count_include_pad=False),
            functional.avg_pool2d(x, 4, 3, ceil_mode=True),
            functional.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True, count_include_pad=False),
            functional.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True, divisor_override=5),
            functional.avg_pool2d(shifted, 1, 3, ceil_mode=True, divisor_override=5),
            functional.avg_pool2d(functional.pad(x, (0, 3)), 2, 5, ceil_mode=True, divisor_override=2),
            functional.max_pool2d(x, (4, 3), (3, 2), ceil_mode=True),
            functional.max_pool2d(x, 3, 2, padding=1, dilation=2, ceil_mode=True),
            functional.max_pool2d(x, 2, 4, padding=1, ceil_mode=True),
        )


class Shared(nn.Module):
    """The same layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.clamp(self.conv(x), max=0.5))


class Squeezed(nn.Module):
    """Global poolings that keep or drop dimensions; means over one axis."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
            x.mean((-1, -2), keepdim=True),
            x.mean(2),
            x.mean(3).unsqueeze(2),
            functional.adaptive_max_pool2d(x, (2, 1)).reshape(x.shape[0], -1),
            functional.avg_pool2d(x, 2, divisor_override=3),
        )


def trained(module: nn.Module, *shape: int) -> nn.Module:
    """Some batches in training mode, so that batch norm has statistics worth folding."""
    for _ in range(3):
        module(torch.randn(8, *shape) * 2 + 1)
    return module


CASES = {
    "conv-bn-relu": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU()),
        (3, 7, 6),
    ),
    "in-place-sequential": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        (1, 8, 8),
    ),
    "relu6-maxpool-padding": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 5, stride=(1, 3)), nn.ReLU6(), nn.MaxPool2d(3, 2, padding=1)),
        (2, 12, 17),
    ),
    "maxpool-dilation-then-relu": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2, 1, dilation=(2, 3)), nn.ReLU()),
        (1, 8, 8),
    ),
    "same-even-kernel": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, (4, 2), padding="same", dilation=(1, 3)), nn.Hardtanh()),
        (2, 9, 9),
    ),
    "valid": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding="valid"), nn.Identity()), (2, 5, 5)),
    "zero-pad-layer": (lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(2, 3, 3)), (2, 5, 5)),
    "avgpool-linear-bn1d": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.AvgPool2d(2, padding=1),
            nn.Flatten(),
            nn.Linear(3 * 16, 7),
            nn.BatchNorm1d(7),
            nn.ReLU(),
            nn.Linear(7, 3),
        ),
        (1, 8, 8),
    ),
    "mlp-on-image": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(2 * 15, 6), nn.ReLU(), nn.Linear(6, 2)),
        (2, 3, 5),
    ),
    "mlp-on-vector": (
        lambda: nn.Sequential(nn.Linear(9, 6), nn.ReLU6(), nn.Dropout(0.5), nn.Linear(6, 2)),
        (9,),
    ),
    "standalone-relu": (lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3)), (1, 5, 5)),
    "sequence": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 5, stride=2, padding=2, dilation=1),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.AvgPool1d(2, 1, padding=1),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        (3, 20),
    ),
    "weight-norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,)),
    "functional": (FunctionalNet, (2, 9, 8)),
    "branches": (Branches, (1, 8, 8)),
    "in-place-view": (InPlace, (1, 8, 8)),
    "padding": (Padding, (2, 8, 8)),
    "partial-windows": (PartialWindows, (2, 9, 8)),
    "shared": (Shared, (2, 6, 6)),
    "squeezed": (Squeezed, (3, 4, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same:UserWarning")
@pytest.mark.parametrize(
    ("case", "batch"),
    [(case, 1) for case in CASES] + [(case, 3) for case in ("functional", "squeezed", "sequence")],
)
def test_float_graph_equals_module(case: str, batch: int) -> None:
    torch.manual_seed(7)
    make, shape = CASES[case]
    module = trained(make(), *shape)
    graph = from_module(module, torch.randn(batch, *shape))
    assert module.training, "the user's module must stay as it was"
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = module.eval()(x)
    values = evaluate(graph, x.reshape(5, *graph.tensors[graph.inputs[0]].shape))
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    assert len(graph.outputs) == len(expected)
    for name, tensor in zip(graph.outputs, expected, strict=True):
        assert graph.dims[name] == tuple(tensor.shape[1:])
        torch.testing.assert_close(values[name].reshape(tensor.shape).float(), tensor, atol=1e-5, rtol=1e-5)
    for name, value in values.items():
        assert tuple(value.shape[1:]) == graph.tensors[name].shape


def test_batch_norm_and_activation_leave_one_operator() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2), nn.ReLU())
    (conv, pool) = from_module(module, torch.zeros(1, 1, 6, 6)).operators
    assert isinstance(conv, FloatConvolution) and (conv.low, conv.high) == (0, 6)
    assert isinstance(pool, FloatPool) and (pool.low, pool.high) == (0, math.inf)
    findings = check_module(module, torch.zeros(1, 1, 6, 6))
    assert [(f.layer, f.operator, f.reason) for f in findings] == [
        ("0", "conv2d", ""),
        ("1", "batch_norm", "folded into 0"),
        ("2", "hardtanh", "fused into 0"),
        ("3", "max_pool2d", ""),
        ("4", "relu", "fused into 3"),
    ]


def test_linear_kernel_covers_the_flattened_image() -> None:
    linear = nn.Linear(2 * 3 * 4, 5)
    graph = from_module(nn.Sequential(nn.Flatten(), linear), torch.zeros(1, 2, 3, 4))
    (operator,) = graph.operators
    assert isinstance(operator, FloatConvolution)
    assert operator.window == Window((3, 4))
    np.testing.assert_array_equal(operator.weight.reshape(5, 24), linear.weight.detach().double().numpy())
    assert graph.tensors[operator.output].shape == (5, 1, 1)


def test_successive_clamps_become_one() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(-3, 2), nn.ReLU(), nn.Hardtanh(-1, 1))
    (operator,) = from_module(module, torch.zeros(1, 2)).operators
    assert (operator.low, operator.high) == (0, 1)


def test_activation_of_a_shared_tensor_stays_apart() -> None:
    graph = from_module(Branches(), torch.zeros(1, 1, 8, 8))
    apart = graph.operators[-1]
    assert isinstance(apart, FloatPool) and apart.operation is Pooling.MAX and apart.window == Window((1, 1))
    assert (apart.input, apart.low) == ("stem", 0)


def test_softmax_at_the_end_is_left_to_the_host() -> None:
    linear = nn.Linear(4, 3)
    graph = from_module(nn.Sequential(linear, nn.LogSoftmax(dim=1)), torch.zeros(1, 4))
    assert graph.notes == ["log_softmax (1) is left to the host: it does not change which output is largest"]
    x = torch.randn(2, 4)
    result = evaluate(graph, x.reshape(2, 4, 1, 1))[graph.outputs[0]]
    torch.testing.assert_close(result.reshape(2, 3).float(), linear(x).detach())


def test_other_float_types_are_taken_as_float32() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    graph = from_module(module, torch.zeros(1, 4, dtype=torch.float64))
    assert module.get_parameter("0.weight").dtype == torch.float64
    (operator,) = graph.operators
    assert isinstance(operator, FloatConvolution)
    np.testing.assert_allclose(
        operator.weight.reshape(3, 4), module.get_parameter("0.weight").detach().numpy(), rtol=1e-6
    )


def test_dynamic_batch_is_taken() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(module, (torch.randn(4, 1, 8, 8),), dynamic_shapes=({0: batch},))
    x = torch.randn(3, 1, 8, 8)
    graph = from_exported(program)
    result = evaluate(graph, x)[graph.outputs[0]]
    torch.testing.assert_close(result.reshape(3, 3).float(), module(x).detach(), atol=1e-5, rtol=1e-5)


def test_one_tensor_returned_twice_is_one_output() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.fc(x)
            return y, y.unsqueeze(2)

    graph = from_module(Twice(), torch.zeros(1, 2))
    assert graph.outputs == ["fc"] and graph.dims["fc"] == (2,)
    assert graph.notes == ["output unsqueeze is the same tensor as an earlier output and appears once"]
