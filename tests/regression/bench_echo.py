"""Cocotb tests of the bench itself: drivers, monitors, watchdog and host thread against `EchoUnit`."""

import random

import cocotb
from cocotb.triggers import ClockCycles
from cocotb_bench import bench_parameters
from echo_unit import OFFSET
from host_thread import BenchTransport, run_host
from stream_drivers import (
    StreamDriver,
    StreamSink,
    no_pauses,
    random_bursts,
    random_pauses,
    start_clock,
    watch,
)

PAUSES = {
    "none": no_pauses,
    "half": lambda: random_pauses(random, 0.5),
    "most": lambda: random_pauses(random, 0.9),
    "bursts": lambda: random_bursts(random, 12),
}


async def start(dut):
    for name in ("first", "second"):
        for control in ("drop", "stop", "o__ready", "i__valid"):
            getattr(dut, f"{name}__{control}").value = 0
    await start_clock(dut)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(before=list(PAUSES), behind=list(PAUSES), after_valid=[False, True])
async def every_item_passes_once_and_in_order(dut, before, behind, after_valid):
    await start(dut)
    items = [random.randrange(256) for _ in range(bench_parameters()["items"])]
    driver = StreamDriver(dut, "first__i", pauses=PAUSES[before]())
    sink = StreamSink(dut, "first__o", pauses=PAUSES[behind](), after_valid=after_valid)
    watch(dut, sink, cycles=400)
    driver.send(items)
    await sink.received(len(items))
    await driver.sent()
    assert sink.items == [(item + OFFSET) % 256 for item in items]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def throughput_is_one_item_per_cycle(dut):
    await start(dut)
    driver, sink = StreamDriver(dut, "first__i"), StreamSink(dut, "first__o")
    driver.send(range(100))
    start_time = cocotb.simtime.get_sim_time("ns")
    await sink.received(100)
    assert (cocotb.simtime.get_sim_time("ns") - start_time) / 10 <= 102


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def host_code_runs_against_two_units_in_turn(dut):
    await start(dut)
    there = BenchTransport(
        StreamDriver(dut, "first__i", pauses=PAUSES["half"]()),
        StreamSink(dut, "first__o", pauses=PAUSES["half"]()),
    )
    back = BenchTransport(StreamDriver(dut, "second__i"), StreamSink(dut, "second__o"))

    def converse(transport):
        for length in (1, 3, 40):
            question = bytes(range(length))
            transport.write(question)
            answer = b""
            while len(answer) < length:
                answer += transport.read(1.0)
            assert answer == bytes(byte + OFFSET for byte in question)
        assert transport.read(0.01) == b""
        return "done"

    for transport in (there, back):
        assert await run_host(converse, transport) == "done"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def withdrawn_item_fails(dut):
    """Fails by intention: `test_bench_echo.py` expects the monitor to find the fault."""
    await start(dut)
    driver = StreamDriver(dut, "first__i")
    StreamSink(dut, "first__o", pauses=random_pauses(random, 1.0))
    driver.send([7])
    await ClockCycles(dut.clk, 5)
    dut.first__drop.value = 1
    await ClockCycles(dut.clk, 5)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def stopped_unit_fails(dut):
    """Fails by intention: the watchdog finds it."""
    await start(dut)
    sink = StreamSink(dut, "first__o")
    watch(dut, sink, cycles=50)
    dut.first__stop.value = 1
    StreamDriver(dut, "first__i").send([7])
    await sink.received(1)
