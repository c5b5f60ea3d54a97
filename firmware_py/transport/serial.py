"""A serial port (USB UART) as a transport, through pyserial."""

import errno
import os
from types import ModuleType
from typing import Any

from popshift.hw.errors import DeviceError, NoDeviceError, ToolError

BITS_PER_BYTE = 10  # 8N1: a start bit, eight data bits, a stop bit
WRITE_TIMEOUT = 5.0
WRITE_BLOCK_BYTES = 4096  # an operating system's output buffer, which a write may have to wait for


def _pyserial() -> ModuleType:
    try:
        import serial
        import serial.tools.list_ports
    except ImportError as error:
        raise ToolError("pyserial is not installed", remedy="pip install pyserial") from error
    return serial


def list_ports() -> list[Any]:
    """The serial ports of this computer as pyserial describes them (``device``, ``vid``, ``pid``, …).

    Raises
    ------
    ToolError: pyserial is not installed.
    """
    return list(_pyserial().tools.list_ports.comports())


def ports() -> list[str]:
    """Device names of the serial ports of this computer, sorted; errors as `list_ports`."""
    return sorted(port.device for port in list_ports())


class SerialTransport:
    """A serial port, 8 data bits, no parity, one stop bit, no flow control.

    Parameters
    ----------
    port: device name, for example ``/dev/ttyUSB0`` or ``COM3``.
    baud: bits per second, as the configuration of the device says.

    Raises
    ------
    DeviceError: no such port, no permission, in use, or it cannot run at this speed.
    ToolError: pyserial is not installed.
    """

    latency = 0.2  # USB adapters keep short answers back for up to 16 ms; a busy host adds to it

    def __init__(self, port: str, *, baud: int = 3_000_000) -> None:
        self.name = port
        self.bytes_per_second = baud / BITS_PER_BYTE
        serial = _pyserial()
        self._failures = (serial.SerialException, OSError)
        patience = WRITE_TIMEOUT + WRITE_BLOCK_BYTES / self.bytes_per_second
        try:
            # Exclusive: two programs on one port would steal each other's answers.
            self._port = serial.Serial(port, baud, write_timeout=patience, exclusive=True)
            self._port.reset_input_buffer()
        except (serial.SerialException, OSError, ValueError) as error:
            missing = getattr(error, "errno", None) == errno.ENOENT
            raise (NoDeviceError if missing else DeviceError)(
                f"cannot open the serial port ({_reason(error)})", where=port, remedy=_remedy(error)
            ) from error

    def read(self, timeout: float) -> bytes:
        """See `Transport.read`."""
        try:
            self._port.timeout = max(timeout, 0.0)
            first = self._port.read(1)
            return first + self._port.read(self._port.in_waiting) if first else b""
        except self._failures as error:
            raise self._gone(error) from error

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        try:
            self._port.write(data)
        except self._failures as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """See `Transport.close`."""
        self._port.close()

    def _gone(self, error: Exception) -> DeviceError:
        return DeviceError(
            f"the serial port no longer works ({_reason(error)})",
            where=self.name,
            remedy="check the cable and whether the device still has power",
        )


def _reason(error: Exception) -> str:
    """pyserial writes the port and the system's own message into one text."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)


def _remedy(error: Exception) -> str:
    text = str(error).lower()
    if "permission" in text or "access is denied" in text:
        return "you may lack the right to use it: on Linux join its group (often dialout), then log in again"
    if "lock" in text:
        return "another program uses it: close that program"
    found = ports()
    return (
        f"ports found: {', '.join(found)}"
        if found
        else "no serial port was found: check the cable and power of the device"
    )
