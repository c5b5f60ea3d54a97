"""The portable technology: plain arithmetic for any simulator and synthesis, and the base the device
technologies refine.

Every technology has the same latencies, so a program takes the same cycles on all of them. A device
technology overrides what it can do better with primitives; `tests/hw/test_tech.py` proves each primitive
equal to its portable twin.
"""

from amaranth.hdl import Module, Mux, Signal, Value, signed

from popshift.hw.memory.paired import PairedBanks
from popshift.hw.memory.ram import Ram, VerilogRam
from popshift.hw.pipeline import delayed


class Portable:
    """Multipliers as ``*`` followed by registers; memories as arrays.

    Parameters
    ----------
    dsp_multipliers: PEs that may use a DSP block, in row order; -1: all. Meaningless here, for devices.
    """

    name = "portable"

    def __init__(self, *, dsp_multipliers: int = -1) -> None:
        self._dsp_left = dsp_multipliers if dsp_multipliers >= 0 else 1 << 30

    def take_dsp(self, wanted: int) -> int:
        """How many of `wanted` PEs may use DSP blocks; counts them as used."""
        granted = min(wanted, self._dsp_left)
        self._dsp_left -= granted
        return granted

    def products(self, m: Module, pairs: list[tuple[Signal, Signal]], *, stages: int) -> list[Signal]:
        """Signed 8 x 8 or 8 x 16 products, each `stages` registers behind its operands, as wide as both."""
        return [self.lut_product(m, a, b, stages=stages) for a, b in pairs]

    def lut_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        """A signed product without a DSP block."""
        return delayed(m, a * b, stages, "product", shape=signed(len(a) + len(b)))

    def add_chosen(
        self, m: Module, a: Value, low: Value, high: Value, select: Value, carry: Value, *, bits: int
    ) -> Value:
        """`bits` bits of ``a + (high if select else low) + carry``, signed but for the one bit of carry."""
        return (a + Mux(select, high, low) + carry)[:bits].as_signed()

    def wide_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        """Signed product of wide operands (the post unit's), `stages` (at least 4) registers behind them."""
        return delayed(m, a * b, stages, "wide_product", shape=signed(len(a) + len(b)))

    def ram(self, *, width: int, depth: int, read_back: bool = False) -> Ram:
        """A memory with one read and one write port, which may read, too."""
        return VerilogRam(width=width, depth=depth, read_back=read_back)

    def host_ram(self, *, width: int, depth: int) -> Ram:
        """A memory that the host writes while nothing reads it: single-port blocks will do, and a word may be
        written a cycle later.
        """
        return self.ram(width=width, depth=depth)

    def paired_banks(self, *, depth: int) -> PairedBanks:
        """Two banks of activations in a memory with one port."""
        return PairedBanks(depth=depth, ram=self.ram)


class Simulated(Portable):
    """The portable technology with memories that Amaranth's own simulator can run."""

    name = "simulated"

    def ram(self, *, width: int, depth: int, read_back: bool = False) -> Ram:
        return Ram(width=width, depth=depth, read_back=read_back)
