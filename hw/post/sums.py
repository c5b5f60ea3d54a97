"""Sums of two tensors in the post unit: every result goes through its lane twice more.

An ADD takes a cycle of each *turn* for a result: the accumulator becomes an activation; this or the other
tensor's byte is scaled, while the other of the two, which takes no more than a factor of one half, waits;
their sum is requantised. The three follow each other at fixed distances, so that results of one instruction
can be under way at any time, each `SUM_PERIOD` cycles behind the other.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa, numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.memory.activations import ActivationMemory, address_bits
from popshift.hw.numerics import Requantise
from popshift.hw.pipeline import delayed, registered
from popshift.hw.post.elements import ELEMENT, Walk, area_ends, groups_end, row_ends
from popshift.hw.post.requantise import latency, scaled_latency

SUM_PERIOD = 3
ACCUMULATOR, SCALED, SUM = range(SUM_PERIOD)
"""The turns: what enters the lanes."""
_SELECT_LATENCY = 2
"""Cycles from the bytes of all banks to that which enters a lane."""
_NEIGHBOURS = 4
"""Groups among which the first step of the selection is."""


def _lags(mode: Requantise) -> tuple[int, int]:
    """How long after its accumulator a result, and then its sum, can enter the lanes."""
    result = latency(mode) + (SCALED - latency(mode)) % SUM_PERIOD
    ready = result + scaled_latency(mode) + 1
    return result, ready + (SUM - ready) % SUM_PERIOD


RESULT_LAG, SUM_LATENCY = _lags(Requantise.EXACT)
"""`SUM_LATENCY`: by how many cycles a sum is written later than a result without."""
assert _lags(Requantise.COMPACT) <= (RESULT_LAG, SUM_LATENCY), "one schedule for both modes"
assert isa.ADDEND_WORDS == SUM_PERIOD - 1, "a parameter word for every turn but the first, in their order"
assert ActivationMemory.THERE_LATENCY <= SUM_PERIOD, "a group's number stands until its bytes are there"


def _byte_wait(mode: Requantise) -> int:
    """Cycles that the byte is read earlier: the memory's port cannot read and write in the same cycle."""
    apart = SUM_LATENCY + latency(mode) - RESULT_LAG + _SELECT_LATENCY + ActivationMemory.THERE_LATENCY
    return 0 if apart % SUM_PERIOD else 1


def read_lag(mode: Requantise) -> int:
    """How long after the accumulator has entered the lanes the byte's address is at the memory."""
    return RESULT_LAG - _SELECT_LATENCY - ActivationMemory.THERE_LATENCY - _byte_wait(mode)


