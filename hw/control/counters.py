"""Counters of a run: where its cycles went and what it moved."""

from amaranth.hdl import Const, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import ALWAYS_COUNTED, COUNTER_BITS, CYCLE_CAUSES, Counter
from popshift.hw.pipeline import registered


class Counters(wiring.Component):
    """Counts events while the machine runs; without `performance_counters` all but CYCLES stay 0 here.

    Members
    -------
    clear: strobe. cycles: counted by the sequencer. running.
    events: one bit per counter; of the cycle causes the first one set counts, CONTROL if none is.
    second_read: only with ``depthwise``: a second word of activations is read.
    values: in the order of `Counter`.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "clear": In(1),
                "cycles": In(COUNTER_BITS),
                "running": In(1),
                "events": In(len(Counter)),
                **({"second_read": In(1)} if self._config.depthwise else {}),
                "values": Out(data.ArrayLayout(unsigned(COUNTER_BITS), len(Counter))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.values[Counter.CYCLES].eq(self.cycles)
        if not self._config.performance_counters:
            return m
        earlier: Signal | Const = Const(0, 1)
        for counter in Counter:
            if counter in ALWAYS_COUNTED:
                continue
            event = self.events[counter]
            if counter is CYCLE_CAUSES[-1]:
                event = ~earlier
            elif counter in CYCLE_CAUSES:
                event, earlier = event & ~earlier, earlier | event
            counted = Signal(name=f"counted_{counter.name.lower()}")
            value = Signal(COUNTER_BITS, name=counter.name.lower())
            m.d.sync += [counted.eq(event & self.running), value.eq(value + counted)]
            if self._config.depthwise and counter is Counter.ACTIVATION_READS:
                twice = registered(m, self.second_read & self.running & ~self.clear, "counted_twice")
                m.d.sync += value.eq(value + counted + twice)
            with m.If(self.clear):
                m.d.sync += [counted.eq(0), value.eq(0)]
            m.d.comb += self.values[counter].eq(value)
        return m
