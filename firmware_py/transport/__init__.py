"""Byte streams to a device, behind one interface, and the registry that opens them by name.

A device is named like this: ``/dev/ttyUSB0`` or ``COM3`` (a serial port), ``tcp:HOST:PORT`` (a port served by
`popshift.firmware_py.transport.bridge`), ``sim:…`` (the simulator, which registers itself when
`popshift.sim.board` is imported).
"""

import os
import re
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from popshift.hw.errors import InputError


@runtime_checkable
class Transport(Protocol):
    """A byte stream to a device, without framing; bytes may be lost or damaged on the way.

    A transport may also have these attributes, which `popshift.firmware_py.protocol.Link` uses when they are
    there: ``name`` (how messages call the device), ``bytes_per_second`` (speed of the wire), ``latency``
    (seconds a healthy device may take to begin an answer, beyond the time on the wire).
    """

    def read(self, timeout: float) -> bytes:
        """Whatever has arrived: at least one byte, or ``b""`` when nothing came within `timeout` seconds.

        Raises
        ------
        DeviceError: the connection is gone.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send all of `data`.

        Raises
        ------
        DeviceError: the connection is gone, or takes no more bytes.
        """
        ...

    def close(self) -> None:
        """Give the device free; closing twice does no harm."""
        ...


Factory = Callable[..., Transport]
"""Called with what follows the colon and with the keyword arguments of `open_transport`."""

_factories: dict[str, Factory] = {}
_COM_PORT = re.compile(r"COM\d+", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9]+):(.*)", re.DOTALL)


def register(scheme: str, factory: Factory) -> None:
    """Let `open_transport` open ``scheme:…`` as ``factory(rest, **options)``; the last one counts."""
    _factories[scheme] = factory


def schemes() -> list[str]:
    """The registered schemes, sorted."""
    return sorted(_factories)


def open_transport(url: str, **options: Any) -> Transport:
    """Open the device that `url` names; `options` go to its transport.

    Raises
    ------
    InputError: an unknown scheme or a malformed name, or one that is no serial port.
    DeviceError: the device cannot be opened; the message says what was found instead.
    """
    match = _SCHEME.fullmatch(url)
    scheme, rest = match.groups() if match else ("serial", url)
    if not rest and scheme == "serial":
        raise InputError(
            "the name of the device is empty", remedy="give a serial port, tcp:HOST:PORT or sim:"
        )
    if scheme not in _factories:
        known = ", ".join(f"{name}:" for name in schemes())
        hint = (
            "import popshift.sim.board first (the simulator registers itself)"
            if scheme == "sim"
            else f"known: {known}"
        )
        raise InputError(
            f"no transport is called {scheme!r}", where=url, remedy=f"{hint}; or name a serial port"
        )
    if match is None and not _may_be_serial(rest):
        from popshift.firmware_py.transport.serial import ports

        found = ", ".join(ports()) or "none"
        remedy = f"use sim:, tcp:HOST:PORT or a serial device (found: {found})"
        raise InputError("unknown port", where=url, remedy=remedy)
    return _factories[scheme](rest, **options)


def _may_be_serial(name: str) -> bool:
    """A path, a file or COM with a number; whether it is there is for the transport to say."""
    return "/" in name or "\\" in name or os.path.exists(name) or _COM_PORT.fullmatch(name) is not None


def _serial(rest: str, **options: Any) -> Transport:
    from popshift.firmware_py.transport.serial import SerialTransport

    return SerialTransport(rest, **options)


def _tcp(rest: str, **options: Any) -> Transport:
    from popshift.firmware_py.transport.tcp import TcpTransport, parse_address

    return TcpTransport(*parse_address(rest), **options)


register("serial", _serial)
register("tcp", _tcp)
