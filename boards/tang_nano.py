"""Sipeed Tang Nano 9K and 20K: Gowin GW1NR-9 and GW2AR-18, a BL702 or BL616 on board as programmer and serial
port.

Pins of the 20K as in its schematics, https://wiki.sipeed.com/hardware/en/tang/tang-nano-20k.
"""

from typing import ClassVar

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import LEDResources, UARTResource
from amaranth_boards.tang_nano_9k import TangNano9kPlatform

from popshift.boards.board import Board
from popshift.boards.pll import GW1NR_9C, GW2AR_18C

_ATTRIBUTES = Attrs(IO_TYPE="LVCMOS33")


class _TangNano20k(GowinPlatform):
    part, family, default_clk = "GW2AR-LV18QN88C8/I7", "GW2AR-18C", "clk27"
    connectors: ClassVar = []
    resources: ClassVar = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), _ATTRIBUTES),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(PULL_MODE="UP", IO_TYPE="LVCMOS33")),
        *LEDResources(pins="15 16", invert=True, attrs=_ATTRIBUTES),
    ]


_COMMON = {
    "bauds": (2_000_000, 1_000_000),
    "lights": (("led", 0), ("led", 1)),
    "serial": (0x0403, 0x6010),
}
TANG_NANO_9K = Board(
    name="tangnano-9k",
    title="Tang Nano 9K",
    platform=TangNano9kPlatform,
    device="gw1nr-9",
    pll=GW1NR_9C,
    configuration="tangnano-9k",
    loader=("--board", "tangnano9k"),
    **_COMMON,
)
TANG_NANO_20K = Board(
    name="tangnano-20k",
    title="Tang Nano 20K",
    platform=_TangNano20k,
    device="gw2ar-18",
    pll=GW2AR_18C,
    configuration="tangnano-20k",
    loader=("--board", "tangnano20k"),
    **_COMMON,
)
