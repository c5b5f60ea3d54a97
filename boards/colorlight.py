"""Colorlight i5 (v7.0) and i9 (v7.2) on Muse Lab's extension board, whose DAPLink programs and has a serial
port.

Pins as documented at https://github.com/wuxx/Colorlight-FPGA-Projects.
"""

from typing import ClassVar

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, UARTResource

from popshift.boards.board import Board
from popshift.boards.pll import ECP5

_ATTRIBUTES = Attrs(IO_TYPE="LVCMOS33")
_SHARED = [
    Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), _ATTRIBUTES),
    UARTResource(0, rx="H18", tx="J17", attrs=_ATTRIBUTES),
]


class _I5(LatticeECP5Platform):
    device, package, speed, default_clk = "LFE5U-25F", "BG381", "6", "clk25"
    connectors: ClassVar = []
    resources: ClassVar = [*_SHARED, *LEDResources(pins="U16", invert=True, attrs=_ATTRIBUTES)]


class _I9(LatticeECP5Platform):
    device, package, speed, default_clk = "LFE5U-45F", "BG381", "6", "clk25"
    connectors: ClassVar = []
    resources: ClassVar = [*_SHARED, *LEDResources(pins="L2", invert=True, attrs=_ATTRIBUTES)]


_COMMON = {
    "pll": ECP5,
    "bauds": (1_000_000,),
    "lights": (("led", 0),),
    "serial": (0x0D28, 0x0204),
}
COLORLIGHT_I5 = Board(
    name="colorlight-i5",
    title="Colorlight i5 v7.0",
    platform=_I5,
    device="lfe5u-25f",
    configuration="ulx3s-12f",
    loader=("--board", "colorlight-i5"),
    **_COMMON,
)
COLORLIGHT_I9 = Board(
    name="colorlight-i9",
    title="Colorlight i9 v7.2",
    platform=_I9,
    device="lfe5u-45f",
    configuration="ulx3s-12f",
    loader=("--board", "colorlight-i9"),
    **_COMMON,
)
