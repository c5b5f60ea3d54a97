"""Clocks from a board's oscillator: the PLL of each device family, its dividers found by search.

Ranges are those of the data sheets: Lattice FPGA-DS-02012 (ECP5), FPGA-DS-02008 (iCE40 UltraPlus), Gowin
UG286 (clocks) with DS117 and DS226. Tests hold the dividers against ecppll, icepll and gowin_pll.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from amaranth.hdl import Const, Instance, Module, Signal
from amaranth.lib import io

from popshift.hw.errors import InputError

MHZ = 1_000_000
TOLERANCE = 1e-3
"""Largest relative error of a clock: that of a bit rate made from it comes on top."""


@dataclass(frozen=True, slots=True)
class Dividers:
    """A PLL's setting and the clock that comes of it."""

    input: int
    feedback: int
    output: int
    hz: float


@dataclass(frozen=True, slots=True)
class Pll:
    """The PLL of a family.

    Attributes
    ----------
    input, feedback, output: dividers it has: of the clock that comes in, of the one that is fed back, of the
        VCO's for the one that goes out.
    vco, compared: MHz that the VCO runs at, and that are compared.
    feeds_back_vco: whether the VCO's clock is fed back, or the one that goes out.
    connect: puts it into a module: (module, port of the oscillator, its frequency, dividers) gives clock and
        lock, one bit each.
    """

    input: range
    feedback: range
    output: tuple[int, ...]
    vco: tuple[float, float]
    compared: tuple[float, float]
    feeds_back_vco: bool
    connect: Callable[[Module, object, int, Dividers], tuple[Signal, Signal]]

    def dividers(self, from_hz: int, to_hz: int) -> Dividers:
        """The setting that comes nearest to `to_hz`: of equals, the fastest comparison, then the calmest VCO.

        Raises
        ------
        InputError: it misses by more than `TOLERANCE`; names the nearest clock that can be had.
        """
        middle = sum(self.vco) / 2

        def badness(found: Dividers) -> tuple[float, int, float]:
            return abs(found.hz - to_hz), found.input, abs(found.hz * found.output / MHZ - middle)

        best = min(self._settings(from_hz, to_hz), key=badness, default=None)
        if best is None or abs(best.hz - to_hz) > TOLERANCE * to_hz:
            nearest = f"the nearest is {best.hz / MHZ:.6g} MHz" if best else "none is near it"
            raise InputError(
                f"no clock of {to_hz / MHZ:g} MHz can be made from the board's {from_hz / MHZ:g} MHz",
                remedy=f"{nearest}: change clock_hz of the configuration, or give --clock",
            )
        return best

    def _settings(self, from_hz: int, to_hz: int) -> Iterator[Dividers]:
        for divider in self.input:
            compared = from_hz / divider
            if not self.compared[0] <= compared / MHZ <= self.compared[1]:
                continue
            for output in self.output:
                scale = output if self.feeds_back_vco else 1
                feedback = round(to_hz * scale / compared)
                hz = compared * feedback / scale
                if feedback in self.feedback and self.vco[0] <= hz * output / MHZ <= self.vco[1]:
                    yield Dividers(divider, feedback, output, hz)


def _ecp5(m: Module, port: object, from_hz: int, chosen: Dividers) -> tuple[Signal, Signal]:
    m.submodules.oscillator = oscillator = io.Buffer("i", port)
    clock, lock = Signal(name="pll_clock"), Signal(name="pll_lock")
    m.submodules.pll = Instance(
        "EHXPLLL",
        # What Lattice's own generator sets for the loop filter, for all frequencies.
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        p_PLLRST_ENA="DISABLED",
        p_INTFB_WAKE="DISABLED",
        p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED",
        p_OUTDIVIDER_MUXA="DIVA",
        p_OUTDIVIDER_MUXB="DIVB",
        p_OUTDIVIDER_MUXC="DIVC",
        p_OUTDIVIDER_MUXD="DIVD",
        p_CLKI_DIV=chosen.input,
        p_CLKFB_DIV=chosen.feedback,
        p_FEEDBK_PATH="CLKOP",
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=chosen.output,
        p_CLKOP_CPHASE=chosen.output - 1,
        p_CLKOP_FPHASE=0,
        i_RST=Const(0),
        i_STDBY=Const(0),
        i_CLKI=oscillator.i,
        i_CLKFB=clock,
        i_PHASESEL0=Const(0),
        i_PHASESEL1=Const(0),
        i_PHASEDIR=Const(1),
        i_PHASESTEP=Const(1),
        i_PHASELOADREG=Const(1),
        i_PLLWAKESYNC=Const(0),
        i_ENCLKOP=Const(0),
        o_CLKOP=clock,
        o_LOCK=lock,
    )
    return clock, lock


