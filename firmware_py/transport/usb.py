"""Which serial port belongs to a board, by the numbers its bridge has on USB."""

from popshift.firmware_py.transport.serial import list_ports
from popshift.hw.errors import NoDeviceError


def port_of(vendor: int, product: int, *, name: str) -> str:
    """Device name of the serial port of a bridge; of several on one bridge the last (the first ones program).

    Parameters
    ----------
    name: of the board, for messages.

    Raises
    ------
    NoDeviceError: none is there, or those of several bridges.
    ToolError: pyserial is not installed.
    """
    found = [port for port in list_ports() if (port.vid, port.pid) == (vendor, product)]
    bridges = {port.serial_number or port.location for port in found}
    if not found:
        others = ", ".join(sorted(port.device for port in list_ports())) or "none"
        raise NoDeviceError(
            f"its serial port ({vendor:04x}:{product:04x} on USB) was not found; ports found: {others}",
            where=name,
            remedy="check the cable, or name the port with --port",
        )
    if len(bridges) > 1:
        devices = ", ".join(sorted(port.device for port in found))
        raise NoDeviceError(
            f"several ports may be its own: {devices}", where=name, remedy="name one with --port"
        )
    return max(found, key=lambda port: (len(port.device), port.device)).device
