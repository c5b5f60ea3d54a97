"""Serve a transport on a TCP port, so that a board on one computer can be driven from another."""

import contextlib
import select
import socket
import threading

from popshift.firmware_py.transport import Transport
from popshift.firmware_py.transport.tcp import BUSY, CHUNK_BYTES, WRITE_TIMEOUT
from popshift.hw.errors import DeviceError

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.002
_ACCEPT_SECONDS = 0.2


class Bridge:
    """Passes bytes between one TCP client at a time and a transport, unchanged; tells others that it is in
    use.

    There is no password: whoever reaches the port uses the device. It therefore listens on the loopback
    interface unless told otherwise; from another computer, use an ssh tunnel.

    Parameters
    ----------
    transport: the device; used from the thread that calls `serve` only.
    host: address to listen on.
    port: 0 for any free one (`address` tells which).

    Raises
    ------
    DeviceError: the port cannot be opened.
    """

    def __init__(self, transport: Transport, *, host: str = LOOPBACK, port: int = 0) -> None:
        self._transport = transport
        try:
            self._listener = socket.create_server((host, port), backlog=1)
        except OSError as error:
            raise DeviceError(
                f"cannot listen ({error.strerror or error})",
                where=f"tcp:{host}:{port}",
                remedy="choose another port or address",
            ) from error
        self._listener.settimeout(_ACCEPT_SECONDS)
        self._refused: list[socket.socket] = []

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        return self._listener.getsockname()[:2]

    def serve(self, stop: threading.Event | None = None) -> None:
        """Serve clients one after another until `stop` is set (None: for ever), then close the port.

        Raises
        ------
        DeviceError: the device behind the bridge is gone.
        """
        stop = stop or threading.Event()
        with self._listener:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    client, _ = self._listener.accept()
                    with client:
                        self._pass_bytes(client, stop)
                    while self._refused:
                        self._refused.pop().close()

    def _pass_bytes(self, client: socket.socket, stop: threading.Event) -> None:
        """Until the client leaves; a client that takes no bytes for ten seconds is let go."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(WRITE_TIMEOUT)
        while not stop.is_set():
            try:
                # Who has something to say may say that they leave; who waits may be the same one, come back.
                if select.select([self._listener, client], [], [], 0)[0] == [self._listener]:
                    self._refuse()
                while select.select([client], [], [], 0)[0]:
                    request = client.recv(CHUNK_BYTES)
                    if not request:
                        return
                    self._transport.write(request)
                answer = self._transport.read(_POLL_SECONDS)
                if answer:
                    client.sendall(answer)
            except (ConnectionError, TimeoutError):
                return

    def _refuse(self) -> None:
        """Tell who waits that the device is in use, instead of leaving them to wonder at its silence."""
        with contextlib.suppress(OSError):
            other, _ = self._listener.accept()
            other.sendall(BUSY)
            other.shutdown(socket.SHUT_WR)
            self._refused.append(other)  # closed now, it would lose what it has not yet read