# FILTER_RANGE of the iCE40's PLL for a comparison below so many MHz (FPGA-TN-02052).
_FILTER_RANGES = ((17, 1), (26, 2), (44, 3), (66, 4), (101, 5), (134, 6))


def _ice40(m: Module, port: object, from_hz: int, chosen: Dividers) -> tuple[Signal, Signal]:
    clock, lock = Signal(name="pll_clock"), Signal(name="pll_lock")
    compared = from_hz / chosen.input / MHZ
    m.submodules.pll = Instance(
        # The clock's pin belongs to this PLL: nothing else can read it.
        "SB_PLL40_PAD",
        p_FEEDBACK_PATH="SIMPLE",
        p_DIVR=Const(chosen.input - 1, 4),
        p_DIVF=Const(chosen.feedback - 1, 7),
        p_DIVQ=Const(chosen.output.bit_length() - 1, 3),
        p_FILTER_RANGE=Const(next(number for limit, number in _FILTER_RANGES if compared < limit), 3),
        i_PACKAGEPIN=getattr(port, "io", port),
        i_RESETB=Const(1),
        i_BYPASS=Const(0),
        o_PLLOUTGLOBAL=clock,
        o_LOCK=lock,
    )
    return clock, lock


def _gowin(device: str) -> Callable[[Module, object, int, Dividers], tuple[Signal, Signal]]:
    def connect(m: Module, port: object, from_hz: int, chosen: Dividers) -> tuple[Signal, Signal]:
        m.submodules.oscillator = oscillator = io.Buffer("i", port)
        clock, lock = Signal(name="pll_clock"), Signal(name="pll_lock")
        off = dict.fromkeys(("CLKOUT_BYPASS", "CLKOUTP_BYPASS", "CLKOUTD_BYPASS"), "false")
        off |= dict.fromkeys(("DYN_IDIV_SEL", "DYN_FBDIV_SEL", "DYN_ODIV_SEL", "DYN_DA_EN"), "false")
        widths = {"FBDSEL": 6, "IDSEL": 6, "ODSEL": 6, "PSDA": 4, "DUTYDA": 4, "FDLY": 4}
        m.submodules.pll = Instance(
            "rPLL",
            p_DEVICE=device,
            p_FCLKIN=f"{from_hz / MHZ:g}",
            p_IDIV_SEL=chosen.input - 1,
            p_FBDIV_SEL=chosen.feedback - 1,
            p_ODIV_SEL=chosen.output,
            p_CLKFB_SEL="internal",
            p_PSDA_SEL="0000",
            p_DUTYDA_SEL="1000",
            p_DYN_SDIV_SEL=2,
            p_CLKOUT_FT_DIR=Const(1, 1),
            p_CLKOUTP_FT_DIR=Const(1, 1),
            p_CLKOUT_DLY_STEP=0,
            p_CLKOUTP_DLY_STEP=0,
            p_CLKOUTD_SRC="CLKOUT",
            p_CLKOUTD3_SRC="CLKOUT",
            **{f"p_{name}": value for name, value in off.items()},
            i_CLKIN=oscillator.i,
            i_CLKFB=Const(0),
            i_RESET=Const(0),
            i_RESET_P=Const(0),
            **{f"i_{name}": Const(0, width) for name, width in widths.items()},
            o_CLKOUT=clock,
            o_LOCK=lock,
        )
        return clock, lock

    return connect


_GOWIN = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
ECP5 = Pll(range(1, 129), range(1, 81), tuple(range(1, 129)), (400, 800), (10, 400), False, _ecp5)
ICE40 = Pll(range(1, 17), range(1, 129), (2, 4, 8, 16, 32, 64), (533, 1066), (10, 133), True, _ice40)
GW1NR_9C = Pll(range(1, 65), range(1, 65), _GOWIN, (400, 1200), (3, 400), False, _gowin("GW1NR-9C"))
GW2AR_18C = Pll(range(1, 65), range(1, 65), _GOWIN, (500, 1250), (3, 500), False, _gowin("GW2AR-18C"))
