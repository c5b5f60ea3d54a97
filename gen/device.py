"""Opening an accelerator by the name of its port."""

import importlib
from pathlib import Path
from typing import Any

from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.firmware_py.transport import open_transport
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.errors import InputError

_SIMULATED = "sim:"
_OTHER_SCHEMES = ("sim:", "tcp:")


def is_serial(url: str) -> bool:
    """Whether a device is on a serial port, which has a speed."""
    return not url.startswith(_OTHER_SCHEMES)


def open_device(
    url: str, *, config: AcceleratorConfig | str | Path | None = None, baud: int | None = None
) -> Accelerator:
    """A device on a serial port (``/dev/ttyUSB0``), on ``tcp:HOST:PORT``, or simulated (``sim:CONFIG``).

    Parameters
    ----------
    config: what the device is: the configuration to simulate for a bare ``sim:``, and where the speed of a
        serial port and the size of the device's buffer are taken from.
    baud: speed of a serial port, if it is not the configuration's.

    Raises
    ------
    ConfigError: no such configuration.
    InputError: an unknown kind of port, ``sim:`` without a configuration, or a speed for something else than
        a serial port.
    DeviceError, ToolError: it cannot be opened, or the simulation cannot be built.
    """
    if config is not None and not isinstance(config, AcceleratorConfig):
        config = load_config(config)
    options: dict[str, Any] = {}
    if url.startswith(_SIMULATED):
        importlib.import_module("popshift.sim.board")  # registers the scheme
        options = {"config": config}
    if is_serial(url):
        if baud is None and config is not None:
            baud = config.baud
        options = {} if baud is None else {"baud": baud}
    elif baud is not None:
        raise InputError("only a serial port has a speed", where=url, remedy="leave --baud out")
    transport = open_transport(url, **options)
    if config is None:
        return Accelerator(transport)
    return Accelerator(Link(transport, fifo_bytes=config.link_fifo_depth))
