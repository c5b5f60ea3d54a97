"""A TCP connection as a transport; the other end is a `popshift.firmware_py.transport.bridge.Bridge`."""

import contextlib
import select
import socket

from popshift.hw.errors import DeviceError, InputError

CONNECT_TIMEOUT = 5.0
WRITE_TIMEOUT = 10.0
CHUNK_BYTES = 1 << 16
BUSY = b"popshift: another client uses this device\n"
"""What a bridge says to a client while it serves another; no frame, as it does not end with a delimiter."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` (``[HOST]:PORT`` for an IPv6 address).

    Raises
    ------
    InputError: not of that form, or the port is not 1 .. 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InputError(
            f"{text!r} is not HOST:PORT with a port of 1 .. 65535", remedy="write it like tcp:127.0.0.1:5000"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


class TcpTransport:
    """A connection to a device that another process or computer serves.

    Parameters
    ----------
    host, port: where the bridge listens.
    bytes_per_second: speed of the slowest wire behind it (the UART of a bridged board); it only lengthens
        time-outs.

    Raises
    ------
    DeviceError: nothing listens there, or the host is unknown or out of reach.
    """

    latency = 0.5

    def __init__(self, host: str, port: int, *, bytes_per_second: float = 100_000) -> None:
        self.name = f"tcp:{host}:{port}"
        self.bytes_per_second = bytes_per_second
        try:
            self._socket = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT)
        except OSError as error:
            raise DeviceError(
                f"cannot connect ({error.strerror or error})",
                where=self.name,
                remedy="check host and port and that the bridge runs there",
            ) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(WRITE_TIMEOUT)

    def read(self, timeout: float) -> bytes:
        """See `Transport.read`."""
        try:
            ready, _, _ = select.select([self._socket], [], [], max(timeout, 0.0))
            if not ready:
                return b""
            data = self._socket.recv(CHUNK_BYTES)
        except (OSError, ValueError) as error:
            raise self._gone(str(error)) from error
        if not data:
            raise self._gone("closed by the other end")
        if data == BUSY:
            raise DeviceError(
                "another client uses the device", where=self.name, remedy="close that one, then connect again"
            )
        return data

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._gone(str(error)) from error

    def close(self) -> None:
        """See `Transport.close`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _gone(self, reason: str) -> DeviceError:
        return DeviceError(
            f"the connection is gone ({reason})", where=self.name, remedy="check the bridge and connect again"
        )
