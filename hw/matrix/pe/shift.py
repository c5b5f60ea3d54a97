"""The ``shift`` processing element: int8 activation times zero or ± a power of two, without a multiplier.

With y the shifted activation and s the sign, ``-y`` is ``(y ^ s) + s``: the inversion fits into the LUTs of
the first barrel level, a zero coefficient into those of the second, and the third choice is left to the adder
behind, whose carry-in takes s (`popshift.hw.tech.ecp5` does both in its carry cells).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.matrix.pe.product import Product
from popshift.hw.pipeline import delayed
from popshift.hw.tech.portable import Portable

AMOUNT_BITS = (numerics.EXPONENTS - 1).bit_length()
DECODED = data.StructLayout({"amount": AMOUNT_BITS, "negative": 1, "nonzero": 1})
"""A coefficient as the PEs store it: two of its bits are worth a LUT in each of them. Zero is all zeros."""
SHIFTED_BITS = numerics.ACTIVATION_BITS + numerics.EXPONENTS - 1
"""Of an activation shifted as far as it goes, inverted or not."""


def decoded(code: Value):
    """`DECODED`, as plain bits, of a coefficient's code (`popshift.hw.numerics.coefficient_code`)."""
    exponent = code[:AMOUNT_BITS]
    nonzero = exponent.any()
    amount = (exponent - nonzero)[:AMOUNT_BITS]
    return Cat(amount, code[numerics.CODE_BITS - 1] & nonzero, nonzero)


def decoded_value(code: int) -> int:
    """The same for a number."""
    exponent = code & ((1 << AMOUNT_BITS) - 1)
    if not exponent:
        return 0
    negative = code >> (numerics.CODE_BITS - 1) & 1
    return DECODED.const({"amount": exponent - 1, "negative": negative, "nonzero": 1}).as_bits()


class ShiftColumn:
    """The PEs of one column of a tile: what they shift, not what they add.

    ``stages`` registers (at least 2) lie between operands and products.
    """

    @staticmethod
    def weight(config: AcceleratorConfig) -> data.StructLayout:
        """What a PE stores."""
        return DECODED

    @staticmethod
    def products(
        m: Module,
        technology: Portable,
        activations: list[Signal],
        weights: list[data.View],
        *,
        stages: int,
        whole: int,
    ) -> list[Product]:
        """One product per row of the tile, with a carry; the first `whole` ones have added theirs."""
        return [
            _product(m, technology, activation, weight, stages=stages, whole=row < whole)
            for row, (activation, weight) in enumerate(zip(activations, weights, strict=True))
        ]


def _product(m: Module, technology: Portable, x: Signal, weight, *, stages: int, whole: bool) -> Product:
    by_one, by_two, by_four = weight.amount
    sign = weight.negative
    # The top bit is the same whatever the amount, so it is made zero in this level already.
    first = Cat(
        *(Mux(by_one, below, here) ^ sign for below, here in zip([Const(0, 1), *x[:-1]], x, strict=True)),
        (x[-1] ^ sign) & weight.nonzero,
    )
    *rest, top, by_two, by_four, sign, nonzero = delayed(
        m, Cat(first, by_two, by_four, sign, weight.nonzero), 1, "shifted_by_one"
    )
    # What comes in from below is inverted like the rest.
    second = Cat(
        *(
            Mux(by_two, below, here) & nonzero
            for below, here in zip([sign, sign, *rest], [*rest, top, top], strict=True)
        ),
        top,
    )
    result = Cat(second, by_four, sign)
    if whole:
        result = delayed(m, result, stages - 2, "shifted_by_two")
        product = _last_choice(result)
        nothing = Const(0, signed(1))
        total = product.added(m, technology, nothing, *product.carries, bits=SHIFTED_BITS + 1)
        return Product(low=delayed(m, total, 1, "product"))
    return _last_choice(delayed(m, result, stages - 1, "shifted_by_two"))


def _last_choice(result: Value) -> Product:
    """Of the shift by four, from bits behind the second level, its select and the sign."""
    *rest, top, by_four, sign = result
    high = Cat(sign.replicate(4), *rest[: SHIFTED_BITS - 5], top)
    return Product(low=Cat(*rest, top).as_signed(), high=high.as_signed(), select=by_four, carries=(sign,))
