"""What a processing element hands to the adders behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed

from popshift.hw.tech.portable import Portable


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A signed number, ``(high if select else low) + sum of carries``, that some adder behind may still have
    to put together.

    Attributes
    ----------
    low, high: signed; without `high` the number is `low`.
    select: one bit.
    carries: bits that weigh 1; an adder takes one of them as its carry-in.
    """

    low: Value
    high: Value | None = None
    select: Value | None = None
    carries: tuple[Value, ...] = ()

    @property
    def chosen(self) -> Value:
        """`high` or `low`, without the carries."""
        return self.low if self.high is None else Mux(self.select, self.high, self.low)

    def __len__(self) -> int:
        """Bits of `chosen`."""
        return len(self.low) if self.high is None else max(len(self.low), len(self.high))

    def added(self, m: Module, technology: Portable, other: Value, carry: Value | None = None, *, bits: int):
        """`bits` bits of ``other + chosen + carry``; the product's own carries are for the caller to give."""
        if self.high is not None:
            carry = Const(0, 1) if carry is None else carry
            return technology.add_chosen(m, other, self.low, self.high, self.select, carry, bits=bits)
        total = other + self.low
        return total if carry is None else total + carry  # synthesis makes one row of carry cells of it


def either(products: Sequence[Product]) -> Product:
    """The sum of products of which all but one are zero, carries too."""
    if len(products) == 1:
        return products[0]
    carries = [carry for product in products for carry in product.carries]
    chosen = reduce(or_, [product.chosen for product in products])
    return Product(low=chosen, carries=(reduce(or_, carries),) if carries else ())


def sum_registered(m: Module, technology: Portable, products: Sequence[Product], name: str) -> Product:
    """One or two products added and behind a register; all their carries but one wait for a later adder."""
    carries = [carry for product in products for carry in product.carries]
    first, *others = products
    width = max(len(product) for product in products) + len(others)
    total = Signal(signed(width), name=name, reset_less=True)
    if others:
        carry = carries.pop() if carries else None
        m.d.sync += total.eq(others[0].added(m, technology, first.chosen, carry, bits=width))
    else:
        m.d.sync += total.eq(first.chosen)
    waiting = []
    for index, carry in enumerate(carries):
        later = Signal(name=f"{name}_carry_{index}", reset_less=True)
        m.d.sync += later.eq(carry)
        waiting.append(later)
    return Product(low=total, carries=tuple(waiting))
