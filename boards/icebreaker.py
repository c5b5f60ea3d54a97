"""iCEBreaker: iCE40UP5K with an FT2232H, whose second channel is the serial port.
https://1bitsquared.com/icebreaker
"""

from amaranth_boards.icebreaker import ICEBreakerPlatform

from popshift.boards.board import Board
from popshift.boards.pll import ICE40

ICEBREAKER = Board(
    name="icebreaker",
    title="iCEBreaker",
    platform=ICEBreakerPlatform,
    device="up5k",
    pll=ICE40,
    configuration="icebreaker",
    # An FT2232H divides 120 MHz by 10, 15, 20, …: what it can do beyond 3 Mbaud.
    bauds=(12_000_000, 8_000_000, 6_000_000, 4_000_000, 3_000_000, 2_000_000, 1_000_000),
    lights=(("led_g", 0), ("led_r", 0)),
    # Only through its flash: the wires to write the FPGA itself need jumpers to be changed.
    loader=("--board", "ice40_generic"),
    to_flash=None,
    serial=(0x0403, 0x6010),
)
