"""Windows of depthwise layers: every column of the array has a bank of its own, and its rows the neighbours
of the byte just read.

The pixels of a tile are streamed line by line, once. A column keeps the last lines and the last pixels of
each; where a dense layer sends one byte through a row of the array, a depthwise one shows every column its
own. (A line buffer in front of every column, as for a single filter in Bailey, "Design for Embedded Image
Processing on FPGAs", 2011, ch. 8.)
"""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.numerics import ACTIVATION_BITS
from popshift.hw.pipeline import delayed, registered


def window_taps(config: AcceleratorConfig) -> int:
    """Rows of the array that can have windows; row ``3 * v + u``: the byte v lines and u pixels ago."""
    lines, pixels = isa.window_block(config)
    return lines * pixels


def window_columns(config: AcceleratorConfig) -> int:
    """Columns that have a bank of their own."""
    return min(config.rows, config.cols)


def window_members(config: AcceleratorConfig) -> dict:
    """What the mesh gets: see `Windows`."""
    taps = data.ArrayLayout(signed(ACTIVATION_BITS), window_taps(config))
    return {
        "taps": In(data.ArrayLayout(taps, window_columns(config))),
        "chosen": In(data.ArrayLayout(config.mesh_cols, config.mesh_rows)),
    }


class Windows(wiring.Component):
    """The lines and pixels that the columns keep.

    Members
    -------
    activations: one byte per bank, skewed by row tile, as the mesh gets them.
    line: a line's first byte comes in the next cycle, at row tile 0.
    used: the instruction has windows. x_first, y_first: its fields. All three of the byte that comes in the
        next cycle.
    taps: for every column of `window_columns` the bytes for its rows of `window_taps`, skewed by row tile and
        column tile.
    chosen: for row tiles, for column tiles: these bytes are wanted; skewed as they are.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        byte = signed(ACTIVATION_BITS)
        super().__init__(
            {
                "activations": In(data.ArrayLayout(byte, config.rows)),
                "line": In(1),
                "used": In(1),
                "x_first": In(2),
                "y_first": In(2),
                **{name: member.flip() for name, member in window_members(config).items()},
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        lines, pixels = isa.window_block(config)
        place = Signal(range(config.window_depth), reset_less=True)
        with m.If(self.line):
            m.d.sync += place.eq(0)
        with m.Else():
            m.d.sync += place.eq(place + 1)
        later_lines = Cat(self.y_first >= v for v in range(1, lines))
        later_pixels = Cat(self.x_first >= u for u in range(1, pixels))
        wave = (
            place,
            registered(m, self.used, "used", reset=True),
            registered(m, later_lines, "lines"),
            registered(m, later_pixels, "pixels"),
        )
        for j in range(config.mesh_cols):
            if j:
                wave = tuple(
                    registered(m, value, f"{name}_{j}")
                    for name, value in zip(("place", "used", "lines", "pixels"), wave, strict=True)
                )
            used = wave[1]
            for i in range(config.mesh_rows):
                if i:
                    used = registered(m, used, f"used_{j}_{i}")
                m.d.comb += self.chosen[i][j].eq(used)
            first = j * config.tile_cols
            for column in range(first, min(first + config.tile_cols, window_columns(config))):
                self._column(m, column, wave)
        return m

    def _column(self, m: Module, column: int, wave) -> None:
        """Lines, pixels and taps of one column."""
        config = self._config
        place, _, later_lines, later_pixels = wave
        late = column // config.tile_cols - column // config.tile_rows
        byte = delayed(m, self.activations[column], late, f"byte_{column}")
        kept = [byte]
        if len(later_lines):
            shape = data.ArrayLayout(signed(ACTIVATION_BITS), len(later_lines))
            m.submodules[f"lines_{column}"] = lines = memory.Memory(
                shape=shape, depth=config.window_depth, init=[]
            )
            write, read = lines.write_port(), lines.read_port(domain="comb")
            m.d.comb += [read.addr.eq(place), write.addr.eq(place), write.en.eq(1)]
            m.d.comb += write.data.as_value().eq(
                Cat(byte, *[read.data[v] for v in range(len(later_lines) - 1)])
            )
            kept += [read.data[v] & on.replicate(ACTIVATION_BITS) for v, on in enumerate(later_lines)]
        for v, value in enumerate(kept):
            value = value.as_signed() if v else value
            for u in range(1 + len(later_pixels)):
                if u:
                    value = value & later_pixels[u - 1].replicate(ACTIVATION_BITS)
                    value = registered(m, value.as_signed(), f"pixel_{column}_{v}_{u}")
                row = v * isa.WINDOW + u
                behind = delayed(m, value, row // config.tile_rows, f"tap_{column}_{row}")
                m.d.comb += self.taps[column][row].eq(behind)
