"""The main job from end to end on real data, every integer compared with PyTorch."""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.gen import golden
from popshift.gen.bench.cases import require_binary
from popshift.gen.bench.records import tools
from popshift.gen.compilation import Compiled, compile_module
from popshift.gen.compress.ranges import CALIBRATION_IMAGES
from popshift.gen.compress.smartdeal import SmartDealConfig, compression, require_smartdeal
from popshift.gen.execution import Arrays, Execution, Level, execute, first_difference
from popshift.gen.graph import Graph
from popshift.gen.steps import Step, Steps
from popshift.gen.train import digits
from popshift.gen.train.binary import compiled_storage
from popshift.gen.train.binary.digits import binary_and_twin
from popshift.gen.train.trainer import accuracy
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Counter
from popshift.hw.numerics import WEIGHT_BITS
from popshift.sim import verilate
from popshift.sim.board import SimulationReport, accelerator_verilog, open_board
from popshift.sim.cycles import predicted_cycles

ZERO_ROWS = 0.5
"""Share of the rows of coefficients that are zero in a demo of SmartDeal."""
PROFILED_IMAGES = 4
"""Images of which every tensor is read back from the simulated board."""
_BOARD_SEED = 1
"""Added to the seed for what the board's memories hold at the start, which must not matter."""


