"""Loop counters whose end is known from a register, so that nests of them stay fast."""

from amaranth.hdl import Module, Signal


class Loop:
    """Counts down from `limit` (the number of rounds minus one) to the last round.

    ``last`` is a register: true throughout the last round. Call `restart` or `advance` under the conditions
    of the enclosing statement; a restart written later wins.
    """

    def __init__(self, m: Module, limit, name: str) -> None:
        self._m, self._limit = m, limit
        self._left = Signal(len(limit), name=f"{name}_left", reset_less=True)
        self.last = Signal(name=f"{name}_last")

    def restart(self, limit=None) -> None:
        """Begin with the first round; with `limit`, if what the loop was made with is only about to have this
        value.
        """
        limit = self._limit if limit is None else limit
        self._m.d.sync += [self._left.eq(limit), self.last.eq(limit == 0)]

    def advance(self) -> None:
        """Go on to the next round; after the last one to the first."""
        with self._m.If(self.last):
            self.restart()
        with self._m.Else():
            self._m.d.sync += [self._left.eq(self._left - 1), self.last.eq(self._left == 1)]
