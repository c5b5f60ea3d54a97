"""What `generate` says about an accelerator is what its Verilog and its contracts say."""

import json
import re
import struct
import tomllib
from collections import Counter as Tally
from pathlib import Path

import numpy as np
import pytest

from popshift.firmware_py import weight_words
from popshift.gen import generation, interface
from popshift.hw import isa, numerics, packet
from popshift.hw.config import AcceleratorConfig, load_config, named_configs
from popshift.hw.isa import Counter, Lane, Opcode, Status, instruction
from popshift.hw.packet import Space

_TINY = load_config("tiny").replace(post_lanes=1)
OTHERS = [
    _TINY.replace(name="rebuild", rebuild=True),
    _TINY.replace(name="shift", pe_kinds=["shift"], requantise="compact"),
    _TINY.replace(name="xnor", cols=8, pe_kinds=["xnor"]),
    _TINY.replace(name="everything", cols=8, post_lanes=2, pe_kinds=["mul", "shift", "xnor"], rebuild=True),
]
CONFIGS = [*named_configs().values(), *OTHERS]


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


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 4, "cols": 2, "post_lanes": 1, "requantise": "compact"},
        {"rows": 4, "cols": 6, "post_lanes": 2, "pe_kinds": ["mul", "shift"], "rebuild": True},
        {"rows": 3, "cols": 9, "tile_rows": 1, "tile_cols": 1, "post_lanes": 3, "pe_kinds": ["shift"]},
    ],
    ids=["int8", "rebuild", "shift"],
)
def test_the_files_and_the_memories_in_the_verilog(tmp_path: Path, changes):
    config = load_config("tiny").replace(link="uart", link_fifo_depth=64, **changes)
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
    assert resources.multipliers == (config.peak_macs_per_cycle if "mul" in config.pe_kinds else 0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_words_fill_their_bytes_and_nothing_overlaps(config: AcceleratorConfig):
    for memory in interface.memories(config):
        spare = []
        for fields in memory.get("payloads", {"": []}).values():
            both = memory["fields"] + fields
            used = [bit for f in both for bit in range(f["shift"], f["shift"] + f["bits"])]
            assert len(used) == len(set(used)) and max(used) < 8 * memory["word_bytes"]
            spare.append(8 * memory["word_bytes"] - len(used))
        assert 0 <= min(spare) < 8
    activation = interface.memories(config)[0]
    assert activation["banks"] == config.rows
    assert activation["last_address"] == packet.write_address(Space.ACTIVATION, config.activation_depth - 1)


def read_fields(word: bytes, fields) -> dict[str, int]:
    """The values in a word, by name; of codes the coefficients."""
    number, found = int.from_bytes(word, "little"), {}
    for field in fields:
        value = number >> field["shift"] & ((1 << field["bits"]) - 1)
        if field["kind"] == "signed" and value >> (field["bits"] - 1):
            value -= 1 << field["bits"]
        found[field["name"]] = numerics.coefficient_of(value) if field["kind"] == "code" else value
    return found


PARAMETERS = [load_config("tiny"), load_config("icebreaker"), *OTHERS]


@pytest.mark.parametrize("config", PARAMETERS, ids=lambda config: config.name)
def test_parameter_fields_are_where_the_packer_puts_them(config: AcceleratorConfig):
    lanes = [Lane(-5 - n, 1000 + n, 7 + n, (-1 - n, 127, -128)) for n in range(config.post_lanes)]
    wanted = {}
    for n, lane in enumerate(lanes):
        wanted |= {f"bias[{n}]": lane.bias, f"multiplier[{n}]": lane.multiplier, f"shift[{n}]": lane.shift}
        if "shift" in config.pe_kinds:
            wanted |= {f"basis[{n}][{s}]": value for s, value in enumerate(lane.basis)}
    fields = interface.memories(config)[Space.PARAMETER]["fields"]
    assert read_fields(isa.pack_parameter(config, lanes), fields) == wanted


@pytest.mark.parametrize("config", PARAMETERS, ids=lambda config: config.name)
def test_weight_fields_are_where_the_packer_puts_them(config: AcceleratorConfig):
    rng = np.random.default_rng(4)
    memory = interface.memories(config)[Space.WEIGHT]
    payloads = dict(memory["payloads"])
    offset, column = np.array([777]), np.array([2])
    head = {"row_offset": 777}

    def check(word: np.ndarray, kind: str, wanted: dict[str, int]) -> None:
        assert len(word) == memory["word_bytes"]
        assert read_fields(word.tobytes(), memory["fields"] + payloads.pop(kind)) == wanted

    if "mul" in config.pe_kinds:
        weights = rng.integers(-128, 128, config.cols).astype(np.int8)
        found = weight_words.dense_words(config, offset, weights[None])[0]
        check(found, "DENSE", head | {f"weight[{c}]": int(weight) for c, weight in enumerate(weights)})
    if "shift" in config.pe_kinds:
        row = rng.choice([0, 1, -1, 64, -64, 8], config.cols).astype(np.int8)
        found = weight_words.shift_words(config, offset, row[None])[0]
        check(found, "SHIFT", head | {f"coefficient[{c}]": int(value) for c, value in enumerate(row)})
    if "xnor" in config.pe_kinds:
        lanes = rng.integers(0, 256, config.cols).astype(np.uint8)
        found = weight_words.binary_words(config, offset, np.array([True]), lanes[None])[0]
        named = {f"binary_weights[{c}]": int(lane) for c, lane in enumerate(lanes)}
        off = payloads["XNOR"]
        check(found, "XNOR", head | {"row_off": 0} | named)
        found = weight_words.binary_words(config, offset, np.array([False]), lanes[None])[0]
        assert read_fields(found.tobytes(), off)["row_off"] == 1
    if config.rebuild:
        row = rng.choice([0, 1, -1, 64, -64, 8], (config.cols, 3)).astype(np.int8)
        found = weight_words.coefficient_words(config, offset, column, row[None])[0]
        named = {f"coefficient[{c}][{j}]": int(value) for (c, j), value in np.ndenumerate(row)}
        check(found, "REBUILD", head | {"basis_column": 2} | named)
        basis = rng.integers(-128, 128, (config.cols, 3, 3)).astype(np.int8)
        fields = payloads.pop(interface.BASIS_PAYLOAD)
        words = [read_fields(word.tobytes(), fields) for word in weight_words.basis_words(config, basis)]
        for c in range(config.cols):
            bits = sum(word[f"basis_bits[{c}]"] << 12 * number for number, word in enumerate(words))
            assert bits == int.from_bytes(basis[c].tobytes(), "little")
    assert not payloads, "described, but not tested"


@pytest.mark.parametrize("config", PARAMETERS, ids=lambda config: config.name)
def test_codes_are_named_as_far_as_they_are_built(config: AcceleratorConfig):
    instructions = interface.interface(config)["instructions"]
    shift = "shift" in config.pe_kinds
    kinds = {"DENSE": 0} if "mul" in config.pe_kinds else {}
    kinds |= ({"REBUILD": 1} if config.rebuild else {}) | ({"SHIFT": 2} if shift else {})
    xnor = "xnor" in config.pe_kinds
    kinds |= {"XNOR": 3} if xnor else {}
    operations = {"MAX": 0, "SUM": 1} | ({"OR": 2} if xnor else {})
    sources = {"MATRIX": 0, "CHANNEL": 1, "FILL": 2} | ({"BASIS": 3} if shift else {})
    named = {f["name"]: f["names"] for item in instructions.values() for f in item["fields"] if "names" in f}
    assert named == {"kind": kinds, "source": sources, "operation": operations}
    page = interface.markdown(config)
    for names in named.values():
        assert "| " + ", ".join(f"{code} {name}" for name, code in names.items()) + " |" in page
    assert ("| 15 | -64 |" in page) is config.smartdeal


def test_instruction_fields_are_where_the_encoder_puts_them():
    config = load_config("tiny").replace(depthwise=True)
    described = interface.interface(config)["instructions"]
    assert list(described) == [opcode.name for opcode in Opcode]
    plain = interface.interface(load_config("tiny"))["instructions"]
    assert [name for name in described if name not in plain] == ["DEPTHWISE"]
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
        (requests["STATUS"]["answer"], packet.STATE, (2, 400, 500, 1 << 20, 77)),
        (requests["COUNTERS"]["answer"], packet.COUNTERS, tuple(range(7, 7 + len(Counter)))),
    ):
        data = layout.pack(*values)
        codes = {1: "B", 2: "H", 4: "I", 8: "Q"}
        read = [struct.unpack_from("<" + codes[f["bytes"]], data, f["offset"])[0] for f in fields]
        assert tuple(read) == values
