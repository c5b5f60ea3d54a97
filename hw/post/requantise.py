"""One lane of the post unit: from accumulator to activation, a pure pipeline
(`popshift.hw.numerics.requantise`).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.numerics import Requantise
from popshift.hw.pipeline import registered
from popshift.hw.tech.portable import Portable

_SATURATED_BITS = 10
"""A rounded value is limited to 10 bits before the zero point is added: any clamp limit still decides alike.
"""


def product_stages(mode: Requantise) -> int:
    """Pipeline registers of the lane's multiplier."""
    return 5 if mode is Requantise.EXACT else 4


def latency(mode: Requantise) -> int:
    """Cycles from accumulator to activation: bias, product, (first rounding,) three of shifting, rounding,
    zero point, two of clamping.
    """
    return 1 + product_stages(mode) + (mode is Requantise.EXACT) + 3 + 1 + 1 + 2


def scaled_latency(mode: Requantise) -> int:
    """Cycles from accumulator to the rounded product."""
    return latency(mode) - 3


class RequantiseLane(wiring.Component):
    """``clamp(zero_point + round((accumulator + bias) * factor))``, one result a cycle, `latency` cycles
    later.

    Members
    -------
    accumulator, bias, multiplier, shift: of one element. zero_point, low, high: constant while elements are
        under way.
    activation: the result.
    scaled: only with ``residual``: ``round((accumulator + bias) * factor)``, `scaled_latency` cycles later;
        zero point and limits may then change from element to element, they are taken when they are added
        and compared.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._mode, self._technology = config.requantise, technology
        self._width, self._residual = config.post_bits, config.residual
        super().__init__(
            {
                "accumulator": In(signed(self._width)),
                "bias": In(signed(numerics.BIAS_BITS)),
                "multiplier": In(self._mode.multiplier_bits),
                "shift": In(numerics.SHIFT_BITS),
                "zero_point": In(signed(8)),
                "low": In(signed(8)),
                "high": In(signed(8)),
                "activation": Out(signed(8)),
                **({"scaled": Out(signed(self._width))} if self._residual else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        biased = registered(m, (self.accumulator + self.bias)[: self._width].as_signed(), "biased")
        multiplier = registered(m, Cat(self.multiplier, Const(0, 1)).as_signed(), "multiplier")
        stages = product_stages(self._mode)
        product = self._technology.wide_product(m, biased, multiplier, stages=stages)
        shift = self.shift
        for stage in range(1 + stages):
            shift = registered(m, shift, f"shift_{stage}")
        guard, sticky = Const(0, 1), Const(0, 1)
        if self._mode is Requantise.EXACT:
            # Half-up rounding by 2**31 is the bit below the cut added to the rest.
            fraction = numerics.EXACT_FRACTION_BITS
            high_part = product[fraction : fraction + self._width + 1].as_signed()
            value = registered(m, high_part + product[fraction - 1], "scaled", shape=signed(self._width + 1))
            shift = registered(m, shift, "shift_scaled")
        else:
            # Every shift is at least this one, which costs nothing.
            least = self._mode.shifts.start
            value, guard, sticky = product[least:].as_signed(), product[least - 1], product[: least - 1].any()
            shift = shift - least
        rounded = self._shift_away(m, value, shift, guard, sticky)
        summed = registered(m, rounded + self.zero_point, "summed")
        below = registered(m, summed < self.low, "below")
        above = registered(m, summed > self.high, "above")
        inside = registered(m, summed, "inside", shape=signed(8))
        low, high = self.low, self.high
        if self._residual:
            low, high = registered(m, low, "low_later"), registered(m, high, "high_later")
        limited = Mux(below, low, Mux(above, high, inside))
        m.d.comb += self.activation.eq(registered(m, limited, "limited", shape=signed(8)))
        return m

    def _shift_away(self, m: Module, value, shift, guard, sticky) -> Signal:
        """Arithmetic shift right with rounding half away from zero, saturated; 4 cycles.

        A barrel shifter that carries the last bit shifted out (guard) and whether any below it was one
        (sticky): round up if guard and (value >= 0 or sticky).
        """
        levels = list(reversed(range((len(self._mode.shifts) - 1).bit_length())))
        assert len(levels) <= 6, "three stages of two levels"
        for stage in range(0, len(levels), 2):
            for level in levels[stage : stage + 2]:
                amount = min(1 << level, len(value) - 1)
                take = shift[level]
                below = value[: amount - 1].any() if amount > 1 else Const(0, 1)
                sticky = Mux(take, sticky | guard | below, sticky)
                guard = Mux(take, value[amount - 1], guard)
                value = Mux(take, value >> amount, value)
            value = registered(m, value, f"shifted_{stage}")
            guard, sticky = registered(m, guard, f"guard_{stage}"), registered(m, sticky, f"sticky_{stage}")
            shift = registered(m, shift[: len(levels)], f"shift_left_{stage}")
        negative = value[-1]
        up = guard & (~negative | sticky)
        if self._residual:
            whole = (value + up)[: self._width].as_signed()
            m.d.comb += self.scaled.eq(registered(m, whole, "whole", shape=signed(self._width)))
        small = (value[_SATURATED_BITS - 2 :] == 0) | (value[_SATURATED_BITS - 2 :].all())
        limit = (1 << (_SATURATED_BITS - 1)) - 1
        kept = Mux(small, value[: _SATURATED_BITS - 1].as_signed(), Mux(negative, -limit, limit - 1))
        return registered(m, kept + up, "rounded", shape=signed(_SATURATED_BITS))
