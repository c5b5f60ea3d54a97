"""A small program for tests of the driver, and the machine that runs it on a `DeviceModel`.

Layer i adds the first byte of weight word i to every value (modulo 256) and writes the result to its own
tensor.
"""

from collections.abc import Iterator

import numpy as np
from device_model import DeviceModel, Machine, MachineStopError
from numpy.typing import NDArray

from popshift.firmware_py.layout import TensorLayout
from popshift.firmware_py.program import LayerRecord, Program, Segment
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.isa import Counter, Opcode, Status
from popshift.hw.packet import Space

CYCLES = (100, 230, 70)
SHAPE = (3, 5, 4)


def layout(name: str, base: int, shape: tuple[int, int, int] = SHAPE, **changes: int) -> TensorLayout:
    values = {
        "row_pitch": shape[2] + 1,
        "plane_step": shape[1] * (shape[2] + 1) + 7,
        "period": 2,
        "copies": 2,
    }
    return TensorLayout(name=name, shape=shape, scale=0.5, zero_point=-3, base=base, **{**values, **changes})


def example_program(*, segments: int = 1, seed: int = 0, config: AcceleratorConfig | None = None) -> Program:
    """Two or three layers in one segment or in one each, with random weights."""
    config = config or load_config("tiny")
    source = np.random.default_rng(seed)
    names = ["conv", "pool", "dense"]
    tensors = [layout(f"{name}_out", 100 * index + 100) for index, name in enumerate(names)]
    layers = [
        LayerRecord(
            name=name,
            kind="convolution",
            output=f"{name}_out",
            macs=1000 + index,
            predicted_cycles=CYCLES[index],
            utilisation=0.75,
            bottleneck="array",
            mapping={"k_tiles": 3, "order": ["n", "k"], "predicted": 0.1},
        )
        for index, name in enumerate(names)
    ]
    parts = [[0, 1, 2]] if segments == 1 else [[0], [1], [2]]
    weights = source.integers(0, 256, (60, config.weight_word_bytes), np.uint8)
    return Program(
        config=config,
        name="example",
        inputs=[layout("image", 5)],
        outputs=[tensors[2]],
        tensors=tensors,
        layers=layers,
        segments=[
            Segment(
                weights=np.concatenate([weights[part], weights[10 * part[0] + 3 :]]),
                parameters=source.integers(0, 256, (30, config.parameter_word_bytes), np.uint8),
                instructions=np.array(_instructions(part), np.uint32),
                layers=part,
            )
            for part in parts
        ],
    )


def _instructions(layers: list[int]) -> list[int]:
    marks = [isa.instruction(Opcode.MARK, layer=layer) for layer in layers]
    return isa.encode_all([*marks, isa.instruction(Opcode.END)])


def expected_tensors(program: Program, image: NDArray[np.int8]) -> dict[str, NDArray[np.int8]]:
    """What every layer writes for one int8 image."""
    value, tensors = image.view(np.uint8), {}
    for segment in program.segments:
        for place, index in enumerate(segment.layers):
            value = value + segment.weights[place, 0]
            tensors[program.layers[index].output] = value.view(np.int8)
    return tensors


def example_machine(program: Program) -> Machine:
    """Decodes the device's program memory, as hardware would; anything but MARK and END stops it."""

    def machine(device: DeviceModel) -> Iterator[int]:
        words = [int.from_bytes(word.tobytes(), "little") for word in device.memories[Space.PROGRAM]]
        pc = device.last_run.pc
        while True:
            item = isa.decode(words, pc)
            if isinstance(item, Status):
                raise MachineStopError(item, pc)
            if item.opcode is Opcode.END:
                return
            if item.opcode is not Opcode.MARK:
                raise MachineStopError(Status.ILLEGAL_INSTRUCTION, pc)
            index = item["layer"]
            before = program.inputs[0] if index == 0 else program.tensors[index - 1]
            weight = device.memories[Space.WEIGHT][pc, 0]
            result = before.read(device.activations).view(np.uint8) + weight
            program.tensors[index].write(device.activations, result.view(np.int8))
            device.counters[Counter.CYCLES] += CYCLES[index]
            device.counters[Counter.MATRIX] += CYCLES[index] // 2
            yield index
            pc += 1

    return machine
