"""Two activation banks in one memory of 16 bits with one port."""

from collections.abc import Callable

from amaranth.hdl import Module, Mux
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import PAIR
from popshift.hw.memory.ram import Ram


class PairedBanks(wiring.Component):
    """A word is a byte of each bank. A write takes the place of a read; else as `Ram`.

    Parameters
    ----------
    ram: makes a bank.

    Members
    -------
    read_address, read_data: a byte of each bank, `LATENCY` cycles later; undefined if something was written
        in the cycle of the address.
    write_mask: one bit per bank. write_address, write_data: written at the end of the cycle.
    """

    LATENCY = Ram.LATENCY

    def __init__(self, *, depth: int, ram: Callable[..., Ram]) -> None:
        self._depth, self._ram = depth, ram
        bits = (depth - 1).bit_length()
        super().__init__(
            {
                "read_address": In(bits),
                "read_data": Out(data.ArrayLayout(8, PAIR)),
                "write_mask": In(PAIR),
                "write_address": In(bits),
                "write_data": In(data.ArrayLayout(8, PAIR)),
            }
        )

    @property
    def address(self):
        """Of the port."""
        return Mux(self.write_mask.any(), self.write_address, self.read_address)

    def elaborate(self, platform):
        m = Module()
        for bank in range(PAIR):
            m.submodules[f"bank_{bank}"] = ram = self._ram(width=8, depth=self._depth)
            m.d.comb += [
                ram.read_address.eq(self.address),
                self.read_data[bank].eq(ram.read_data),
                ram.write_enable.eq(self.write_mask[bank]),
                ram.write_address.eq(self.write_address),
                ram.write_data.eq(self.write_data[bank]),
            ]
        return m
