"""What `generate` says about an accelerator is what its Verilog and its contracts say."""

import json
import re
import struct
import tomllib
from collections import Counter as Tally
from pathlib import Path

import pytest

from popshift.gen import generation, interface
from popshift.hw import isa, packet
from popshift.hw.config import AcceleratorConfig, load_config, named_configs
from popshift.hw.isa import Counter, Opcode, Status, instruction
from popshift.hw.packet import Space

CONFIGS = list(named_configs().values())


def memories_in(verilog: str) -> Tally[tuple[int, int]]:
    """How many memories of each (width, depth) the design has."""
    text = verilog[: verilog.index("module popshift_ram")]
    found = Tally()
    for block in re.findall(r"popshift_ram #\((.*?)\) \w+ \(", text, re.DOTALL):
        parameters = dict(re.findall(r"\.(\w+)\(32'd(\d+)\)", block))
        found[int(parameters["WIDTH"]), int(parameters["DEPTH"])] += 1
    for high, last in re.findall(r"^\s*reg \[(\d+):0\] \w+ \[(\d+):0\];", text, re.MULTILINE):
        found[int(high) + 1, int(last) + 1] += 1
    return found


def test_the_files_and_the_memories_in_the_verilog(tmp_path: Path):
    config = load_config("tiny").replace(
        link="uart", link_fifo_depth=64, rows=4, cols=2, post_lanes=1, requantise="compact"
    )
    done = generation.generate(config, tmp_path / "new" / "folder")
    texts = {path.name: path.read_text() for path in done.files}
    assert done.seconds > 0 and len(texts) == 5
    counted = Tally()
    for memory in done.resources.memories:
        counted[memory.width, memory.depth] += memory.count
    assert counted == memories_in(texts["tiny.v"])
    assert re.search(r"^module popshift\(", texts["tiny.v"], re.MULTILINE)
    assert AcceleratorConfig.from_dict(tomllib.loads(texts["tiny.toml"])) == config
    assert texts["tiny.interface.md"] == interface.markdown(config)
    assert json.loads(texts["tiny.interface.json"]) == interface.interface(config)
    assert json.loads(texts["tiny.resources.json"]) == done.resources.to_dict()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_interface_and_resources_are_json_and_markdown(config: AcceleratorConfig):
    facts = json.loads(json.dumps(interface.interface(config)))
    assert facts["digest"] == f"{config.digest:016x}"
    page = interface.markdown(config)
    for name in [opcode.name for opcode in Opcode] + [status.name for status in Status]:
        assert name in page
    resources = generation.resources(config)
    assert resources.memory_kbit == sum(m["kbit"] for m in resources.to_dict()["memories"])
    assert resources.multipliers == config.peak_macs_per_cycle


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_words_fill_their_bytes_and_nothing_overlaps(config: AcceleratorConfig):
    for memory in interface.memories(config):
        used = [bit for f in memory["fields"] for bit in range(f["shift"], f["shift"] + f["bits"])]
        assert len(used) == len(set(used)) and max(used) < 8 * memory["word_bytes"]
        assert 8 * memory["word_bytes"] - len(used) < 8
    activation = interface.memories(config)[0]
    assert activation["banks"] == config.rows
    assert activation["last_address"] == packet.write_address(Space.ACTIVATION, config.activation_depth - 1)


@pytest.mark.parametrize("name", ["tiny", "icebreaker"])
def test_parameter_fields_are_where_the_packer_puts_them(name: str):
    config = load_config(name)
    lanes = [(-5 - lane, 1000 + lane, 7 + lane) for lane in range(config.post_lanes)]
    word = int.from_bytes(isa.pack_parameter(config, lanes), "little")
    memory = interface.memories(config)[Space.PARAMETER]
    values = []
    for field in memory["fields"]:
        value = word >> field["shift"] & ((1 << field["bits"]) - 1)
        values.append(value - (1 << field["bits"]) if field["kind"] == "signed" and value >> 31 else value)
    assert values == [value for lane in lanes for value in lane]


def test_instruction_fields_are_where_the_encoder_puts_them():
    described = interface.interface(load_config("tiny"))["instructions"]
    assert list(described) == [opcode.name for opcode in Opcode]
    for opcode in Opcode:
        item = described[opcode.name]
        values = {f["name"]: (f["low"] + 3 * f["high"]) // 4 for f in item["fields"]}
        words = isa.encode(instruction(opcode, **values))
        assert (words[0] & 15, len(words)) == (item["opcode"], item["words"])
        for field in item["fields"]:
            raw = words[field["word"]] >> field["shift"] & ((1 << field["bits"]) - 1)
            wanted = values[field["name"]] - field["stored_minus_one"]
            assert raw == wanted % (1 << field["bits"]), (opcode, field)


def test_payload_fields_are_where_the_structures_put_them():
    requests = interface.interface(load_config("tiny"))["packets"]["requests"]
    for fields, layout, values in (
        (requests["OPEN"]["answer"], packet.IDENTITY, (0x5350, 1, 4, 5, 1 << 60 | 9)),
        (requests["RUN"]["request"], packet.RUN, (300, 1, 70000)),
        (requests["STATUS"]["answer"], packet.STATE, (2, 400, 500, 1 << 20)),
        (requests["COUNTERS"]["answer"], packet.COUNTERS, tuple(range(7, 7 + len(Counter)))),
    ):
        data = layout.pack(*values)
        codes = {1: "B", 2: "H", 4: "I", 8: "Q"}
        read = [struct.unpack_from("<" + codes[f["bytes"]], data, f["offset"])[0] for f in fields]
        assert tuple(read) == values
