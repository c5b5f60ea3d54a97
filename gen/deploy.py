"""From a configuration to a board that runs it: build, program, find the port, make sure who answers."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from popshift.gen.device import open_device
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig, named_configs
from popshift.hw.errors import DeviceError
from popshift.hw.packet import Identity

if TYPE_CHECKING:
    from popshift.boards import Board

ANSWER_SECONDS = 5.0
"""How long a board that was just programmed may take until its port is there and it answers."""
_RETRY_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Found:
    """A device that answers: its port, and what it says it is."""

    port: str
    identity: Identity


def find_port(board: "Board", port: str | None) -> str:
    """The port that is named, or the one of the board's bridge.

    Raises
    ------
    DeviceError: no port, or several, can be the board's.
    ToolError: pyserial is not installed.
    """
    from popshift.firmware_py.transport.usb import port_of

    return port or port_of(*board.serial, name=board.title)


def identify(
    board: "Board", config: AcceleratorConfig, port: str | None, *, seconds: float = ANSWER_SECONDS
) -> Found:
    """Who answers on the board's port; it must be the configuration that was built.

    Parameters
    ----------
    config: as it was built: its baud is the link's.
    seconds: how long to try.

    Raises
    ------
    DeviceError: nobody answers, or something else than this configuration; the message says what runs.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            url = find_port(board, port)
            with open_device(url, config=config) as device:
                found = Found(url, device.identify())
            break
        except DeviceError:
            if time.monotonic() >= end:
                raise
            time.sleep(_RETRY_SECONDS)
    require_identity(found.identity, config, found.port)
    return found


def require_identity(identity: Identity, config: AcceleratorConfig, where: str) -> None:
    """Refuse a device that is not what was built.

    Raises
    ------
    DeviceError: says which bitstream runs there.
    """
    if identity == packet.identity(config):
        return
    raise DeviceError(
        f"another bitstream runs there: {describe(identity)}; not {describe(packet.identity(config))}",
        where=where,
        remedy="program the board again (popshift deploy), or use the configuration that runs there",
    )


def describe(identity: Identity) -> str:
    """What a device says it is, with the name of the configuration if it is one that ships."""
    named = [name for name, config in named_configs().items() if config.digest == identity.digest]
    name = " or ".join(named) or "a configuration that does not ship"
    return f"{name} ({identity.rows} x {identity.cols}, digest {identity.digest:016x})"
