"""Cocotb tests of the whole accelerator through its link, with the real host driver."""

import random

import cocotb
from cocotb.triggers import ClockCycles
from cocotb_bench import bench_parameters
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

from popshift.firmware_py.protocol import Link
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Status
from popshift.hw.packet import Space, Type
from popshift.sim.faults import FaultRates, FaultyTransport

PAUSES = {
    "none": no_pauses,
    "half": lambda: random_pauses(random, 0.5),
    "bursts": lambda: random_bursts(random, 40),
}


async def start(dut, pauses) -> tuple[AcceleratorConfig, BenchTransport]:
    """Clock, reset, drivers: the accelerator of the bench behind a transport."""
    config = AcceleratorConfig.from_dict(bench_parameters()["config"])
    await start_clock(dut)
    driver = StreamDriver(dut, "accelerator__rx", pauses=PAUSES[pauses]())
    sink = StreamSink(dut, "accelerator__tx", pauses=PAUSES[pauses]())
    watch(dut, sink, cycles=60_000)
    return config, BenchTransport(driver, sink)


def random_blocks(config: AcceleratorConfig) -> list[tuple[int, int, bytes]]:
    """Bank, first word and contents: one block for every bank, none overlapping another."""
    blocks = []
    for bank in range(config.rows):
        length = random.randrange(1, min(120, config.activation_depth))
        word = random.randrange(config.activation_depth - length + 1)
        blocks.append((bank, word, random.randbytes(length)))
    return blocks


def write_and_read_back(link: Link, config: AcceleratorConfig) -> None:
    """Different bytes into every bank, read back in another order."""
    blocks = random_blocks(config)
    link.submit_many(
        (
            Type.WRITE,
            packet.write_address(Space.ACTIVATION, word),
            packet.bank_mask(config, [bank]) + contents,
        )
        for bank, word, contents in blocks
    )
    random.shuffle(blocks)
    answers = link.submit_many(
        (Type.READ, packet.read_address(bank, word), len(contents).to_bytes(2, "little"))
        for bank, word, contents in blocks
    )
    assert answers == [contents for _, _, contents in blocks]


@cocotb.test(timeout_time=50, timeout_unit="ms")
@cocotb.parametrize(pauses=list(PAUSES))
async def memory_written_is_memory_read(dut, pauses):
    config, transport = await start(dut, pauses)

    def host(transport):
        link = Link(transport, fifo_bytes=config.link_fifo_depth, seed=random.getrandbits(32))
        assert link.open() == packet.identity(config)
        state = packet.state(link.request(Type.STATUS))
        assert (state.status, state.cycles) == (Status.IDLE, 0)
        write_and_read_back(link, config)
        assert link.statistics.retransmissions == 0
        assert link.statistics.damaged == 0

    await run_host(host, transport)


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def bad_wire_loses_nothing(dut):
    config, transport = await start(dut, "none")
    faults = FaultRates(damage=0.05, drop=0.05, double=0.05, reorder=0.05)
    transport.latency = 0.2  # what is lost has to be waited for

    def host(transport):
        wire = FaultyTransport(transport, random.getrandbits(32), faults)
        link = Link(wire, fifo_bytes=config.link_fifo_depth, tries=12, seed=random.getrandbits(32))
        assert link.open() == packet.identity(config)
        while sum(wire.faults.values()) < 8:
            write_and_read_back(link, config)
        assert link.statistics.retransmissions > 0

    await run_host(host, transport)
    while dut.accelerator__busy.value == 1:  # a doubled frame may still be answered
        await ClockCycles(dut.clk, 50)
