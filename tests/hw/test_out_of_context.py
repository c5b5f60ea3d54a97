"""A part between registers: every input is fed, every output is seen."""

import random

from amaranth.hdl import Cat, Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from popshift.hw.out_of_context import XOR_INPUTS, OutOfContext


class _Part(wiring.Component):
    """Two inputs and two outputs of several bits, a cycle from one to the other."""

    a: In(data.ArrayLayout(signed(3), 2))
    b: In(1)
    sums: Out(data.ArrayLayout(signed(4), 2))
    odd: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.sums[index].eq(self.a[index] + self.b) for index in range(2)]
        m.d.sync += self.odd.eq(self.b)
        return m


def test_a_part_alone_gets_every_input_and_shows_every_output():
    part = _Part()
    alone = OutOfContext(part)
    rng = random.Random(5)
    bits = [rng.getrandbits(1) for _ in range(60)]
    parities, shown = [], []

    async def bench(ctx):
        for index, bit in enumerate(bits):
            ctx.set(alone.rx, bit)
            await ctx.tick()
            if index < 7:
                continue
            # The newest bit is in the first input, and each next one is inverted once more.
            came = [bits[index - place] ^ place % 2 for place in range(7)]
            assert [int(digit) for digit in f"{ctx.get(Cat(part.a.as_value(), part.b)):07b}"[::-1]] == came
            values = ctx.get(part.sums.as_value()), ctx.get(part.odd)
            parities.append(sum(value.bit_count() for value in values) % 2)
            shown.append(ctx.get(alone.tx))

    simulator = Simulator(alone)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    registers = 1 + 2  # behind the outputs, and two levels of four for nine bits
    assert XOR_INPUTS**2 >= 9 and any(parities)
    assert shown[registers:] == parities[:-registers]
