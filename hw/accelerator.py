"""The whole accelerator: the core, the command unit and the link."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from popshift.hw.config import AcceleratorConfig
from popshift.hw.control.commands import CommandUnit
from popshift.hw.core import HOST_READ_LATENCY, Core
from popshift.hw.link.uart import Uart
from popshift.hw.tech.portable import Portable

_TO_CORE = (
    "activation_write_valid",
    "activation_write_mask",
    "activation_write_address",
    "activation_write_data",
    "word_write_space",
    "word_write_address",
    "word_write_data",
    "read_bank",
    "read_address",
    "start",
    "start_pc",
    "pause",
    "cycle_limit",
    "proceed",
    "reset_machine",
)
_FROM_CORE = ("read_data", "status", "layer", "pc", "cycles", "counters")


class Accelerator(wiring.Component):
    """The top of the design.

    Members
    -------
    rx, tx: the link: two byte streams (``link = "stream"``), or the two pins of a UART (``"uart"``).
    busy: the machine runs or a frame is being worked on; a simulator of byte streams may sleep while it is 0.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable | None = None) -> None:
        self._config = config
        self._technology = technology or Portable()
        if config.link == "stream":
            members = {"rx": In(stream.Signature(8)), "tx": Out(stream.Signature(8))}
        else:
            members = {"rx": In(1, init=1), "tx": Out(1, init=1)}
        super().__init__({**members, "busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.commands = commands = CommandUnit(
            config=config, read_latency=HOST_READ_LATENCY, technology=self._technology
        )
        m.submodules.core = core = Core(config=config, technology=self._technology)
        m.d.comb += [getattr(core, name).eq(getattr(commands, name)) for name in _TO_CORE]
        m.d.comb += [getattr(commands, name).eq(getattr(core, name)) for name in _FROM_CORE]
        if config.link == "uart":
            m.submodules.uart = uart = Uart(config=config)
            m.d.comb += [uart.rx.eq(self.rx), self.tx.eq(uart.tx)]
            connect(m, uart.received, commands.rx)
            connect(m, commands.tx, uart.transmit)
        else:
            connect(m, flipped(self.rx), commands.rx)
            connect(m, commands.tx, flipped(self.tx))
        m.d.comb += self.busy.eq(core.running | commands.busy)
        return m
