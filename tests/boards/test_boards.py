"""Every board: its clock, its pins, its link; and the PLLs against the tools of others."""

import re

import pytest
from amaranth.vendor import GowinPlatform, LatticeECP5Platform, LatticeICE40Platform

from popshift.boards import BOARDS, board
from popshift.boards.board import TOP
from popshift.boards.pll import ECP5, GW1NR_9C, GW2AR_18C, ICE40, Pll
from popshift.gen.implement.devices import DEVICES
from popshift.gen.implement.pins import of_board
from popshift.hw.config import load_config
from popshift.hw.errors import InputError
from popshift.hw.link.uart import bit_rate

MHZ = 1_000_000
FAMILIES = {"ecp5": LatticeECP5Platform, "ice40": LatticeICE40Platform, "gowin": GowinPlatform}
ALL = pytest.mark.parametrize("name", BOARDS)


# What ecppll, icepll and gowin_pll print for these clocks.
@pytest.mark.parametrize(
    ("pll", "from_mhz", "to_mhz", "dividers"),
    [
        (ECP5, 25, 100, (1, 4, 6)),
        (ECP5, 48, 96, (1, 2, 6)),
        (ICE40, 12, 24, (1, 64, 32)),
        (ICE40, 12, 30, (1, 80, 32)),
        (ICE40, 12, 36, (1, 48, 16)),
        (GW1NR_9C, 27, 54, (1, 2, 16)),
        (GW2AR_18C, 27, 108, (1, 4, 8)),
    ],
)
def test_dividers(pll: Pll, from_mhz: int, to_mhz: int, dividers: tuple[int, int, int]) -> None:
    found = pll.dividers(from_mhz * MHZ, to_mhz * MHZ)
    assert (found.input, found.feedback, found.output) == dividers
    assert found.hz == to_mhz * MHZ


@pytest.mark.parametrize("pll", [ECP5, ICE40, GW1NR_9C, GW2AR_18C])
def test_every_setting_is_within_the_ranges_of_the_pll(pll: Pll) -> None:
    possible = 0
    for mhz in range(5, 150):
        try:
            found = pll.dividers(25 * MHZ, mhz * MHZ)
        except InputError as error:
            assert "no clock of" in str(error) and "--clock" in str(error)
            continue
        possible += 1
        compared = 25 / found.input
        scale = found.output if pll.feeds_back_vco else 1
        assert pll.compared[0] <= compared <= pll.compared[1]
        assert pll.vco[0] <= compared * found.feedback / scale * found.output <= pll.vco[1]
        assert found.hz == pytest.approx(compared * found.feedback / scale * MHZ)
        assert abs(found.hz - mhz * MHZ) <= 1e-3 * mhz * MHZ
    assert possible >= 5


@ALL
def test_a_board_names_what_there_is(name: str) -> None:
    found = board(name)
    assert found.name == name
    config = load_config(found.configuration)
    configured = found.configure(config)
    assert configured.digest == config.digest, "what a program runs on is not the board's to change"
    assert (configured.link, configured.clock_hz) == ("uart", config.clock_hz)
    if found.configuration == name:  # the driver takes its speed from there
        assert configured.baud == config.baud
    clocks = configured.clock_hz / configured.baud
    assert clocks >= 4 and (clocks >= 16 or clocks == int(clocks))
    bit_rate(configured.clock_hz, configured.baud)
    assert issubclass(found.platform, FAMILIES[DEVICES[found.device].family])


@ALL
def test_a_board_has_a_top_with_all_its_pins(name: str) -> None:
    found = board(name)
    text, constraints = found.describe(found.configure(load_config(found.configuration)), margin=1.05)
    assert re.search(rf"^module \\{TOP}$", text, re.MULTILINE)
    instance = text[text.index("cell \\popshift ") :].split("end\n", 1)[0]
    assert {"clk", "rst", "rx", "tx", "busy"} <= set(re.findall(r"connect \\(\w+)", instance))
    assert "EHXPLLL" in text or "SB_PLL40_PAD" in text or "rPLL" in text
    (file,) = constraints
    assert constraints[file].count("__io") >= 3 + len(found.lights)
    pins = of_board(constraints, DEVICES[found.device].family)
    assert file in " ".join(pins.arguments)


def test_a_clock_that_a_board_cannot_make_is_refused() -> None:
    with pytest.raises(InputError, match=r"no clock of 13.37 MHz can be made from the board's 12 MHz"):
        board("icebreaker").pll.dividers(12 * MHZ, 13_370_000)
    with pytest.raises(InputError, match="unknown board 'ulx4s'; choose from ulx3s-12f"):
        board("ulx4s")
