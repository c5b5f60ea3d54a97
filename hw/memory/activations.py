"""Banked activation memory: one byte a bank, a read address for every bank, one write address for all."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import PAIR, AcceleratorConfig
from popshift.hw.memory.ram import Ram
from popshift.hw.tech.portable import Portable


def address_bits(config: AcceleratorConfig) -> int:
    """Bits of an activation address inside the memory."""
    return (config.activation_depth - 1).bit_length()


class ActivationMemory(wiring.Component):
    """`rows` banks of `activation_depth` bytes.

    Bank b is written with byte ``b % post_lanes`` of the write data, so a group of `post_lanes` neighbouring
    banks takes one result of the post unit, and the same byte in all lanes fills any set of banks.

    With ``paired_banks``, two neighbours are one memory with one port: both are read at the address of the
    first, and what is read in a cycle in which one of them is written is undefined.

    Members
    -------
    read_address: one per bank. read_data: one byte per bank, `Ram.LATENCY` cycles later.
    write_mask: one bit per bank. write_address, write_data: registered once inside (the fan-out is wide); a
        write is visible to reads that start two cycles later.
    bytes_there: only with ``residual``: of every bank the byte at the write address, `THERE_LATENCY` cycles
        later, undefined where it was written.
    """

    LATENCY = Ram.LATENCY
    WRITE_LATENCY = 1
    THERE_LATENCY = WRITE_LATENCY + Ram.LATENCY

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        bits = address_bits(config)
        super().__init__(
            {
                "read_address": In(data.ArrayLayout(bits, config.rows)),
                "read_data": Out(data.ArrayLayout(8, config.rows)),
                "write_mask": In(config.rows),
                "write_address": In(bits),
                "write_data": In(data.ArrayLayout(8, config.post_lanes)),
                **({"bytes_there": Out(data.ArrayLayout(8, config.rows))} if config.residual else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        mask = Signal(config.rows)
        address = Signal.like(self.write_address, reset_less=True)
        lanes = [Signal(8, name=f"write_lane_{lane}", reset_less=True) for lane in range(config.post_lanes)]
        m.d.sync += [mask.eq(self.write_mask), address.eq(self.write_address)]
        m.d.sync += [lane.eq(self.write_data[index]) for index, lane in enumerate(lanes)]
        if config.paired_banks:
            self._pairs(m, mask, address, lanes)
            return m
        for bank in range(config.rows):
            ram = self._technology.ram(width=8, depth=config.activation_depth, read_back=config.residual)
            m.submodules[f"bank_{bank}"] = ram
            m.d.comb += [
                ram.read_address.eq(self.read_address[bank]),
                self.read_data[bank].eq(ram.read_data),
                ram.write_enable.eq(mask[bank]),
                ram.write_address.eq(address),
                ram.write_data.eq(lanes[bank % config.post_lanes]),
            ]
            if config.residual:
                m.d.comb += self.bytes_there[bank].eq(ram.word_there)
        return m

    def _pairs(self, m: Module, mask: Signal, address: Signal, lanes: list[Signal]) -> None:
        for first in range(0, self._config.rows, PAIR):
            banks = slice(first, first + PAIR)
            pair = self._technology.paired_banks(depth=self._config.activation_depth)
            m.submodules[f"banks_{first}"] = pair
            written = [lanes[bank % len(lanes)] for bank in range(first, first + PAIR)]
            m.d.comb += [
                pair.read_address.eq(self.read_address[first]),
                *(self.read_data[first + bank].eq(pair.read_data[bank]) for bank in range(PAIR)),
                pair.write_mask.eq(mask[banks]),
                pair.write_address.eq(address),
                *(pair.write_data[bank].eq(byte) for bank, byte in enumerate(written)),
            ]
