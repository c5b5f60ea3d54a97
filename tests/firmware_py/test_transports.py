"""Real byte streams: a pseudo terminal as the serial port, TCP on loopback, and the registry."""

import os
import pty
import random
import select
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from device_model import DeviceModel, DeviceThread, ModelTransport

from popshift.firmware_py import transport
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.transfer import signature_of
from popshift.firmware_py.transport import Transport, open_transport
from popshift.firmware_py.transport.bridge import Bridge
from popshift.firmware_py.transport.serial import SerialTransport
from popshift.firmware_py.transport.tcp import TcpTransport, parse_address
from popshift.hw import packet
from popshift.hw.config import load_config
from popshift.hw.errors import DeviceError, InputError
from popshift.hw.packet import Space, Type

CONFIG = load_config("tiny")


class Terminal:
    """The device's end of a pseudo terminal."""

    def __init__(self) -> None:
        self._handle, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)

    def read(self, timeout: float) -> bytes:
        return os.read(self._handle, 4096) if select.select([self._handle], [], [], timeout)[0] else b""

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._handle, data) :]

    def close(self) -> None:
        os.close(self._handle)
        os.close(self._slave)


@contextmanager
def served(wire: Transport) -> Iterator[Bridge]:
    bridge, stop = Bridge(wire), threading.Event()
    thread = threading.Thread(target=bridge.serve, args=(stop,), daemon=True)
    thread.start()
    yield bridge
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def exercise(wire: Transport, device: DeviceModel) -> None:
    """A session with more traffic than any buffer on the way holds, both ways."""
    source = random.Random(1)
    device.activations[:] = 5
    link = Link(wire)
    assert link.open() == packet.identity(CONFIG)
    word = CONFIG.weight_word_bytes
    image = source.randbytes(word * 1000)
    writes = [
        (Type.WRITE, packet.write_address(Space.WEIGHT, start), image[start * word : (start + 100) * word])
        for start in range(0, 1000, 100)
    ]
    reads = [(Type.READ, packet.read_address(1, 0), (1000).to_bytes(2, "little"))] * 40
    answers = link.submit_many(writes * 5 + reads)
    assert answers == [b""] * 50 + [b"\5" * 1000] * 40
    assert device.memories[Space.WEIGHT][:1000].tobytes() == image
    link.wait(0.05)
    assert link.statistics.retransmissions == 0


def test_a_serial_port() -> None:
    terminal, device = Terminal(), DeviceModel(CONFIG)
    with DeviceThread(device, terminal):
        wire = open_transport(terminal.port, baud=115_200)
        assert isinstance(wire, SerialTransport) and wire.bytes_per_second == 11_520
        exercise(wire, device)
        assert wire.read(0.01) == b""
        wire.close()
        wire.close()
    terminal.close()


def test_a_serial_port_in_use_is_refused() -> None:
    terminal = Terminal()
    wire = SerialTransport(terminal.port)
    with pytest.raises(DeviceError, match=r"cannot open the serial port .*another program uses it"):
        SerialTransport(terminal.port)
    wire.close()
    terminal.close()


def test_a_serial_port_that_goes_away_is_named() -> None:
    terminal = Terminal()
    wire = SerialTransport(terminal.port)
    terminal.close()
    with pytest.raises(
        DeviceError, match=f"{terminal.port}: the serial port no longer works .*check the cable"
    ):
        for _ in range(3):
            wire.write(b"x")
            wire.read(0.05)
    wire.close()


def test_a_serial_port_that_does_not_exist_is_named_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from popshift.firmware_py.transport import serial

    monkeypatch.setattr(serial, "ports", lambda: ["/dev/ttyUSB7", "/dev/ttyUSB8"])
    reason = r"cannot open the serial port \(No such file or directory\)"
    with pytest.raises(DeviceError, match=rf"^/dev/none: {reason}; ports found: /dev/ttyUSB7, /dev/ttyUSB8$"):
        open_transport("/dev/none")
    monkeypatch.setattr(serial, "ports", list)
    with pytest.raises(DeviceError, match="no serial port was found: check the cable and power"):
        open_transport("serial:/dev/none")


def test_a_name_that_is_no_port_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from popshift.firmware_py.transport import serial

    monkeypatch.setattr(serial, "ports", lambda: ["/dev/ttyUSB7"])
    expected = r"^foo: unknown port; use sim:, tcp:HOST:PORT or a serial device \(found: /dev/ttyUSB7\)$"
    with pytest.raises(InputError, match=expected):
        open_transport("foo")
    with pytest.raises(DeviceError, match=r"^COM99: cannot open the serial port"):
        open_transport("COM99")


def test_the_ports_of_this_computer_can_be_listed() -> None:
    from popshift.firmware_py.transport.serial import ports

    assert all(isinstance(port, str) for port in ports())


