"""Networks for the whole accelerator, as programs, with what PyTorch says about every tensor."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from binary_networks import binary_graphs, binary_images
from case_files import draw, save_cases
from hypothesis import strategies as st
from tests.networks import small_network
from tests.random_networks import RandomNetwork
from torch import nn

from popshift.firmware_py.program import Program
from popshift.gen import golden
from popshift.gen.compilation import compile_module
from popshift.gen.graph import Add, Convolution, Graph, Tensor
from popshift.gen.mapping import map_graph
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.sim.cycles import predicted_cycles

IMAGES = 2
_TRIED, _LONGEST = 60, 4000
"""Random networks that are looked at, and most cycles of one."""


@st.composite
def _networks(draw) -> tuple[nn.Module, tuple[int, int, int]]:
    """A module with random weights, and the shape of its input."""
    torch.manual_seed(draw(st.integers(0, 1 << 30)))
    channels, height, width = draw(st.integers(1, 5)), draw(st.integers(4, 7)), draw(st.integers(4, 7))
    shape, layers = (channels, height, width), []
    for _ in range(draw(st.integers(1, 2))):
        outputs, kernel = draw(st.integers(1, 7)), draw(st.sampled_from([(1, 1), (3, 3), (2, 3)]))
        stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, kernel[0] // 2))
        if min(height, width) + 2 * padding < 3:
            break
        layers.append(nn.Conv2d(channels, outputs, kernel, stride=stride, padding=padding))
        layers += draw(st.sampled_from([[], [nn.ReLU()], [nn.ReLU6()]]))
        channels, height, width = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1:]
    if min(height, width) >= 2:
        layers += draw(
            st.sampled_from([[], [nn.MaxPool2d(2)], [nn.AvgPool2d(2)], [nn.MaxPool2d(2, stride=1)]])
        )
    if draw(st.booleans()):
        features = nn.Sequential(*layers, nn.Flatten())(torch.zeros(1, *shape)).shape[1]
        layers += [nn.Flatten(), nn.Linear(features, draw(st.integers(1, 9)))]
    return nn.Sequential(*layers), shape


def _at_the_ends(config: AcceleratorConfig, zero_points: tuple[int, int]) -> Graph:
    """A network with all weights at an end of their range, and zero points at both ends of theirs."""
    rng = np.random.default_rng(zero_points[0] + 128)
    graph = small_network(config, rng, channels=config.rows - 1 or 1, size=4, middle=config.cols + 1)
    first, second = zero_points
    for name, zero_point in {"x": first, "a": second, "p": second, "z": first}.items():
        graph.tensors[name] = dataclasses.replace(graph.tensors[name], zero_point=zero_point)
    for operator in graph.operators:
        if isinstance(operator, Convolution):
            operator.weight[:] = rng.choice([-128, 127], operator.weight.shape)
    return graph


def _images(tensor: Tensor, seed: int) -> np.ndarray:
    """Random bytes, and bytes from both ends."""
    if tensor.bits:
        return binary_images(tensor, IMAGES, seed)
    shape = tensor.shape
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.integers(-128, 128, shape), *(rng.choice([-128, 127], shape) for _ in range(IMAGES - 1))]
    ).astype(np.int8)


def _int8_networks(config: AcceleratorConfig, seed: int, count: int) -> list[tuple[str, Program, Graph]]:
    """`count` networks from PyTorch, and two with everything at an end of its range."""
    found: list[tuple[str, Program, Graph]] = []
    for index, (module, shape) in enumerate(draw(_networks(), count, seed)):
        name = f"drawn {index}: {module}"
        network = compile_module(module, torch.randn(8, *shape), config, name=f"network{index}")
        found.append((name, network.program, network.graph))
    for zero_points in ((-128, 127), (127, -128)):
        graph = _at_the_ends(config, zero_points)
        found.append((f"ends {zero_points}", map_graph(graph, config), graph))
    return found


def _separable(config: AcceleratorConfig, seed: int) -> list[tuple[str, Program, Graph]]:
    """A depthwise layer between two pointwise ones, of several planes, where the channel unit multiplies."""
    if not config.depthwise:
        return []
    torch.manual_seed(seed)
    channels = 2 * config.rows + 1
    module = nn.Sequential(
        nn.Conv2d(3, channels, 1),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.ReLU(),
        nn.Conv2d(channels, 5, 1),
    )
    network = compile_module(module, torch.randn(8, 3, 5, 6), config, name="separable")
    executions = [layer.mapping.get("execution", "") for layer in network.program.layers]
    assert any(execution.startswith("channel unit") for execution in executions), executions
    return [("separable", network.program, network.graph)]


def _random_networks(config: AcceleratorConfig, seed: int, count: int) -> list[tuple[str, Program, Graph]]:
    """Small ones with a sum of two tensors, which fit the configuration; none if it cannot add."""
    found: list[tuple[str, Program, Graph]] = []
    for number in range(_TRIED if config.residual else 0):
        graph = RandomNetwork(_TRIED * seed + number, config.requantise, operators=3).graph
        if len(found) == count or not any(isinstance(operator, Add) for operator in graph.operators):
            continue
        try:
            program = map_graph(graph, config)
        except ModelError:
            continue
        made_by_all = {layer.output for layer in program.layers} <= graph.tensors.keys()  # no copies
        if made_by_all and predicted_cycles(program) < _LONGEST:
            found.append((f"random {_TRIED * seed + number}", program, graph))
    return found


def network_cases(config: AcceleratorConfig, folder: Path, seed: int, count: int = 3) -> str:
    """Programs and cases in `folder`; gives the file of the cases."""
    compiled = [(name, map_graph(graph, config), graph) for name, graph in binary_graphs(config, seed)]
    if config.pe_kinds != ("xnor",):
        compiled += _int8_networks(config, seed, count) + _separable(config, seed)
    compiled += _random_networks(config, seed, 2)
    cases: list[dict[str, Any]] = []
    for index, (name, program, graph) in enumerate(compiled):
        path = folder / f"{index}.pop"
        program.save(path)
        inputs = _images(graph.tensors[graph.inputs[0]], seed + index)
        tensors = {f"tensor {key}": value for key, value in golden.run(graph, inputs).items()}
        cases.append({"name": name, "program": str(path), "inputs": inputs, **tensors})
    return save_cases(folder / "networks.npz", cases)
