"""Running programs on an accelerator over its link."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popshift.firmware_py import transfer
from popshift.firmware_py.layout import TensorLayout
from popshift.firmware_py.program import LayerRecord, Program
from popshift.firmware_py.progress import TransferBar
from popshift.firmware_py.protocol import Link, Request, parse_identity
from popshift.firmware_py.transport import Transport
from popshift.hw import packet
from popshift.hw.errors import DeviceError, InputError
from popshift.hw.isa import COUNTER_BITS, Counter, Status
from popshift.hw.packet import Identity, Space, State, Type

NO_SIGNATURE = 0
"""What a device says whose configuration has none: it is always loaded."""
_FIRST_WAIT, _LONGEST_WAIT = 0.0005, 0.02
_STATUS: Request = (Type.STATUS, 0, b"")


@dataclass(frozen=True, slots=True, eq=False)
class LayerProfile:
    """What one layer did: the counters from the mark before it to its own, and the int8 tensor it wrote."""

    name: str
    counters: dict[Counter, int]
    tensor: NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A run that stopped at every mark.

    ``layers``: in order of execution. ``outputs``: as `Accelerator.run` returns them, with a batch of one.
    """

    layers: list[LayerProfile]
    outputs: dict[str, NDArray[np.int8]]


class Accelerator:
    """A device on a transport; nothing is sent before the first method is called.

    Parameters
    ----------
    transport: the byte stream to the device, or a `Link` made on one with parameters of its own.
    """

    def __init__(self, transport: Transport | Link) -> None:
        self.link = transport if isinstance(transport, Link) else Link(transport)
        self._identity: Identity | None = None
        self._program: Program | None = None
        self._resident: int | None = None  # the segment that is in the device's memories
        self._trusted = True  # that the device's signature is that of its memories
        self._signatures: dict[int, int] = {}  # of the program's segments, as far as they were needed

    def identify(self) -> Identity:
        """Open a session and say what the device is; sent again with every call.

        Raises
        ------
        DeviceError: silent, or no accelerator.
        """
        self._identity = self.link.open()
        return self._identity

    def load(self, program: Program, *, progress: bool = True) -> None:
        """Reset the device and write the program's first segment to it, unless its memories hold it already.

        Raises
        ------
        ProgramError: it was compiled for another configuration.
        DeviceError: silent, or it refuses.
        """
        program.require(self.identify().digest)
        self._stop()
        self._program, self._resident = program, None
        self._signatures = {}
        self._require_segment(0, progress=progress)

    def run(
        self, inputs: ArrayLike | Mapping[str, ArrayLike], *, progress: bool = True
    ) -> dict[str, NDArray[np.int8]]:
        """Run the loaded program on a batch, one image after the other.

        Parameters
        ----------
        inputs: by input name, or just the array if there is one input: (n, channels, height, width), or (n,
            features) for a vector, as floating point or int8.
        progress: show a bar when it takes longer than two seconds.

        Returns
        -------
        int8 arrays (n, channels, height, width) by output name; a vector has height = width = 1.

        Raises
        ------
        InputError: wrong shape, dtype or values.
        DeviceError: no program is loaded, the device is silent, or it stopped with an error status (then
            `reset` it).
        """
        program = self._loaded()
        arrays = program.quantise_inputs(inputs)
        images = len(next(iter(arrays.values())))
        outputs = {tensor.name: np.empty((images, *tensor.shape), np.int8) for tensor in program.outputs}
        with TransferBar(f"images through {program.name}", images, enabled=progress) as bar:
            for image in range(images):
                before = self._input_writes(program, {name: array[image] for name, array in arrays.items()})
                for segment in range(len(program.segments)):
                    self._run_segment(segment, before if segment == 0 else ())
                for tensor in program.outputs:
                    outputs[tensor.name][image] = self.read_tensor(tensor)
                bar.update(image + 1)
        return outputs

    def run_profiled(self, inputs: ArrayLike | Mapping[str, ArrayLike]) -> Profile:
        """Run the loaded program on one image, pausing at every layer mark to read counters and tensor.

        Parameters
        ----------
        inputs: as for `run`, with a batch of one.

        Raises
        ------
        InputError: also when the batch is not one image.
        DeviceError: as `run`.
        """
        program = self._loaded()
        arrays = program.quantise_inputs(inputs)
        if any(len(array) != 1 for array in arrays.values()):
            raise InputError("a profile takes one image", remedy="give a batch of one")
        before = self._input_writes(program, {name: array[0] for name, array in arrays.items()})
        layers: list[LayerProfile] = []
        for segment in range(len(program.segments)):
            # A run starts its counters at zero, but the damaged frames count on.
            past = {**dict.fromkeys(Counter, 0), Counter.LINK_ERRORS: self.counters()[Counter.LINK_ERRORS]}
            state = self._start(segment, before if segment == 0 else (), pause=True)
            while state.status == Status.PAUSED:
                layer = self._marked_layer(program, state)
                now = self.counters()
                since = {counter: (now[counter] - past[counter]) % (1 << COUNTER_BITS) for counter in Counter}
                layers.append(LayerProfile(layer.name, since, self.read_tensor(program.tensor(layer.output))))
                past = now
                state = self._await(segment, [(Type.CONTINUE, 0, b"")])
        return Profile(layers, {tensor.name: self.read_tensor(tensor)[None] for tensor in program.outputs})

    def read_tensor(self, tensor: TensorLayout) -> NDArray[np.int8]:
        """What is in the activation memory where `tensor` lives: int8 (channels, height, width)."""
        reads = transfer.tensor_reads(tensor)
        return transfer.assemble_tensor(
            tensor, reads, self.link.submit_many([read.request for read in reads])
        )

    def state(self) -> State:
        """What the machine is doing."""
        return packet.state(self.link.request(Type.STATUS))

    def counters(self) -> dict[Counter, int]:
        """The counters of the last run."""
        return packet.counters(self.link.request(Type.COUNTERS))

    def reset(self) -> Identity:
        """Stop whatever runs and leave any error state; what is needed next is written again, whatever the
        memories hold.

        Raises
        ------
        DeviceError: silent, or no accelerator.
        """
        if self._identity is None:
            self.identify()
        self._resident, self._trusted = None, False
        return self._stop()

    def close(self) -> None:
        """Give the device free."""
        self.link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- inside --------------------------------------------------------------------------------------------

    def _stop(self) -> Identity:
        return parse_identity(self.link.request(Type.RESET), self.link.name)

    def _loaded(self) -> Program:
        if self._program is None:
            raise DeviceError("no program is loaded", where=self.link.name, remedy="call load(program) first")
        return self._program

    def _input_writes(self, program: Program, tensors: Mapping[str, NDArray[np.int8]]) -> Iterator[Request]:
        for layout in program.inputs:
            yield from transfer.tensor_writes(program.config, layout, tensors[layout.name])

    def _require_segment(self, index: int, *, progress: bool = False) -> None:
        """Write a segment, unless the device says that it is there: its signature survives a lost connection.

        Raises
        ------
        DeviceError: also when the device does not hold what it was sent.
        """
        if self._resident == index:
            return
        program = self._loaded()
        segment = program.segments[index]
        words = segment.instructions.astype("<u4").view(np.uint8).reshape(-1, 4)
        memories = (  # the program first: that starts the signature
            (Space.PROGRAM, words),
            (Space.WEIGHT, segment.weights),
            (Space.PARAMETER, segment.parameters),
        )
        requests = [request for space, image in memories for request in transfer.memory_writes(space, image)]
        if index not in self._signatures:
            self._signatures[index] = transfer.signature_of(requests)
        if not self._trusted or self.state().signature != self._signatures[index]:
            self._resident = None
            with TransferBar(f"loading {program.name} (blocks)", len(requests), enabled=progress) as bar:
                self.link.submit_many(requests, bar.update)
            if self.state().signature not in (self._signatures[index], NO_SIGNATURE):
                raise DeviceError(
                    "the device's memories do not hold what was sent",
                    where=f"{self.link.name}, program {program.name}",
                    remedy="another program may use the device: close it, then load again",
                )
        self._resident, self._trusted = index, True

    def _run_segment(self, segment: int, before: Iterable[Request]) -> None:
        state = self._start(segment, before, pause=False)
        assert state.status == Status.DONE

    def _start(self, segment: int, before: Iterable[Request], *, pause: bool) -> State:
        """Load the segment if it is not there, send `before`, start, and wait until it pauses or is done."""
        self._require_segment(segment)
        run = packet.RUN.pack(0, pause, self._loaded().cycle_limit(segment))
        return self._await(segment, [*before, (Type.RUN, 0, run)])

    def _await(self, segment: int, requests: list[Request]) -> State:
        """Send requests, the last of which sets the machine going, and wait until it stops."""
        state = packet.state(self.link.submit_many([*requests, _STATUS])[-1])
        wait = _FIRST_WAIT
        while state.status == Status.RUNNING:
            self.link.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            state = self.state()
        if state.status not in (Status.DONE, Status.PAUSED):
            raise self._stopped(segment, state)
        return state

    def _marked_layer(self, program: Program, state: State) -> LayerRecord:
        if state.layer >= len(program.layers):
            raise DeviceError(
                f"the program paused at layer {state.layer}, it has {len(program.layers)}",
                where=self.link.name,
                remedy="load the program again",
            )
        return program.layers[state.layer]

    def _stopped(self, segment: int, state: State) -> DeviceError:
        program, status = self._loaded(), Status(state.status)
        layer = program.layer_at(segment, state.pc)
        place = f" in layer {layer.name}" if layer else ""
        return DeviceError(
            f"{status.name}: {status.meaning} (instruction at word {state.pc}{place}, cycle {state.cycles})",
            where=f"{self.link.name}, program {program.name}",
            remedy="reset the device and load again; if it happens again, report it with the program file",
        )
