"""The real host driver, blocking code and all, against a byte stream of a design in cocotb.

The driver runs in a thread of its own; the simulation runs only while it is in `BenchTransport.read`.
"""

from collections.abc import Callable
from typing import TypeVar

from cocotb.task import bridge, resume
from cocotb.triggers import First, Timer
from stream_drivers import PERIOD_NS, StreamDriver, StreamSink

Result = TypeVar("Result")


class BenchTransport:
    """A `popshift.firmware_py.transport.Transport` over a driver and a sink.

    Parameters
    ----------
    to_device, from_device: the two directions, payload 8 bits.
    cycles_per_second: clock cycles that stand for a second of a time-out; about what the simulation does.
    """

    name = "bench"
    bytes_per_second = 1000.0

    def __init__(
        self,
        to_device: StreamDriver,
        from_device: StreamSink,
        *,
        cycles_per_second: int = 2000,
        latency: float = 1.0,
    ) -> None:
        self.latency = latency
        self._to_device, self._from_device = to_device, from_device
        self._nanoseconds_per_second = cycles_per_second * PERIOD_NS

    def read(self, timeout: float) -> bytes:
        """See `Transport.read`; must be called within `run_host`."""
        return resume(self._read)(timeout)

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        self._to_device.send(data)

    def close(self) -> None:
        """See `Transport.close`."""

    async def _read(self, timeout: float) -> bytes:
        end = Timer(max(1, round(timeout * self._nanoseconds_per_second)), "ns")
        self._from_device.news.clear()
        if not self._from_device.items:
            await First(self._from_device.news.wait(), end)
        data = bytes(self._from_device.items)
        self._from_device.items.clear()
        return data


async def run_host(blocking: Callable[[BenchTransport], Result], transport: BenchTransport) -> Result:
    """Await a blocking function that uses the transport."""
    return await bridge(blocking)(transport)