class Form(StrEnum):
    """What the weights of a demo's network are."""

    INT8 = "int8"
    SMARTDEAL = "SmartDeal"
    BINARY = "binary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What the weights take: how many times less than 32-bit floats, the same in words, and the layers whose
    weights are int8.
    """

    ratio: float
    text: str
    plain: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A comparison with the golden model.

    Attributes
    ----------
    level: what computed the values (`popshift.gen.execution.Level`).
    what: which tensors were compared.
    images: how many.
    numbers: int8 values compared.
    mismatches: how many of them differ.
    first: the first that differs, in words; empty if none does.
    seconds: that the execution took.
    """

    level: str
    what: str
    images: int
    numbers: int
    mismatches: int
    first: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Twin:
    """The network that a SmartDeal network was made of, or of which a binary one has the layers, with int8
    weights on the same accelerator.

    Attributes
    ----------
    compiled: as graph and program.
    accuracy: on the test images, 0 .. 1, from the instructions (level ``isa``).
    profile: run at ``rtl`` with the counters per layer.
    storage: of the other network's weights.
    """

    compiled: Compiled
    accuracy: float
    profile: Execution
    storage: Storage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demo:
    """What a demo found.

    Attributes
    ----------
    data: the digits.
    compiled: the network as graph and program.
    seed: of everything that was drawn.
    float_accuracy: of the network before quantisation on the test images, 0 .. 1.
    predictions: the accelerator's class of every test image (N,), from the instructions (level ``isa``).
    checks: the comparisons with the golden model.
    profile: run at ``rtl`` with the counters per layer.
    predicted: what the cycle model says of `cycles`.
    simulation: clock cycles and seconds of the simulated board.
    form: what the weights are.
    twin: what the network is compared with; None if its weights are int8.
    steps: what was done, and how long it took.
    seconds: altogether.
    """

    data: digits.Digits
    compiled: Compiled
    seed: int
    float_accuracy: float
    predictions: NDArray[np.int64]
    checks: list[Check]
    profile: Execution
    predicted: int
    simulation: SimulationReport | None
    form: Form
    twin: Int8Twin | None
    steps: list[Step]
    seconds: float

    @property
    def config(self) -> AcceleratorConfig:
        return self.compiled.program.config

    @property
    def accuracy(self) -> float:
        """Of the accelerator on the test images, 0 .. 1."""
        return float((self.predictions == self.data.test_labels.numpy()).mean())

    @property
    def mismatches(self) -> int:
        """Values that differ from the golden model, over all checks."""
        return sum(check.mismatches for check in self.checks)

    @property
    def cycles(self) -> int:
        """Of one image, counted by the hardware."""
        return counted(self.profile, Counter.CYCLES)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.compiled.program.layers)

    @property
    def utilisation(self) -> float:
        """MACs per cycle as a fraction of the array's peak."""
        return self.macs / (self.cycles * self.config.peak_macs_per_cycle)

    def images(self, level: Level) -> int:
        """Test images whose outputs were compared at `level`."""
        return max((check.images for check in self.checks if check.level == level), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        speed = None if self.simulation is None else round(self.simulation.cycles_per_second)
        accuracy = {"accuracy_int8": self.accuracy}
        if self.twin is not None:
            accuracy = {
                "accuracy_int8": self.twin.accuracy,
                f"accuracy_{self.form.lower()}": self.accuracy,
                "compression": self.twin.storage.ratio,
                "cycles_per_image_int8": counted(self.twin.profile, Counter.CYCLES),
                "weight_bytes_per_image": weight_bytes(self.profile, self.config),
                "weight_bytes_per_image_int8": weight_bytes(self.twin.profile, self.config),
            }
        return {
            "accuracy_float": self.float_accuracy,
            **accuracy,
            "images_rtl": self.images(Level.RTL),
            "images_isa": self.images(Level.ISA),
            "mismatches": self.mismatches,
            "numbers_compared": sum(check.numbers for check in self.checks),
            "cycles_per_image": self.cycles,
            "predicted_cycles_per_image": self.predicted,
            "utilisation": self.utilisation,
            "macs_per_image": self.macs,
            "seconds": round(self.seconds, 1),
            "config": self.config.name,
            "config_digest": f"{self.config.digest:016x}",
            "seed": self.seed,
            "simulated_cycles_per_second": speed,
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "steps": {step.title: round(step.seconds, 1) for step in self.steps},
            "tools": tools(),
        }


def counted(execution: Execution, counter: Counter) -> int:
    """What the hardware counted for one image."""
    assert execution.counters is not None, "only hardware counts"
    return execution.counters[counter]


def weight_bytes(execution: Execution, config: AcceleratorConfig) -> int | None:
    """Read from the weight memory for one image; None if the configuration does not count them."""
    if not config.performance_counters:
        return None
    return counted(execution, Counter.WEIGHT_WORDS) * config.weight_word_bytes


def run(
    config: AcceleratorConfig,
    *,
    images: int = digits.TEST_IMAGES,
    seed: int = 0,
    form: Form = Form.INT8,
    steps: Steps | None = None,
) -> Demo:
    """Do the whole job.

    Parameters
    ----------
    images: test images to classify on the simulated board, 1 .. 360; the executor does all 360.
    seed: of the training, and of what the board's memories hold at the start.
    form: of the weights. SMARTDEAL is trained with half of the rows zero, BINARY with binary activations
        between its first and last layer; both are compared with int8 weights.
    steps: shows the progress.

    Raises
    ------
    ModelError: the network does not fit the configuration, or that cannot work with such weights.
    ToolError, DeviceError: the simulation cannot be built, or fails.
    """
    steps = steps or Steps()
    data = digits.load()
    if form is Form.SMARTDEAL:
        require_smartdeal(config)
    elif form is Form.BINARY:
        require_binary(config)
    with steps.step("train the network", has_bar=True) as step:
        network, compared = _trained(form, data, config, seed)
        float_accuracy = accuracy(compared[0] if compared else network, data.test_images, data.test_labels)
        right = f"{100 * float_accuracy:.2f} % of {len(data.test_images)} test images right in float"
        step.note = f"{len(data.train_images)} images, {right}"
    with steps.step("quantise and map") as step:
        compiled = _compiled(network, data, config)
        step.note = f"{len(compiled.program.layers)} layers on {config.name}, {config.rows} x {config.cols}"
    with steps.step("compute with PyTorch") as step:
        wanted = golden.run(compiled.graph, data.test_images)
        step.note = f"{len(data.test_images)} images, every tensor"
    with steps.step("classify with the executor") as step:
        computed = execute(compiled.program, data.test_images, Level.ISA)
        checks = [_check(computed, wanted, "every tensor", compiled.graph)]
        step.note = _outcome(checks)
    _build(config, steps)
    with steps.step("classify on the simulated board", has_bar=True) as step:
        profile, found, simulation = _on_board(compiled, data.test_images[:images], seed)
        checks.append(_check(profile, wanted, "every tensor", compiled.graph))
        checks.append(_check(found, wanted, "the outputs", compiled.graph))
        step.note = _outcome(checks[1:])
    twin = None
    if compared is not None:
        dense, storage = compared
        with steps.step("the same with int8 weights") as step:
            twin, check = _twin(dense, storage, data, config, seed)
            checks.append(check)
            speedup = counted(twin.profile, Counter.CYCLES) / counted(profile, Counter.CYCLES)
            step.note = f"{form}: {speedup:.2f} times fewer cycles, {storage.text}"
    return Demo(
        data=data,
        compiled=compiled,
        seed=seed,
        float_accuracy=float_accuracy,
        predictions=_predictions(computed, compiled),
        checks=checks,
        profile=profile,
        predicted=predicted_cycles(compiled.program),
        simulation=simulation,
        form=form,
        twin=twin,
        steps=steps.done,
        seconds=steps.seconds,
    )


def _trained(
    form: Form, data: digits.Digits, config: AcceleratorConfig, seed: int
) -> tuple[nn.Module, tuple[nn.Module, Storage] | None]:
    """The network; its int8 twin, and what the network's own weights take, if it is not int8 itself."""
    if form is Form.INT8:
        return digits.trained(data, seed), None
    if form is Form.BINARY:
        twin, network = binary_and_twin(data, seed)
        found = compiled_storage(network)
        plain = tuple(layer.name for layer in found.layers if layer.bits == WEIGHT_BITS)
        text = f"{found.ratio:.2f} times smaller than fp32"
        return network, (twin, Storage(ratio=found.ratio, text=text, plain=plain))
    options = SmartDealConfig.for_target(config, row_sparsity=ZERO_ROWS, skip=digits.TOO_SMALL)
    twin, network = digits.smartdeal_trained(data, seed, options)
    found = compression(network)
    return network, (twin, Storage(ratio=found.ratio, text=str(found), plain=tuple(found.plain)))


def _compiled(network: nn.Module, data: digits.Digits, config: AcceleratorConfig) -> Compiled:
    return compile_module(network, data.train_images[:CALIBRATION_IMAGES], config, name="digits")


def _predictions(execution: Execution, compiled: Compiled) -> NDArray[np.int64]:
    scores = execution.outputs[compiled.program.outputs[0].name]
    return scores.reshape(len(scores), -1).argmax(1)


def _twin(
    dense: nn.Module, storage: Storage, data: digits.Digits, config: AcceleratorConfig, seed: int
) -> tuple[Int8Twin, Check]:
    """Classify with int8 weights, and compare a few images at ``rtl``."""
    compiled = _compiled(dense, data, config)
    computed = execute(compiled.program, data.test_images, Level.ISA)
    right = _predictions(computed, compiled) == data.test_labels.numpy()
    with open_board(config, seed=seed + _BOARD_SEED) as board:
        device = Accelerator(Link(board, fifo_bytes=config.link_fifo_depth))
        images = data.test_images[:PROFILED_IMAGES]
        profile = execute(compiled.program, images, Level.RTL, board=device, every_tensor=True)
    check = _check(profile, golden.run(compiled.graph, images), "every tensor, int8 weights", compiled.graph)
    found = Int8Twin(compiled=compiled, accuracy=float(right.mean()), profile=profile, storage=storage)
    return found, check


def _build(config: AcceleratorConfig, steps: Steps) -> None:
    """Fill the cache with what `open_board` will take from it, in two steps that can be seen."""
    with steps.step("generate Verilog", has_bar=True) as step:
        verilog = accelerator_verilog(config)
        step.note = f"{len(verilog.splitlines()):,} lines"
    with steps.step("build the simulated board", has_bar=True) as step:
        step.note = f"{verilate.build(verilog).stat().st_size / 1e6:.1f} MB of machine code"


def _on_board(
    compiled: Compiled, images: torch.Tensor, seed: int
) -> tuple[Execution, Execution, SimulationReport | None]:
    """A few images layer by layer, then all of them as fast as they go."""
    program = compiled.program
    with open_board(program.config, seed=seed + _BOARD_SEED) as board:
        device = Accelerator(Link(board, fifo_bytes=program.config.link_fifo_depth))
        profile = execute(program, images[:PROFILED_IMAGES], Level.RTL, board=device, every_tensor=True)
        found = execute(program, images, Level.RTL, board=device, progress=True)
    return profile, found, board.report


def _outcome(checks: list[Check]) -> str:
    images = max(check.images for check in checks)
    differing, numbers = (sum(getattr(check, name) for check in checks) for name in ("mismatches", "numbers"))
    return f"{images} images, {differing:,} of {numbers:,} integers differ"


def _check(execution: Execution, wanted: Arrays, what: str, graph: Graph) -> Check:
    """Compare what layers computed for the first images of `wanted`."""
    outputs = [operator.output for operator in graph.operators]
    computed = {name: execution.tensors[name] for name in outputs if name in execution.tensors}
    images = len(next(iter(computed.values())))
    expected = {name: wanted[name][:images] for name in computed}
    first = first_difference(expected, computed, list(computed))
    return Check(
        level=str(execution.level),
        what=what,
        images=images,
        numbers=sum(array.size for array in computed.values()),
        mismatches=sum(int(np.count_nonzero(expected[name] != computed[name])) for name in computed),
        first="" if first is None else str(first),
        seconds=execution.seconds,
    )
