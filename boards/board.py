"""What a board is, and the top of the design on it: clock, reset, host link and lights around the
accelerator.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amaranth.build import Platform
from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

from popshift.boards.pll import Pll
from popshift.hw.config import AcceleratorConfig

TOP = "board"
"""Name of the top module."""
_CLOCKS_PER_BIT = 4
"""Fewest clocks of the accelerator in a bit of its UART."""
_EVEN_FROM = 16
"""From so many clocks a bit on, a rate need not divide the clock: a bit that is one clock too long is still
within the tolerance of a UART.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board: everything that popshift knows of it.

    Attributes
    ----------
    name: how the command line calls it. title: how people call it.
    platform: its pins, as an Amaranth platform: from amaranth-boards where that has the board.
    device: name of its FPGA in `popshift.gen.implement.devices`.
    pll: how the accelerator's clock is made from the platform's ``default_clk``.
    configuration: name of the configuration that is built for it by default.
    uart: number of the platform's ``uart`` that goes to the host.
    bauds: rates its USB bridge can do, the highest first.
    lights: names and numbers of the platform's resources for the lights: the first is lit when the board is
        ready, the second while bytes pass or a program runs; with one light, that one goes dark meanwhile.
    loader: arguments of openFPGALoader that choose the board.
    to_flash: arguments that write the bitstream to its flash as well; None: there is nowhere else to write
        it.
    dfu: vendor and product number on USB of a bootloader that takes the bitstream, if it is programmed that
        way.
    serial: vendor and product number of its serial port on USB.
    first_seed: of place and route: one that is known to meet the clock of the board's configuration.
    """

    name: str
    title: str
    platform: type[Platform]
    device: str
    pll: Pll
    configuration: str
    bauds: tuple[int, ...]
    lights: tuple[tuple[str, int], ...]
    loader: tuple[str, ...]
    to_flash: tuple[str, ...] | None = ("--write-flash",)
    dfu: tuple[int, int] | None = None
    serial: tuple[int, int]
    uart: int = 0
    first_seed: int = 1

    def configure(self, config: AcceleratorConfig, *, clock_hz: int | None = None) -> AcceleratorConfig:
        """The configuration as it is built for this board: a UART at the highest rate that both ends can do.

        Raises
        ------
        ConfigError: the clock is too slow for the slowest rate of the board's bridge.
        """
        hz = config.clock_hz if clock_hz is None else clock_hz
        good = (baud for baud in self.bauds if _divides_well(hz, baud))
        return config.replace(link="uart", clock_hz=hz, baud=next(good, self.bauds[-1]))

    def describe(self, config: AcceleratorConfig, *, margin: float) -> tuple[str, Mapping[str, str]]:
        """The top of the design around a module ``popshift`` (`popshift.hw.emit`).

        Parameters
        ----------
        config: its clock is made, from the board's oscillator.
        margin: the clock is constrained to so many times what is wanted.

        Returns
        -------
        RTLIL of the module `TOP` and the modules in it; text of its constraints by file name.

        Raises
        ------
        InputError: the clock cannot be made.
        """
        platform: Any = self.platform()
        resource, number = platform.default_clk, 0
        hz = platform.default_clk_frequency
        asked = f'FREQUENCY PORT "{resource}_{number}__io" {margin * hz:.0f} HZ;'
        plan = platform.prepare(_Top(self, config, round(hz)), TOP, add_preferences=asked)
        texts = {
            name: text.decode() if isinstance(text, bytes) else text for name, text in plan.files.items()
        }
        constraints = {
            name: text for name, text in texts.items() if name in {f"{TOP}.lpf", f"{TOP}.pcf", f"{TOP}.cst"}
        }
        return texts[f"{TOP}.il"], constraints


def _divides_well(clock_hz: int, baud: int) -> bool:
    clocks = clock_hz / baud
    return clocks >= _CLOCKS_PER_BIT and (clocks >= _EVEN_FROM or clock_hz % baud == 0)


class _Top(Elaboratable):
    """The design on a board.

    The accelerator is an instance, since its Verilog is written once for a configuration, whatever the board.
    It has no reset: flip-flops of an FPGA start as the design says, and as long as its line rests every one
    of them keeps its value. So the line rests until the clock is steady.
    """

    def __init__(self, board: Board, config: AcceleratorConfig, oscillator_hz: int) -> None:
        self._board, self._config, self._oscillator_hz = board, config, oscillator_hz

    def elaborate(self, platform: Any) -> Module:
        board = self._board
        dividers = board.pll.dividers(self._oscillator_hz, self._config.clock_hz)
        m = Module()
        m.domains.sync = domain = ClockDomain(reset_less=True)
        oscillator = platform.request(platform.default_clk, dir="-")
        clock, lock = board.pll.connect(m, oscillator, self._oscillator_hz, dividers)
        waiting, busy = Signal(init=1), Signal()
        uart = platform.request("uart", board.uart, dir="-")
        m.submodules.rx, m.submodules.tx = rx, tx = io.Buffer("i", uart.rx), io.Buffer("o", uart.tx)
        m.d.comb += domain.clk.eq(clock)
        m.submodules.lock_synchroniser = FFSynchronizer(~lock, waiting, init=1)
        m.submodules.accelerator = Instance(
            "popshift",
            i_clk=ClockSignal(),
            i_rst=Const(0),
            i_rx=rx.i | waiting,
            o_tx=tx.o,
            o_busy=busy,
        )
        self._light(m, platform, ready=~waiting, happens=busy | ~rx.i | ~tx.o)
        return m

    def _light(self, m: Module, platform: Any, *, ready: Any, happens: Any) -> None:
        lights = []
        for name, number in self._board.lights:
            m.submodules[f"{name}_{number}"] = buffer = io.Buffer(
                "o", platform.request(name, number, dir="-")
            )
            lights.append(buffer.o)
        if len(lights) == 1:
            m.d.comb += lights[0].eq(ready & ~happens)
        else:
            m.d.comb += [lights[0].eq(ready), lights[1].eq(happens)]
