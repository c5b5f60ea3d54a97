"""The levels a program can run at; no heavy imports, so that the command line can list them."""

from enum import StrEnum


class Level(StrEnum):
    """What computes."""

    GOLDEN = "golden"
    """PyTorch, from the integer network."""
    ISA = "isa"
    """The executor, from the instructions, in NumPy."""
    RTL = "rtl"
    """The Verilated hardware behind its link, driven by the host driver."""
    NETLIST = "netlist"
    """The same after synthesis, cell by cell as the FPGA gets it."""

    @property
    def is_hardware(self) -> bool:
        """Whether a simulated device computes."""
        return self in (Level.RTL, Level.NETLIST)
