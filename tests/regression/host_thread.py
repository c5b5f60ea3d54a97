"""The real host driver, blocking code and all, against a byte stream of a design in cocotb.

The driver runs in a thread of its own; the simulation runs only while it is in `BenchTransport.read`. The
driver's clock is the simulation's: a run depends on its seed only, not on how busy the computer is.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar
from unittest import mock

from cocotb.simtime import get_sim_time
from cocotb.task import bridge, resume
from cocotb.triggers import First, Timer
from stream_drivers import PERIOD_NS, StreamDriver, StreamSink

Result = TypeVar("Result")


class BenchTransport:
    """A `popshift.firmware_py.transport.Transport` over a driver and a sink.

    Parameters
    ----------
    to_device, from_device: the two directions, payload 8 bits.
    cycles_per_second: clock cycles that are a second to the driver.
    latency: see `Transport`, in such seconds.
    """

    name = "bench"
    bytes_per_second = 1000.0

    def __init__(
        self,
        to_device: StreamDriver,
        from_device: StreamSink,
        *,
        cycles_per_second: int = 2000,
        latency: float = 10.0,
    ) -> None:
        self.latency = latency
        self._to_device, self._from_device = to_device, from_device
        self._nanoseconds_per_second = cycles_per_second * PERIOD_NS
        self._now = get_sim_time("ns") / self._nanoseconds_per_second

    def now(self) -> float:
        """The driver's time: seconds since the simulation began, as of the last `read`."""
        return self._now

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
        self._now = get_sim_time("ns") / self._nanoseconds_per_second
        data = bytes(self._from_device.items)
        self._from_device.items.clear()
        return data


async def run_host(blocking: Callable[[BenchTransport], Result], transport: BenchTransport) -> Result:
    """Await a blocking function that uses the transport; time is `BenchTransport.now` to it."""
    with mock.patch("popshift.firmware_py.protocol.time", SimpleNamespace(monotonic=transport.now)):
        return await bridge(blocking)(transport)
