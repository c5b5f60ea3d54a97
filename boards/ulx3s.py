"""ULX3S: ECP5 with an FT231X for programming and a serial port of up to 3 Mbaud. https://radiona.org/ulx3s"""

from amaranth_boards.ulx3s import ULX3S_12F_Platform, ULX3S_85F_Platform

from popshift.boards.board import Board
from popshift.boards.pll import ECP5

_COMMON = {
    "pll": ECP5,
    "bauds": (3_000_000, 2_000_000, 1_000_000),
    "lights": (("led", 0), ("led", 1)),
    "loader": ("--board", "ulx3s"),
    "serial": (0x0403, 0x6015),
}

# The 12F is a 25F by another name: the open tools use all of it.
ULX3S_12F = Board(
    name="ulx3s-12f",
    title="ULX3S with LFE5U-12F",
    platform=ULX3S_12F_Platform,
    device="lfe5u-25f",
    configuration="ulx3s-12f",
    **_COMMON,
)
ULX3S_85F = Board(
    name="ulx3s-85f",
    title="ULX3S with LFE5U-85F",
    platform=ULX3S_85F_Platform,
    device="lfe5u-85f",
    configuration="ulx3s-85f",
    first_seed=2,  # 103.9 MHz; the router does not find an end with 1
    **_COMMON,
)