class SumLane(wiring.Component):
    """What enters a lane of the post unit in the turns SCALED and SUM.

    Members
    -------
    turn: a bit for each, of the lanes' input. scale_result: the result is scaled, else the byte.
    byte: the tensor's, in the cycle before turn SCALED. activation, scaled: the lane's results.
    value: for the lane.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._mode = config.requantise
        super().__init__(
            {
                "turn": In(SUM_PERIOD),
                "scale_result": In(1),
                "byte": In(signed(8)),
                "activation": In(signed(8)),
                "scaled": In(signed(config.post_bits)),
                "value": Out(signed(config.post_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mode = self._mode
        result = delayed(m, self.activation, RESULT_LAG - latency(mode) - 1, "result")
        raised = registered(m, Mux(self.scale_result, result, self.byte), "raised", shape=signed(8))
        waiting = registered(m, Mux(self.scale_result, self.byte, result), "waiting", shape=signed(8))
        for place in range((scaled_latency(mode) - 1) // SUM_PERIOD + 1):  # until the other is scaled
            kept = Signal(signed(8), name=f"kept_{place}", reset_less=True)
            with m.If(self.turn[SCALED]):
                m.d.sync += kept.eq(waiting)
            waiting = kept
        total = registered(m, self.scaled + numerics.halved(waiting, mode), "sum", shape=self.value.shape())
        total = delayed(m, total, SUM_LATENCY - RESULT_LAG - scaled_latency(mode) - 1, "sum_waits")
        m.d.comb += self.value.eq(Mux(self.turn[SUM], total, numerics.raised(raised, 0, mode)))
        return m


class AddendReader(wiring.Component):
    """Walks through the tensor that is added, as the results are written, and fetches its bytes.

    Members
    -------
    begin: strobe: a new instruction. base, x_step, y_step, plane_step, group: the instruction's.
    element: valid in the cycle in which the address must be at the memory.
    address: of all banks. outside: it lies beyond the memory.
    bytes_there: of all banks, `ActivationMemory.THERE_LATENCY` cycles later. bytes: of the group, in the
        cycle before turn SCALED.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        bits = isa.heeded_bits("addend_base", config)
        super().__init__(
            {
                "begin": In(1),
                **{name: In(bits) for name in ("base", "x_step", "y_step", "plane_step")},
                "group": In(isa.PLACEMENTS[isa.Opcode.ADD]["addend_group"].field.bits),
                "element": In(ELEMENT),
                "address": Out(address_bits(config)),
                "outside": Out(1),
                "bytes_there": In(data.ArrayLayout(unsigned(8), config.rows)),
                "bytes": Out(data.ArrayLayout(signed(8), config.post_lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, element = self._config, self.element
        step = Mux(row_ends(element), self.y_step, self.x_step)
        walk = Walk(m, element, step, self, name="walk")
        with m.If(self.begin):
            walk.begin(m)
        group = Signal(config.bank_groups, reset_less=True)
        held = Signal.like(group)
        with m.If(element.valid):
            m.d.sync += held.eq(group)
            with m.If(groups_end(element)):
                m.d.sync += group.eq(1 << self.group)
            with m.Elif(area_ends(element)):
                m.d.sync += group.eq(group << 1)
        with m.If(self.begin):
            m.d.sync += group.eq(1 << self.group)
        m.d.comb += [
            self.address.eq(walk.address),
            self.outside.eq(element.valid & (walk.address >= config.activation_depth)),
        ]
        # `held` stands until the next byte's address comes, which is as long as the memory takes.
        for lane in range(config.post_lanes):
            banks = [self.bytes_there[bank] for bank in range(lane, config.rows, config.post_lanes)]
            chosen = [Mux(held[number], byte, 0) for number, byte in enumerate(banks)]
            near = [
                registered(m, _either(chosen[first : first + _NEIGHBOURS]), f"near_{lane}_{first}")
                for first in range(0, len(chosen), _NEIGHBOURS)
            ]
            wait = _byte_wait(config.requantise)
            m.d.comb += self.bytes[lane].eq(delayed(m, _either(near), wait, f"byte_{lane}"))
        return m


def _either(values: list):
    """Bitwise or."""
    found = values[0]
    for value in values[1:]:
        found = found | value
    return found


class Sums:
    """What an ADD changes in the post unit, as far as it is not in its lanes.

    `adding` is 0 while another instruction is executed; then nothing here has an effect.

    Parameters
    ----------
    control: a `PostControl`, whose `may_take` is driven here; its fields go to `reader`.
    entry: cycles from an element's issue until the accumulator enters the lanes.
    parameters: cycles from the address of parameters until they enter the lanes.
    """

    def __init__(
        self, m: Module, control: Any, config: AcceleratorConfig, *, entry: int, parameters: int
    ) -> None:
        self._m, self._control, self._entry, self._parameters = m, control, entry, parameters
        self._written = SUM_LATENCY + latency(config.requantise)
        read = read_lag(config.requantise)
        assert (self._written - read) % SUM_PERIOD, "the port cannot read and write in one cycle"
        self.adding = registered(m, control.adding, "adding")
        self._turn = Signal(SUM_PERIOD, name="turn", init=1)
        m.d.sync += self._turn.eq(Mux(control.begin, 1, self._turn.rotate_left(1)))
        first_next = control.begin | self._turn[-1]
        m.d.comb += control.may_take.eq(registered(m, ~control.adding | first_next, "may_take"))
        turns = Cat(self._in_turn(turn, entry - 1) for turn in range(SUM_PERIOD))
        self.turn = registered(m, turns, "lane_turn")
        self.takes_accumulator = registered(
            m, ~control.adding | self._in_turn(ACCUMULATOR, entry - 1), "takes_accumulator"
        )
        # Elements are issued in turn 0, so that one kept for a period is enough.
        self._stages = [control.element.as_value()]
        for stage in range(-(-(entry + self._written) // SUM_PERIOD)):
            kept = Signal(ELEMENT.size, name=f"sum_element_{stage}", reset_less=True)
            valid = Signal(name=f"sum_valid_{stage}")
            with m.If(self._turn[0]):
                m.d.sync += [kept.eq(self._stages[-1]), valid.eq(self._stages[-1][0] & control.adding)]
            self._stages.append(Cat(valid, kept[1:]))

        self.reader = m.submodules.addend = reader = AddendReader(config=config)
        for name in ("begin", "x_step"):
            m.d.comb += getattr(reader, name).eq(getattr(control, name))
        for name in ("base", "y_step", "plane_step", "group"):
            m.d.comb += getattr(reader, name).eq(getattr(control, f"addend_{name}"))
        m.d.comb += reader.element.eq(self._element(read))

    def _in_turn(self, turn: int, age: int):
        """Whether `age` cycles ago it was this turn."""
        return self._turn[(turn + age) % SUM_PERIOD]

    def _element(self, lag: int) -> data.View:
        """The element `lag` cycles after its accumulator has entered the lanes; valid for one cycle."""
        age = self._entry + lag
        stage = self._stages[-(-age // SUM_PERIOD)]
        valid = stage[0] & self._in_turn(0, age)
        return data.View(ELEMENT, Cat(valid, stage[1:]))

    def parameter_address(self, late_address):
        """That of the accumulator's parameters, or in the other turns of the words in front."""
        m, front = self._m, Signal.like(late_address, name="front_address", reset_less=True)
        age = self._entry - self._parameters - 1
        back = Mux(self._in_turn(SUM, age), 1, SUM_PERIOD - SCALED)
        m.d.sync += front.eq(self._control.parameter_base - back)
        own = registered(m, ~self._control.adding | self._in_turn(ACCUMULATOR, age), "own_parameters")
        return Mux(own, late_address, front)

    def early_element(self, other: data.View) -> data.View:
        """The element that is written in the next cycle: a sum, or another instruction's."""
        own = self._element(self._written - 1)
        return data.View(ELEMENT, Mux(self.adding, own.as_value(), other.as_value()))

    def limits(self, mode: Requantise, others: dict[str, Any]) -> dict[str, Signal]:
        """Zero point and limits for the lanes, registers: those in front of the sum in its cycles."""
        cycles = {"zero_point": scaled_latency(mode)}
        cycles |= dict.fromkeys(("low", "high"), scaled_latency(mode) + 1)
        found = {}
        for name, other in others.items():
            inner = getattr(self._control, f"inner_{name}")
            taken = self._in_turn(ACCUMULATOR, self._entry + cycles[name] - 1)
            chosen = Mux(self._control.adding & taken, inner, other)
            found[name] = registered(self._m, chosen, f"lane_{name}", shape=signed(8))
        return found
