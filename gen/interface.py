"""What a host must know about an accelerator, derived from the contracts: memories, packets, registers,
instructions."""

import dataclasses
import inspect
import struct
from typing import Any

from popshift.hw import isa, numerics, packet
from popshift.hw.config import ADDRESS_BITS, BINARY_OFFSET_BITS, OFFSET_BITS, AcceleratorConfig
from popshift.hw.isa import ALWAYS_COUNTED, Counter, Kind, Opcode, Status
from popshift.hw.numerics import BASIS_SIZE, CODE_BITS
from popshift.hw.packet import Space, Type

_SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}
_PAYLOADS: dict[tuple[Type, str], tuple[struct.Struct, tuple[str, ...]]] = {
    (Type.OPEN, "answer"): (packet.IDENTITY, packet.Identity._fields),
    (Type.RESET, "answer"): (packet.IDENTITY, packet.Identity._fields),
    (Type.RUN, "request"): (packet.RUN, packet.Run._fields),
    (Type.STATUS, "answer"): (packet.STATE, packet.State._fields),
    (Type.COUNTERS, "answer"): (packet.COUNTERS, tuple(counter.name.lower() for counter in Counter)),
}
BASIS_PAYLOAD = f"{Kind.REBUILD.name}, bases"
_CODE_VALUES = [(code, numerics.coefficient_of(code)) for code in range(1 << CODE_BITS)]
_CODES = "A coefficient is stored as a code:"
_BASES = (
    f"A column's basis takes {BASIS_SIZE**2} signed bytes, row by row; its `basis_bits` of {isa.BASIS_WORDS} "
    "words are their bits, from the first byte's least significant on."
)


def interface(config: AcceleratorConfig) -> dict[str, Any]:
    """The interface of one accelerator, as plain values for JSON."""
    return {
        "configuration": config.name,
        "digest": f"{config.digest:016x}",
        "link": config.link,
        "memories": memories(config),
        "packets": {
            "protocol_version": packet.PROTOCOL_VERSION,
            "frame": _fields(packet.HEADER, tuple(f.name for f in dataclasses.fields(packet.Frame)[:3])),
            "crc_bytes": packet.CRC_BYTES,
            "max_payload_bytes": packet.MAX_PAYLOAD,
            "answer_bit": packet.ANSWER,
            "answers": {
                "resend": packet.RESEND | packet.ANSWER,
                "refused": packet.REFUSED | packet.ANSWER,
            },
            "space_shift": packet.SPACE_SHIFT,
            "bank_shift": packet.BANK_SHIFT,
            "requests": {type.name: _request(type) for type in Type},
        },
        "status": {status.name: {"code": int(status), "meaning": status.meaning} for status in Status},
        "counters": {
            "bits": isa.COUNTER_BITS,
            "names": [counter.name.lower() for counter in Counter],
            "built": config.performance_counters,
        },
        "instructions": {opcode.name: _instruction(opcode, config) for opcode in isa.opcodes(config)},
    }


def memories(config: AcceleratorConfig) -> list[dict[str, Any]]:
    """Every memory that the host can reach: space, depth, bytes of a word on the link, and its fields.

    What stands in a word of weights behind these depends on the instruction: ``payloads``.
    """
    lanes = []
    for lane in range(config.post_lanes):
        at = lane * config.parameter_bits
        multiplier = config.requantise.multiplier_bits
        lanes += [
            _bits(f"bias[{lane}]", at, numerics.BIAS_BITS, "signed"),
            _bits(f"multiplier[{lane}]", at + numerics.BIAS_BITS, multiplier, "unsigned"),
            _bits(f"shift[{lane}]", at + numerics.BIAS_BITS + multiplier, numerics.SHIFT_BITS, "unsigned"),
        ]
        if config.has_basis:
            at += numerics.BIAS_BITS + multiplier + numerics.SHIFT_BITS
            lanes += _row(f"basis[{lane}]", at, BASIS_SIZE, numerics.BASIS_BITS, "signed")
    byte = _bits("activation", 0, numerics.ACTIVATION_BITS, "signed")
    return [
        _memory(Space.ACTIVATION, config.activation_depth, 1, [byte])
        | {"banks": config.rows, "bank_mask_bytes": config.bank_mask_bytes},
        _memory(Space.WEIGHT, config.weight_depth, config.weight_word_bytes, _offset(config))
        | {"payloads": _payloads(config)},
        _memory(Space.PARAMETER, config.parameter_depth, config.parameter_word_bytes, lanes),
        _memory(
            Space.PROGRAM,
            config.program_depth,
            isa.WORD_BITS // 8,
            [_bits("instruction_word", 0, isa.WORD_BITS, "unsigned")],
        ),
    ]


