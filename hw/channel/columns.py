"""Depthwise windows: three multipliers for every bank, and sums that slide from column to column.

A column's byte counts in three windows: as the rightmost of one, in the middle of the next, leftmost of the
one after. So every byte is read once a line, and takes three products at once; no line is kept.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import WINDOW
from popshift.hw.parameter_word import TAPS, tap_words, taps_of_word
from popshift.hw.pipeline import registered
from popshift.hw.tech.portable import Portable

CHOICE_LATENCY = 1
"""Cycles from the number of a row to its weights at the multipliers."""


def sums_latency(config: AcceleratorConfig) -> int:
    """Cycles from the bytes to the sums that have taken them in."""
    return config.multiplier_stages + 1


class Columns(wiring.Component):
    """The sums of all banks over a column and those in front of it.

    Members
    -------
    load, word: strobe: the next word of weights (`pack_taps`), group by group, is here.
    row: of the column, `CHOICE_LATENCY` cycles before its byte. activations: a byte of every bank.
    valid, first, begins: with the last register of the products, `multiplier_stages` cycles after the bytes:
        there is one; the first of a column; of the first column of a line.
    sums: a cycle later, of the windows that end with this column.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        super().__init__(
            {
                "load": In(1),
                "word": In(config.post_lanes * config.parameter_bits),
                "row": In(range(WINDOW)),
                "activations": In(data.ArrayLayout(signed(8), config.rows)),
                "valid": In(1),
                "first": In(1),
                "begins": In(1),
                "sums": Out(data.ArrayLayout(signed(numerics.DEPTHWISE_BITS), config.rows)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        weights = self._weights(m)
        anew = self.first & self.begins
        for bank in range(config.rows):
            chosen = [
                registered(m, Array(weights[bank][column::WINDOW])[self.row], f"weight_{bank}_{column}")
                for column in range(WINDOW)
            ]
            pairs = [(self.activations[bank], weight) for weight in chosen]
            products = self._technology.products(m, pairs, stages=config.multiplier_stages)
            # Of the windows in which the column is leftmost, in the middle, rightmost.
            sums = [
                Signal(signed(numerics.DEPTHWISE_BITS), name=f"sum_{bank}_{column}", reset_less=True)
                for column in range(WINDOW)
            ]
            with m.If(self.valid):
                for column, (own, product) in enumerate(zip(sums, products, strict=True)):
                    before = sums[column - 1] if column else 0
                    so_far = Mux(self.first, Mux(anew, 0, before), own)
                    m.d.sync += own.eq(so_far.as_signed() + product)
            m.d.comb += self.sums[bank].eq(sums[-1])
        return m

    def _weights(self, m: Module) -> list[list[Signal]]:
        """Of every bank its weights, row by row: words move on from the last to the first."""
        config = self._config
        words, each = tap_words(config), taps_of_word(config)
        bits = numerics.WEIGHT_BITS * each
        places = [
            [Signal(bits, name=f"taps_{place}_{lane}", reset_less=True) for lane in range(config.post_lanes)]
            for place in range(config.bank_groups * words)
        ]
        with m.If(self.load):
            for lane in range(config.post_lanes):
                start = lane * config.parameter_bits
                row = [place[lane] for place in places]
                m.d.sync += Cat(*row).eq(Cat(*row[1:], self.word[start : start + bits]))
        found = []
        for bank in range(config.rows):
            group, lane = divmod(bank, config.post_lanes)
            taps = Cat(*(place[lane] for place in places[group * words : (group + 1) * words]))
            size = numerics.WEIGHT_BITS
            found.append([taps[size * tap : size * (tap + 1)].as_signed() for tap in range(TAPS)])
        return found
