"""A part of a design between registers, to be placed and routed without its surroundings."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.pipeline import registered

XOR_INPUTS = 4


class OutOfContext(wiring.Component):
    """A part between registers, with two pins: `rx` feeds a shift register from which every bit of its inputs
    comes, every bit of its outputs has a register and goes from there into a registered tree of XOR to `tx`.

    So the part can be placed and routed without its surroundings: no pin limits it, nothing of it can be left
    out, and every path in it lies between registers. What it does with such inputs means nothing.
    """

    def __init__(self, part: wiring.Component) -> None:
        self._part = part
        super().__init__({"rx": In(1), "tx": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = part = self._part
        inputs, outputs = [], []
        for _, member, value in part.signature.flatten(part):
            (inputs if member.flow == In else outputs).append(Value.cast(value))
        chain = Signal(sum(len(value) for value in inputs), reset_less=True)
        # Inverted from bit to bit: else synthesis would find in it what the part delays by a cycle, and make
        # one register of both.
        m.d.sync += chain.eq(Cat(self.rx, ~chain))
        m.d.comb += Cat(*inputs).eq(chain)
        level = registered(m, Cat(*outputs), "outputs")
        while len(level) > 1:
            groups = [level[low : low + XOR_INPUTS] for low in range(0, len(level), XOR_INPUTS)]
            level = registered(m, Cat(group.xor() for group in groups), f"xor_{len(groups)}")
        m.d.comb += self.tx.eq(level)
        return m