def _offset(config: AcceleratorConfig) -> list[dict[str, Any]]:
    """What every word of weights begins with."""
    return [_bits("row_offset", 0, config.offset_bits, "unsigned")]


def _payloads(config: AcceleratorConfig) -> dict[str, list[dict[str, Any]]]:
    """The rest of a word of weights, for every kind of instruction, and of the words that hold bases."""
    first, cols, found = ADDRESS_BITS, config.cols, {}
    for kind in isa.kinds(config):
        match kind:
            case Kind.DENSE:
                found[kind.name] = _row("weight", first, cols, numerics.WEIGHT_BITS, "signed")
            case Kind.XNOR:
                off = _bits("row_off", BINARY_OFFSET_BITS, 1, "unsigned")
                lanes = _row("binary_weights", first, cols, numerics.LANE_CHANNELS, "unsigned")
                found[kind.name] = [off, *lanes]
            case Kind.SHIFT:
                found[kind.name] = _row("coefficient", first, cols, CODE_BITS, "code")
            case Kind.REBUILD:
                width = CODE_BITS * BASIS_SIZE
                places = [(col, first + col * width) for col in range(cols)]
                column = _bits("basis_column", OFFSET_BITS, ADDRESS_BITS - OFFSET_BITS, "unsigned")
                found[kind.name] = [
                    column,
                    *(
                        field
                        for col, at in places
                        for field in _row(f"coefficient[{col}]", at, BASIS_SIZE, CODE_BITS, "code")
                    ),
                ]
                found[BASIS_PAYLOAD] = _row("basis_bits", first, cols, width, "unsigned")
    return found


def markdown(config: AcceleratorConfig) -> str:
    """The interface as a page for people."""
    facts = interface(config)
    lines = [
        f"# Interface of accelerator {config.name}",
        f"Architecture digest `{facts['digest']}`. All numbers are little endian.",
        f"Ports: `clk`, {config.clock_hz / 1e6:g} MHz; `rst`, synchronous, high; {_link_ports(config)}.",
        "## Memories",
    ]
    for memory in facts["memories"]:
        banks = f"{memory['banks']} banks of " if "banks" in memory else ""
        title = f"{memory['name']} (space {memory['space']})"
        lines += [
            f"### {title}",
            f"{banks}{memory['depth']} words; a word is {memory['word_bytes']} bytes on the link; "
            f"addresses 0x{memory['first_address']:08x} .. 0x{memory['last_address']:08x}.",
            _field_table(memory["fields"]),
        ]
        for kind, fields in memory.get("payloads", {}).items():
            lines += [f"Then, in words of kind {kind}:", _field_table(fields)]
        if config.smartdeal and "payloads" in memory:
            lines += [_CODES, _table(["code", "coefficient"], [[str(c), str(v)] for c, v in _CODE_VALUES])]
        if config.rebuild and "payloads" in memory:
            lines.append(_BASES)
    lines += ["## Link", _doc(packet), "### Requests", _doc(Type), *_request_tables(facts)]
    states = [[str(s["code"]), name, s["meaning"]] for name, s in facts["status"].items()]
    lines += ["## Status codes", _table(["code", "name", "meaning"], states)]
    lines += ["## Counters", _doc(Counter)]
    if not config.performance_counters:
        counted = " and ".join(counter.name for counter in ALWAYS_COUNTED)
        lines.append(
            f"This configuration has no performance counters: only {counted} count, the others are 0."
        )
    lines += ["## Instructions", _doc(isa)]
    for name, item in facts["instructions"].items():
        fields = [[f["name"], str(f["word"]), _span(f), _values(f)] for f in item["fields"]]
        lines += [
            f"### {name}",
            f"Opcode {item['opcode']}, {item['words']} words.",
            _table(["field", "word", "bits", "values"], fields),
        ]
    return "\n\n".join(lines) + "\n"


