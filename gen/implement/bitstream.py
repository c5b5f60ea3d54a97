"""From a routed design to the file that configures the device."""

import struct
import zlib
from pathlib import Path

from popshift.gen.implement.devices import Device
from popshift.gen.implement.place_route import Report
from popshift.gen.implement.toolchain import PACKER, package_version, run
from popshift.sim.build_cache import cached, digest

SUFFIX = {"ecp5": ".bit", "ice40": ".bin", "gowin": ".fs"}
"""What such files are called, by device family."""


def pack(report: Report, device: Device) -> Path:
    """The bitstream of a routed design; one made before comes from the cache.

    Raises
    ------
    ToolError: the family's packer is missing or failed.
    """
    tool = PACKER[device.family]
    path, routed = tool.require(), Path(report.routed)
    version = tool.version or package_version("apycula") or "unknown"
    name = f"bitstream{SUFFIX[device.family]}"

    def produce(folder: Path) -> None:
        # The WebAssembly builds see the working folder but not every other place.
        copy = folder / routed.name
        copy.write_bytes(routed.read_bytes())
        given = [copy.name, "-o", name] if device.family == "gowin" else [copy.name, name]
        run(
            [path, *device.packer, *given],
            task=f"packing for {device.name}",
            log=folder / "pack.log",
            cwd=folder,
        )
        copy.unlink()

    key = digest(routed.read_bytes(), path.name, version, *device.packer)
    return cached("bitstream", key, produce, what=f"the bitstream for {device.name}") / name


def with_dfu_suffix(bitstream: bytes, vendor: int, product: int) -> bytes:
    """As a bootloader takes it that speaks USB DFU 1.1 (appendix B: the suffix says what device the file is
    for).

    Parameters
    ----------
    vendor, product: numbers of the bootloader on USB.
    """
    suffix = struct.pack("<HHHH3sB", 0xFFFF, product, vendor, 0x0100, b"UFD", 16)
    checksum = zlib.crc32(bitstream + suffix) ^ 0xFFFFFFFF
    return bitstream + suffix + struct.pack("<I", checksum)