def test_tcp_through_the_bridge() -> None:
    device = DeviceModel(CONFIG)
    with served(ModelTransport(device)) as bridge:
        host, port = bridge.address
        assert host == "127.0.0.1"
        for _ in range(2):  # one client after another
            wire = open_transport(f"tcp:{host}:{port}")
            exercise(wire, device)
            wire.close()
            wire.close()


def test_the_bridge_survives_a_client_that_breaks_off() -> None:
    device = DeviceModel(CONFIG)
    with served(ModelTransport(device)) as bridge:
        for _ in range(3):
            rude = socket.create_connection(bridge.address)
            rude.sendall(b"\1\2\3")
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, no goodbye
            rude.close()
        exercise(TcpTransport(*bridge.address), device)


def test_a_second_client_is_refused_and_the_first_goes_on() -> None:
    device = DeviceModel(CONFIG)
    with served(ModelTransport(device)) as bridge:
        first = TcpTransport(*bridge.address)
        link = Link(first)
        link.open()
        for _ in range(3):
            with pytest.raises(DeviceError, match="another client uses the device; close that one"):
                Link(TcpTransport(*bridge.address)).open()
        assert packet.state(link.request(Type.STATUS)).status == 0
        first.close()
        exercise(TcpTransport(*bridge.address), device)


def test_a_board_plugged_in_again_needs_no_loading() -> None:
    """A pseudo-terminal stands for the serial device: it goes, and comes back under another name."""
    device, word = DeviceModel(CONFIG), CONFIG.weight_word_bytes
    requests = [
        (Type.WRITE, packet.write_address(Space.PROGRAM, 0), bytes(range(8))),
        (Type.WRITE, packet.write_address(Space.WEIGHT, 0), bytes(100 * word)),
    ]
    for _ in range(2):
        terminal = Terminal()
        with DeviceThread(device, terminal):
            link = Link(SerialTransport(terminal.port))
            link.open()
            if not device.signature:
                link.submit_many(requests)
            assert packet.state(link.request(Type.STATUS)).signature == signature_of(requests)
        terminal.close()
        with pytest.raises(DeviceError, match="the serial port no longer works"):
            link.request(Type.STATUS)
        link.close()
    assert sum(frame.type == Type.WRITE for frame in device.executed) == len(requests)


def test_a_port_in_use_cannot_be_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(DeviceError, match="cannot listen"):
        Bridge(ModelTransport(DeviceModel(CONFIG)), port=taken.getsockname()[1])


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DeviceError, match=f"tcp:127.0.0.1:{port}: cannot connect .*check host and port"):
        open_transport(f"tcp:127.0.0.1:{port}")


def test_a_connection_that_closes_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        wire = TcpTransport(*server.getsockname())
        peer, _ = server.accept()
        assert wire.read(0.01) == b""
        peer.close()
        with pytest.raises(DeviceError, match="the connection is gone"):
            wire.read(1)
        wire.close()
        with pytest.raises(DeviceError, match="the connection is gone"):
            wire.write(b"x")


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":5", "host:0", "host:65536", "host:x", "host:-1", "host:²"]
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=r"is not HOST:PORT with a port of 1 .. 65535; write it like tcp:127"
    ):
        open_transport(f"tcp:{text}")


def test_addresses() -> None:
    assert parse_address("board.local:5000") == ("board.local", 5000)
    assert parse_address("[::1]:1") == ("::1", 1)


def test_schemes_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_factories", dict(transport._factories))
    wire = ModelTransport(DeviceModel(CONFIG))
    calls = []

    def factory(rest: str, **options: object) -> Transport:
        calls.append((rest, options))
        return wire

    transport.register("sim", factory)
    assert open_transport("sim:tiny", speed=3) is wire and open_transport("sim:") is wire
    assert calls == [("tiny", {"speed": 3}), ("", {})]
    assert isinstance(wire, Transport)


def test_unknown_schemes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        transport, "_factories", {k: v for k, v in transport._factories.items() if k != "sim"}
    )
    with pytest.raises(
        InputError, match="usb:1: no transport is called 'usb'; known: serial:, tcp:; or name a serial"
    ):
        open_transport("usb:1")
    with pytest.raises(
        InputError, match=r"sim:: no transport is called 'sim'; import popshift.sim.board first"
    ):
        open_transport("sim:")
    with pytest.raises(InputError, match="the name of the device is empty"):
        open_transport("")


FORBIDDEN = ("torch", "serial", "rich", "popshift.sim", "popshift.gen")


def test_the_driver_imports_neither_torch_nor_what_it_may_not_need() -> None:
    code = (
        "import sys; sys.modules['serial'] = sys.modules['torch'] = None\n"
        "import popshift.firmware_py.session, popshift.firmware_py.transport.serial as port\n"
        "import popshift.firmware_py.transport.tcp, popshift.firmware_py.transport.bridge\n"
        f"print([name for name in {FORBIDDEN} if sys.modules.get(name)])\n"
        "try: port.SerialTransport('/dev/ttyUSB0')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "[]\nToolError pyserial is not installed; pip install pyserial\n"