def _link_ports(config: AcceleratorConfig) -> str:
    if config.link == "uart":
        return f"`rx` and `tx`: a UART of {config.baud:,} baud, 8 data bits, no parity, one stop bit"
    return "a byte stream in (`rx__payload`, `rx__valid`, `rx__ready`) and one out (`tx__payload` …)"


def _bits(name: str, low: int, width: int, kind: str) -> dict[str, Any]:
    return {"name": name, "shift": low, "bits": width, "kind": kind}


def _row(name: str, low: int, count: int, width: int, kind: str) -> list[dict[str, Any]]:
    """Fields of the same width, side by side."""
    return [_bits(f"{name}[{index}]", low + index * width, width, kind) for index in range(count)]


def _field_table(fields: list[dict[str, Any]]) -> str:
    return _table(["field", "bits", "kind"], [[f["name"], _span(f), f["kind"]] for f in fields])


def _values(field: dict[str, Any]) -> str:
    """The values that a field of an instruction may have."""
    if "names" in field:
        return ", ".join(f"{code} {name}" for name, code in field["names"].items())
    return f"{field['low']} .. {field['high']}"


def _memory(space: Space, depth: int, word_bytes: int, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": space.name.lower(),
        "space": int(space),
        "depth": depth,
        "word_bytes": word_bytes,
        "first_address": packet.write_address(space, 0),
        "last_address": packet.write_address(space, depth - 1),
        "fields": fields,
    }


def _fields(layout: struct.Struct, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Name, offset and size in bytes of every field of a packed structure."""
    found, at, waiting = [], 0, list(names)
    codes = layout.format.lstrip("<")
    repeated = codes[-1] * int(codes[:-1]) if codes[:-1].isdigit() else codes
    for code in repeated:
        if code == "x":
            at += 1
            continue
        found.append({"name": waiting.pop(0), "offset": at, "bytes": _SIZES[code]})
        at += _SIZES[code]
    assert not waiting and at == layout.size, f"{layout.format} does not match {names}"
    return found


def _request(type: Type) -> dict[str, Any]:
    payloads = {
        side: _fields(*_PAYLOADS[type, side]) for side in ("request", "answer") if (type, side) in _PAYLOADS
    }
    return {"type": int(type), **payloads}


def _instruction(opcode: Opcode, config: AcceleratorConfig) -> dict[str, Any]:
    named = {
        (Opcode.MATRIX, "kind"): isa.kinds(config),
        (Opcode.POST, "source"): isa.sources(config),
        (Opcode.CHANNEL, "operation"): isa.operations(config),
    }
    fields = []
    for name, place in isa.PLACEMENTS[opcode].items():
        low, high = place.field.low, place.field.high
        if name in isa._SIGNED:
            low, high = -(1 << (place.field.bits - 1)), (1 << (place.field.bits - 1)) - 1
        fields.append(
            {
                "name": name,
                "word": place.word,
                "shift": place.shift,
                "bits": place.field.bits,
                "low": low,
                "high": high,
                "stored_minus_one": place.field.count,
            }
        )
        if (opcode, name) in named:
            fields[-1]["names"] = {code.name: int(code) for code in named[opcode, name]}
    return {"opcode": int(opcode), "words": isa.LENGTHS[opcode], "fields": fields}


def _request_tables(facts: dict[str, Any]) -> list[str]:
    tables = []
    for name, request in facts["packets"]["requests"].items():
        for side in ("request", "answer"):
            if side in request:
                rows = [[f["name"], str(f["offset"]), str(f["bytes"])] for f in request[side]]
                tables += [f"Payload of the {side} of {name}:", _table(["field", "offset", "bytes"], rows)]
    numbers = [[name, str(request["type"])] for name, request in facts["packets"]["requests"].items()]
    return [_table(["request", "type"], numbers), *tables]


def _doc(thing: Any) -> str:
    return inspect.cleandoc(inspect.getdoc(thing) or "")


def _span(field: dict[str, Any]) -> str:
    return f"{field['shift'] + field['bits'] - 1}:{field['shift']}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
