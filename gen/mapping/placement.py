"""Where tensors live: how many banks a copy of each takes (its period), how many copies, and at which word.

A word of the activation memory spans all banks, so copies cost nothing and there are always as many as fit
beside each other. What the period decides is the number of row tiles of the convolutions that read the tensor
(a short period lets their taps spread more evenly over the rows) and the number of planes, hence words.

The post unit writes groups of `post_lanes` banks, so what it writes has a period of whole groups; a tensor
that the host writes may have any. A pool works on all banks alike: its output has the period of its input,
and both are whole groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from popshift.firmware_py.layout import TensorLayout
from popshift.gen.graph import Convolution, Graph, Operator, Pool, Tensor
from popshift.gen.mapping.columns import column_walk
from popshift.gen.mapping.cost import PoolCost
from popshift.gen.mapping.padding import Padding, padding_of
from popshift.gen.mapping.planner import DoesNotFitError, Lifetime, plan
from popshift.gen.mapping.schemes import candidates
from popshift.hw.config import ADDRESS_BITS, PAIR, AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.numerics import LANE_CHANNELS

HOST = -1
"""The step, before the first operator, in which the host writes the inputs and their padding is filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A tensor with the padding around it, not yet at an address."""

    tensor: Tensor
    padding: Padding
    period: int
    copies: int

    @property
    def row_pitch(self) -> int:
        return self.tensor.shape[2] + self.padding.side

    @property
    def first_word(self) -> int:
        """From the buffer's start to row 0, column 0."""
        return self.padding.side + self.padding.top * self.row_pitch

    @property
    def plane_words(self) -> int:
        rows = self.padding.top + self.tensor.shape[1] + self.padding.bottom
        return rows * self.row_pitch + self.padding.side

    @property
    def planes(self) -> int:
        return -(-self.tensor.shape[0] // self.period)

    @property
    def words(self) -> int:
        return self.planes * self.plane_words

    def at(self, offset: int) -> TensorLayout:
        """The layout when the buffer starts at word `offset`."""
        return TensorLayout(
            name=self.tensor.name,
            shape=self.tensor.shape,
            scale=self.tensor.scale,
            zero_point=self.tensor.zero_point,
            base=offset + self.first_word,
            row_pitch=self.row_pitch,
            plane_step=self.plane_words,
            period=self.period,
            copies=self.copies,
            bits=self.tensor.bits,
            threshold=self.tensor.threshold,
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A buffer and its place."""

    buffer: Buffer
    layout: TensorLayout

    @property
    def words(self) -> range:
        """Of the activation memory, padding included."""
        start = self.layout.base - self.buffer.first_word
        return range(start, start + self.buffer.words)


@dataclass(frozen=True, slots=True)
class _Choice:
    """A period for all tensors of a class: cycles of the operators that read them, and their words."""

    period: int
    cycles: int
    words: int


def place(graph: Graph, config: AcceleratorConfig, *, beside: bool = False) -> dict[str, Placed]:
    """Choose periods and addresses of all tensors of `graph` (after `separate_padding`); `beside`: such that
    every depthwise layer can run beside the layer in front.

    Every class of tensors that share a period starts with the one that takes the fewest cycles; while the
    buffers do not fit, the class of the peak that loses least gives way to a choice of fewer words.

    Raises
    ------
    ModelError: the tensors alive at some operator do not fit the activation memory.
    """
    paddings = {name: padding_of(graph, name) for name in graph.tensors}
    channel_unit = config if beside else config.replace(depthwise=False)
    classes = _classes(graph, channel_unit)
    choices = [_choices(graph, paddings, members, channel_unit) for members in classes]
    chosen = [options[0] for options in choices]
    while True:
        buffers = {
            name: _buffer(graph.tensors[name], paddings[name], choice.period, config)
            for members, choice in zip(classes, chosen, strict=True)
            for name in members
        }
        buffers = {name: buffers[name] for name in graph.tensors}
        lifetimes = [_lifetime(graph, name, buffer.words, beside) for name, buffer in buffers.items()]
        try:
            offsets = plan(lifetimes, config.activation_depth)
        except DoesNotFitError as error:
            if not _give_way(classes, choices, chosen, error.peak):
                raise _refusal(graph, error, config) from None
            continue
        return {name: Placed(buffer, buffer.at(offsets[name])) for name, buffer in buffers.items()}


def _buffer(tensor: Tensor, padding: Padding, period: int, config: AcceleratorConfig) -> Buffer:
    return Buffer(tensor=tensor, padding=padding, period=period, copies=config.rows // period)


def _classes(graph: Graph, config: AcceleratorConfig) -> list[list[str]]:
    """Tensors grouped by what pools, sums and depthwise layers on the channel unit tie together."""
    leader = {name: name for name in graph.tensors}
    for operator in graph.operators:
        if (tied := _tied_to_output(graph, operator, config)) is not None:
            old, new = leader[operator.output], leader[tied]
            leader = {name: new if first == old else first for name, first in leader.items()}
    classes: dict[str, list[str]] = {}
    for name, first in leader.items():
        classes.setdefault(first, []).append(name)
    return list(classes.values())


def _for_signs(
    signs: Sequence[Operator], members: Sequence[str], periods: Sequence[int], config: AcceleratorConfig
) -> Sequence[int]:
    """Periods of a class whose signs are taken: whole bytes, as many as a group of banks takes evenly.

    Raises
    ------
    ModelError: there is none.
    """
    read = [operator.name for operator in signs if operator.input in members]
    if not read:
        return periods
    if not config.has_packing:
        raise ModelError(
            f"configuration {config.name} cannot work with binary activations",
            where=f"layer {read[0]}",
            remedy='use a configuration with "xnor" among its pe_kinds',
        )
    whole = range(LANE_CHANNELS, config.rows + 1, LANE_CHANNELS)
    found = [period for period in whole if config.post_lanes % (period // LANE_CHANNELS) == 0]
    if not found:
        raise ModelError(
            f"configuration {config.name} has {config.rows} rows, eight channels make a byte of signs",
            where=f"layer {read[0]}",
            remedy="use a configuration with at least 8 rows",
        )
    return found


def _is_sign(graph: Graph, operator: Operator) -> bool:
    """Whether it makes bits of an int8 tensor, eight channels to a byte."""
    source, target = graph.tensors[operator.input], graph.tensors[operator.output]
    return isinstance(operator, Pool) and bool(target.bits) and not source.bits


def _tied_to_output(graph: Graph, operator: Operator, config: AcceleratorConfig) -> str | None:
    """The input whose channels lie in the same banks as the output's."""
    if isinstance(operator, Pool):
        return None if _is_sign(graph, operator) else operator.input
    if not isinstance(operator, Convolution):
        return None
    if operator.sum is not None:
        return operator.sum.other
    bits = graph.tensors[operator.input].bits or graph.tensors[operator.output].bits
    _, height, width = graph.tensors[operator.output].shape
    return None if bits or column_walk(operator, (height, width), config) is None else operator.input


def _choices(
    graph: Graph, paddings: dict[str, Padding], members: Sequence[str], config: AcceleratorConfig
) -> list[_Choice]:
    """The sensible periods of a class, fastest first; each later one needs fewer words than all before it."""
    written = any(operator.output in members for operator in graph.operators)
    step = config.post_lanes if written else 1
    tied = [_tied_to_output(graph, operator, config) for operator in graph.operators]
    if any(name in tied for name in members):
        step = config.post_lanes
    if config.paired_banks:  # the two of a pair hold neighbours, so that one address does for both
        step = math.lcm(step, PAIR)
    most = max(graph.tensors[name].shape[0] for name in members)
    periods: Sequence[int] = range(step, min(config.rows, -(-most // step) * step) + 1, step)
    if signs := [operator for operator in graph.operators if _is_sign(graph, operator)]:
        periods = _for_signs(signs, members, periods, config)
    options = []
    for period in periods:
        buffers = [_buffer(graph.tensors[name], paddings[name], period, config) for name in members]
        cycles = sum(_reader_cycles(graph, buffer, config) for buffer in buffers)
        options.append(_Choice(period, cycles, sum(buffer.words for buffer in buffers)))
    options.sort(key=lambda choice: (choice.cycles, choice.words, choice.period))
    kept = options[:1]
    for option in options[1:]:
        if option.words < kept[-1].words:
            kept.append(option)
    return kept


def _reader_cycles(graph: Graph, buffer: Buffer, config: AcceleratorConfig) -> int:
    """Predicted cycles of all operators that read the tensor."""
    cycles = 0
    for reader in graph.consumers(buffer.tensor.name):
        target = graph.tensors[reader.output]
        _, height, width = target.shape
        if reader.input != buffer.tensor.name:
            continue  # is only added
        if isinstance(reader, Convolution):
            found = candidates(reader, buffer.at(0), target, config)
            ways = [candidate.cost.cycles for candidate in found]
            if (walk := column_walk(reader, (height, width), config)) is not None:
                ways.append(buffer.planes * walk.taps)
            cycles += min(ways)
        elif isinstance(reader, Pool):
            kernel = reader.window.kernel[0] * reader.window.kernel[1]
            groups = buffer.period // config.post_lanes
            shared = config.paired_banks or config.depthwise
            cycles += PoolCost.of(height * width, kernel, buffer.planes, groups, shared=shared).cycles
    return cycles


def _lifetime(graph: Graph, name: str, words: int, beside: bool) -> Lifetime:
    writers = [step for step, operator in enumerate(graph.operators) if operator.output == name]
    readers = [step for step, operator in enumerate(graph.operators) if name in operator.inputs]
    first = HOST if name in graph.inputs else min(writers, default=HOST)
    if beside and first > 0:
        writer = graph.operators[first]
        first -= isinstance(writer, Convolution) and writer.groups > 1
    last = len(graph.operators) if name in graph.outputs else max([first, *readers])
    return Lifetime(name, words, first, last)


def _give_way(
    classes: Sequence[Sequence[str]],
    choices: Sequence[Sequence[_Choice]],
    chosen: list[_Choice],
    peak: Sequence[Lifetime],
) -> bool:
    """Move one class of the peak to its next choice, the cheapest per word saved; False if none is left."""
    names = {buffer.name for buffer in peak}
    best: tuple[float, int, _Choice] | None = None
    for index, members in enumerate(classes):
        position = choices[index].index(chosen[index]) + 1
        if position < len(choices[index]) and names & set(members):
            option = choices[index][position]
            price = (option.cycles - chosen[index].cycles) / (chosen[index].words - option.words)
            if best is None or price < best[0]:
                best = price, index, option
    if best is None:
        return False
    chosen[best[1]] = best[2]
    return True


def _refusal(graph: Graph, error: DoesNotFitError, config: AcceleratorConfig) -> ModelError:
    if error.step == HOST:
        where = f"input {', '.join(graph.inputs)}"
    else:
        where = f"layer {graph.operators[min(error.step, len(graph.operators) - 1)].name}"
    parts = " + ".join(f"{buffer.name} {buffer.words}" for buffer in error.peak)
    smaller, most = "use a smaller network or input", 1 << ADDRESS_BITS
    remedy = f"raise activation_depth to at least {error.needed}, or {smaller}"
    if error.needed > most:
        remedy = f"{smaller}, or more rows: no configuration has more than {most} words a row"
    return ModelError(
        f"the tensors alive here need {error.needed} words of activation memory ({parts}), "
        f"there are {config.activation_depth}",
        where=where,
        remedy=remedy,
    )
