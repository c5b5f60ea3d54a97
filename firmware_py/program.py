"""A compiled network: what the accelerator runs, what is known about it, and its file (``*.pop``)."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popshift.firmware_py import program_file, tensors
from popshift.firmware_py.layout import TensorLayout
from popshift.hw import config as hw_config
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ConfigError, ProgramError

_ARRAYS = {"weights": np.uint8, "parameters": np.uint8, "instructions": np.uint32}
_ATTACHMENT = "attachment."
_CYCLE_MARGIN, _CYCLE_FACTOR = 100_000, 4
_CYCLE_LIMIT_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """What is known about a layer, for reports and messages.

    Attributes
    ----------
    name, kind: of the layer in the network, and what it is (``convolution``, ``max pool``, …).
    output: name of the tensor it writes.
    macs: multiplications of one image.
    predicted_cycles: of one image, from mark to mark, if the run stops there: else layers overlap a little.
    utilisation: predicted MACs per cycle as a fraction of the array's peak, 0 .. 1.
    bottleneck: what limits it, in words.
    mapping: further plain (JSON) values for reports.
    """

    name: str
    kind: str
    output: str
    macs: int
    predicted_cycles: int
    utilisation: float
    bottleneck: str
    mapping: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """What is in the accelerator's memories at one time.

    Attributes
    ----------
    weights: uint8 (words, `AcceleratorConfig.weight_word_bytes`), for the weight memory from word 0 on.
    parameters: uint8 (words, `AcceleratorConfig.parameter_word_bytes`), for the parameter memory.
    instructions: uint32 (words,), for the program memory; a run starts at word 0.
    layers: indices into `Program.layers` of the layers it runs, in order; a MARK carries such an index.
    """

    weights: NDArray[np.uint8]
    parameters: NDArray[np.uint8]
    instructions: NDArray[np.uint32]
    layers: Sequence[int]

    @property
    def size(self) -> int:
        """Bytes that the accelerator's memories take of it."""
        return self.weights.nbytes + self.parameters.nbytes + self.instructions.nbytes

    def __repr__(self) -> str:
        return f"<Segment of {len(self.layers)} layers, {self.size:,} bytes>"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """A network compiled for a configuration.

    Attributes
    ----------
    config: the configuration it was compiled for.
    name: of the network.
    inputs, outputs: where the driver writes and reads.
    tensors: every tensor that some layer writes, in order of execution.
    layers: one record per layer, in order of execution.
    segments: one if everything stays in the accelerator; else the driver loads and runs them in turn for
        every image.
    attachments: further contents of the file by name, which nothing here interprets; covered by its checksum.

    Raises
    ------
    ProgramError: a part does not fit the configuration or another part.
    """

    config: AcceleratorConfig
    name: str
    inputs: Sequence[TensorLayout]
    outputs: Sequence[TensorLayout]
    tensors: Sequence[TensorLayout]
    layers: Sequence[LayerRecord]
    segments: Sequence[Segment]
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.inputs and self.outputs and self.segments):
            raise self._error("it needs an input, an output and a segment")
        known = {tensor.name for tensor in self.tensors}
        for layer in self.layers:
            if layer.output not in known:
                raise self._error(
                    f"layer {layer.name} writes {layer.output!r}, which is no tensor of the program"
                )
        if sorted(index for segment in self.segments for index in segment.layers) != list(
            range(len(self.layers))
        ):
            raise self._error("the segments must run every layer exactly once")
        for tensor in (*self.inputs, *self.outputs, *self.tensors):
            self._check_layout(tensor)
        for index, segment in enumerate(self.segments):
            self._check_segment(index, segment)

    def _check_layout(self, tensor: TensorLayout) -> None:
        if (
            min(tensor.shape) < 1
            or min(tensor.period, tensor.copies) < 1
            or tensor.base < 0
            or tensor.plane_step < 0
        ):
            raise self._error(f"the layout of tensor {tensor.name} is impossible")
        if tensor.period * tensor.copies > self.config.rows or tensor.end > self.config.activation_depth:
            raise self._error(
                f"tensor {tensor.name} needs {tensor.period * tensor.copies} banks of {tensor.end} words, "
                f"there are {self.config.rows} of {self.config.activation_depth}"
            )

    def _check_segment(self, index: int, segment: Segment) -> None:
        config = self.config
        limits = {
            "weights": ((config.weight_word_bytes,), config.weight_depth),
            "parameters": ((config.parameter_word_bytes,), config.parameter_depth),
            "instructions": ((), config.program_depth),
        }
        for name, (word_shape, depth) in limits.items():
            array = getattr(segment, name)
            if array.dtype != _ARRAYS[name] or array.ndim == 0 or array.shape[1:] != word_shape:
                raise self._error(f"the {name} of segment {index} are {array.dtype} {array.shape}")
            if len(array) > depth:
                raise self._error(f"the {name} of segment {index} need {len(array)} words, there are {depth}")

    def __repr__(self) -> str:
        return f"<Program {self.summary}>"

    @property
    def summary(self) -> str:
        """``network for tiny: x 1x12x12 -> fc 5, 11,852 bytes`` (of weights, parameters and instructions)."""
        shapes = f"{tensors.signature(self.inputs)} -> {tensors.signature(self.outputs)}"
        size = sum(segment.size for segment in self.segments)
        return f"{self.name} for {self.config.name}: {shapes}, {size:,} bytes"

    def _error(self, what: str) -> ProgramError:
        return ProgramError(what, where=f"program {self.name}", remedy="compile the model again")

    # ---- execution -----------------------------------------------------------------------------------------

    def require(self, target: AcceleratorConfig | int) -> None:
        """Make sure that the program runs on a configuration, or on a device with this digest.

        Raises
        ------
        ProgramError: it does not; the message lists fields that differ, with both values.
        """
        digest = target if isinstance(target, int) else target.digest
        if digest == self.config.digest:
            return
        if isinstance(target, int):
            shipped = hw_config.named_configs().values()
            target = next((config for config in shipped if config.digest == digest), digest)
        remedy = "compile the model for that configuration"
        if isinstance(target, int):
            remedy += "; if it is the same, another version of popshift made the bitstream: build it again"
            other, differing = f"digest 0x{digest:016x}", f"its own digest is 0x{self.config.digest:016x}"
        else:
            other, differing = f"configuration {target.name}", _differences(self.config, target)
        raise ProgramError(
            f"compiled for configuration {self.config.name}, not for {other}: {differing}",
            where=f"program {self.name}",
            remedy=remedy,
        )

    def quantise_inputs(self, values: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, NDArray[np.int8]]:
        """A batch as int8 arrays by input name; see `popshift.firmware_py.tensors.quantise_inputs`.

        If the network's file has channels last, so may have the values; what this returned is taken as it is.
        """
        if not isinstance(values, tensors.QuantisedInputs):
            values = tensors.channels_first(self.inputs, values)
        return tensors.QuantisedInputs(tensors.quantise_inputs(self.inputs, values))

    def tensor(self, name: str) -> TensorLayout:
        """The layout of an input or of a tensor that a layer writes."""
        return next(tensor for tensor in (*self.tensors, *self.inputs) if tensor.name == name)

    def cycle_limit(self, segment: int) -> int:
        """Cycles after which a run of the segment is stopped: four times the prediction and 100,000."""
        predicted = sum(self.layers[index].predicted_cycles for index in self.segments[segment].layers)
        return min(_CYCLE_FACTOR * predicted + _CYCLE_MARGIN, _CYCLE_LIMIT_MAX)

    def layer_at(self, segment: int, pc: int) -> LayerRecord | None:
        """The layer of the instruction at word `pc`: the one whose MARK comes next; None if none does."""
        words, place = [int(word) for word in self.segments[segment].instructions], 0
        while isinstance(item := isa.decode(words, place), isa.Instruction):
            if item.opcode is isa.Opcode.MARK and place >= pc:
                return self.layers[item["layer"]] if item["layer"] < len(self.layers) else None
            place += isa.LENGTHS[item.opcode]
        return None

    # ---- file ----------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The program file; the same program gives the same bytes."""
        manifest = {
            "name": self.name,
            "digest": f"0x{self.config.digest:016x}",
            "config": self.config.to_dict(),
            "inputs": [dataclasses.asdict(tensor) for tensor in self.inputs],
            "outputs": [dataclasses.asdict(tensor) for tensor in self.outputs],
            "tensors": [dataclasses.asdict(tensor) for tensor in self.tensors],
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "segments": [list(segment.layers) for segment in self.segments],
            "attachments": sorted(self.attachments),
        }
        arrays = {
            f"segment{index}.{name}": getattr(segment, name)
            for index, segment in enumerate(self.segments)
            for name in _ARRAYS
        }
        arrays |= {
            f"{_ATTACHMENT}{name}": np.frombuffer(data, np.uint8) for name, data in self.attachments.items()
        }
        return program_file.pack(manifest, arrays)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "program file") -> Self:
        """The inverse of `to_bytes`.

        Raises
        ------
        ProgramError: truncated, altered, of another format version, or not a program file.
        """
        manifest, arrays = program_file.unpack(data, where)
        try:
            program = cls(
                config=AcceleratorConfig.from_dict(manifest["config"]),
                name=manifest["name"],
                inputs=[_layout(values) for values in manifest["inputs"]],
                outputs=[_layout(values) for values in manifest["outputs"]],
                tensors=[_layout(values) for values in manifest["tensors"]],
                layers=[LayerRecord(**values) for values in manifest["layers"]],
                segments=[
                    Segment(**{name: arrays[f"segment{index}.{name}"] for name in _ARRAYS}, layers=layers)
                    for index, layers in enumerate(manifest["segments"])
                ],
                attachments={
                    name: arrays[f"{_ATTACHMENT}{name}"].tobytes() for name in manifest.get("attachments", ())
                },
            )
            digest = int(manifest["digest"], 16)
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProgramError(
                f"its manifest is not understood ({error})",
                where=where,
                remedy="compile the model with this popshift",
            ) from error
        if digest != program.config.digest:
            raise ProgramError(
                f"its configuration has digest 0x{program.config.digest:016x} here, "
                f"0x{digest:016x} where it was compiled",
                where=where,
                remedy="compile the model with this version of popshift",
            )
        return program

    def save(self, path: str | Path) -> None:
        """Write the program file, all of it or nothing.

        Raises
        ------
        ProgramError: the file cannot be written.
        """
        program_file.write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a program file; errors as `from_bytes`, and ProgramError if it cannot be read."""
        return cls.from_bytes(program_file.read(Path(path)), where=str(path))


_SHOWN = 4
"""Fields of a configuration that a message names."""


def _layout(values: dict[str, Any]) -> TensorLayout:
    return TensorLayout(**{**values, **{name: tuple(values[name]) for name in ("shape", "dims")}})


def _differences(mine: AcceleratorConfig, other: AcceleratorConfig) -> str:
    ours, theirs = mine.to_dict(), other.to_dict()
    found = [
        f"{key} {ours[key]!r} against {theirs[key]!r}"
        for key in ours
        if ours[key] != theirs[key] and key not in hw_config._NOT_IN_DIGEST
    ]
    more = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
