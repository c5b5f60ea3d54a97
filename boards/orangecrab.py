"""OrangeCrab r0.2: ECP5 on a Feather. https://orangecrab-fpga.github.io

Its USB goes to the FPGA itself and serves the bootloader; the host link is a serial adapter of 3.3 V on the
Feather's pins 0 (its transmitter) and 1 (its receiver).
"""

from typing import ClassVar

from amaranth.build import Attrs
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform
from amaranth_boards.resources import LEDResources, UARTResource

from popshift.boards.board import Board
from popshift.boards.pll import ECP5

_ATTRIBUTES = Attrs(IO_TYPE="LVCMOS33")


class _Platform(OrangeCrabR0_2_25FPlatform):
    resources: ClassVar = [
        *(entry for entry in OrangeCrabR0_2_25FPlatform.resources if entry.name != "rgb_led"),
        UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=_ATTRIBUTES),
        *LEDResources(pins="M3 J3", invert=True, attrs=_ATTRIBUTES),  # green and blue of the RGB light
    ]


ORANGECRAB_25F = Board(
    name="orangecrab-25f",
    title="OrangeCrab r0.2 with LFE5U-25F",
    platform=_Platform,
    device="lfe5u-25f-mg285",
    pll=ECP5,
    configuration="orangecrab-25f",
    bauds=(3_000_000, 2_000_000, 1_000_000),
    lights=(("led", 0), ("led", 1)),
    loader=("--board", "orangeCrab"),
    to_flash=None,
    dfu=(0x1209, 0x5AF0),
    serial=(0x0403, 0x6001),
)
