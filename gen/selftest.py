"""The self-test of a device: known vectors through one unit after the other, each tensor read back and
compared.

For when the simulation is right and the board is wrong. Each probe is a network of one layer with inputs of
its own, so that an error in one does not show in the next; simple probes come first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py import transfer
from popshift.firmware_py.layout import TensorLayout
from popshift.firmware_py.program import Program
from popshift.firmware_py.session import Accelerator
from popshift.gen.bench.cases import (
    Build,
    Workload,
    binary_convolution,
    convolution,
    doubled,
    pool,
)
from popshift.gen.compilation import compile_graph
from popshift.gen.execution import Difference, execute, first_difference
from popshift.gen.graph import Pooling
from popshift.gen.level import Level
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ConfigError, ModelError

MEMORY, LINK = "activation memory", "link"
_WORDS = 512
"""Words of each bank that the memory's probe writes at a time."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A layer on its own. ``suspect``: what is wrong if it fails and those before it do not."""

    name: str
    suspect: str
    build: Build


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How a probe went.

    Attributes
    ----------
    probe, suspect: its name, and what it points at.
    values, wrong: integers that were compared, and how many of them differ.
    first: the first that differs, or None.
    skipped: why it was not run; empty if it was.
    """

    probe: str
    suspect: str
    values: int = 0
    wrong: int = 0
    first: str | None = None
    skipped: str = ""


def probes(config: AcceleratorConfig) -> list[Probe]:
    """What is tried on a configuration, in this order."""
    rows, cols = config.rows, config.cols
    size = (6, 5)
    found = [
        Probe("1 x 1 convolution", "weight memory, matrix unit, post unit", convolution((rows, *size), cols)),
        Probe("more channels than rows", "accumulators", convolution((3 * rows + 1, *size), cols)),
        Probe("more filters than columns", "weight feeder", convolution((rows, *size), 2 * cols + 1)),
        Probe("3 x 3 convolution", "row gather", convolution((rows, *size), cols, 3, 1)),
        Probe("fully connected", "weight memory, sequencer", convolution((8 * rows, 1, 1), 2 * cols)),
        Probe("depthwise convolution", "row gather", convolution((rows, *size), rows, 3, 1, rows)),
        Probe("maximum", "channel unit", pool((rows, *size), 2, Pooling.MAX)),
        Probe("average", "channel unit, post unit", pool((rows, *size), 2, Pooling.AVERAGE)),
        Probe("sum of two tensors", "post unit (sums)", doubled((rows, *size))),
    ]
    if config.has_packing:
        found.append(Probe("binary convolution", "xnor PEs", binary_convolution((rows, *size), cols, 3, 1)))
    return found


def self_test(device: Accelerator, config: AcceleratorConfig, seed: int = 0) -> Iterator[Finding]:
    """Run every probe on a device of this configuration; findings come as they are made.

    Raises
    ------
    ProgramError: the device has another configuration.
    DeviceError: it is silent or stops with an error.
    """
    yield _memory(device, config, seed)
    for probe in probes(config):
        try:
            workload = probe.build(config, seed)
            program = compile_graph(workload.graph, config, probe.name).program
        except (ModelError, ConfigError) as error:  # more than this configuration can do
            yield Finding(probe=probe.name, suspect=probe.suspect, skipped=error.what)
            continue
        yield _layer(device, probe, program, workload)


def known_inputs(program: Program, seed: int = 0) -> dict[str, NDArray[np.int8]]:
    """An image of random integers for every input of a program."""
    rng = np.random.default_rng(seed)
    return {
        layout.name: rng.integers(-128, 128, (1, *layout.shape)).astype(np.int8) for layout in program.inputs
    }


def suspects(program: Program, difference: Difference) -> str:
    """The layer of a program that wrote a tensor, and its kind: where to look."""
    for layer in program.layers:
        if layer.output == difference.tensor:
            return f"{layer.name} ({layer.kind})"
    return difference.tensor


def _layer(device: Accelerator, probe: Probe, program: Program, workload: Workload) -> Finding:
    images = workload.images[:1]
    wanted = execute(program, images, Level.GOLDEN, graph=workload.graph).tensors
    found = execute(program, images, Level.RTL, board=device, every_tensor=True).tensors
    names = [layer.output for layer in program.layers]
    wrong = sum(int(np.count_nonzero(wanted[name] != found[name])) for name in set(names))
    first = first_difference(wanted, found, names)
    return Finding(
        probe=probe.name,
        suspect=probe.suspect,
        values=sum(wanted[name].size for name in set(names)),
        wrong=wrong,
        first=None if first is None else str(first),
    )


def _memory(device: Accelerator, config: AcceleratorConfig, seed: int) -> Finding:
    """Random bytes into every word of every bank, read back when all are written."""
    device.reset()
    rng = np.random.default_rng(seed)
    layouts = [_words(base, (config.rows, 1, words)) for base, words in _pieces(config.activation_depth)]
    tensors = {layout.name: rng.integers(-128, 128, layout.shape).astype(np.int8) for layout in layouts}
    for layout in layouts:
        device.link.submit_many(list(transfer.tensor_writes(config, layout, tensors[layout.name])))
    wrong, first = 0, None
    for layout in layouts:
        found = device.read_tensor(layout)
        wrong += int(np.count_nonzero(found != tensors[layout.name]))
        if first is None:
            first = _first_word(layout, tensors[layout.name], found)
    values = config.rows * config.activation_depth
    suspect = f"{LINK}, {MEMORY}"
    return Finding(probe="memory", suspect=suspect, values=values, wrong=wrong, first=first)


def _words(base: int, shape: tuple[int, int, int]) -> TensorLayout:
    """A row of words from `base` on in every bank."""
    banks, _, words = shape
    return TensorLayout(
        name=f"words {base}",
        shape=shape,
        scale=1.0,
        zero_point=0,
        base=base,
        row_pitch=words,
        plane_step=words,
        period=banks,
        copies=1,
    )


def _pieces(depth: int) -> Iterator[tuple[int, int]]:
    for base in range(0, depth, _WORDS):
        yield base, min(_WORDS, depth - base)


def _first_word(layout: TensorLayout, wanted: NDArray[np.int8], found: NDArray[np.int8]) -> str | None:
    places = np.argwhere(wanted != found)
    if not len(places):
        return None
    bank, _, offset = (int(value) for value in places[0])
    got, right = found[bank, 0, offset], wanted[bank, 0, offset]
    return f"bank {bank}, word {layout.base + offset}: {got} instead of {right}"
