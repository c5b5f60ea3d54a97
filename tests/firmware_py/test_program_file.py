"""The program file: the same program gives the same bytes, and no bit of them can change unseen."""

import json
import os
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from example_program import example_program, layout
from safetensors import safe_open

from popshift.firmware_py import program_file
from popshift.firmware_py.program import Program
from popshift.hw.config import load_config
from popshift.hw.errors import ProgramError


@pytest.fixture(scope="module")
def program() -> Program:
    return example_program(segments=3)


@pytest.fixture(scope="module")
def data(program: Program) -> bytes:
    return program.to_bytes()


def test_load_gives_back_what_was_saved(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path / "net.pop")
    loaded = Program.load(tmp_path / "net.pop")
    assert (loaded.config, loaded.name) == (program.config, program.name)
    for name in ("inputs", "outputs", "tensors"):
        assert list(getattr(loaded, name)) == list(getattr(program, name))
    assert [asdict(layer) for layer in loaded.layers] == [asdict(layer) for layer in program.layers]
    assert len(loaded.segments) == 3
    for mine, other in zip(program.segments, loaded.segments, strict=True):
        assert list(mine.layers) == list(other.layers)
        for name in ("weights", "parameters", "instructions"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name), strict=True)
    assert loaded.to_bytes() == program.to_bytes() == (tmp_path / "net.pop").read_bytes()
    assert os.listdir(tmp_path) == ["net.pop"], "no temporary file stays"


def test_any_safetensors_reader_can_open_it(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path / "net.pop")
    with safe_open(tmp_path / "net.pop", "numpy") as file:
        manifest = json.loads(file.metadata()["popshift"])["manifest"]
        assert manifest["config"]["rows"] == program.config.rows
        assert manifest["digest"] == f"0x{program.config.digest:016x}"
        np.testing.assert_array_equal(file.get_tensor("segment1.weights"), program.segments[1].weights)


def test_a_segment_without_weights_is_saved(program: Program) -> None:
    empty = np.zeros((0, program.config.weight_word_bytes), np.uint8)
    bare = replace(program, segments=[replace(segment, weights=empty) for segment in program.segments])
    assert Program.from_bytes(bare.to_bytes()).segments[0].weights.shape == empty.shape


def test_numpy_values_in_the_mapping_are_saved_as_plain_ones(program: Program) -> None:
    mapping = {"tiles": np.int64(3), "share": np.float32(0.5)}
    layers = [replace(program.layers[0], mapping=mapping), *program.layers[1:]]
    loaded = Program.from_bytes(replace(program, layers=layers).to_bytes())
    assert loaded.layers[0].mapping == {"tiles": 3, "share": 0.5}


def test_every_truncation_is_refused(data: bytes) -> None:
    sizes = [*range(0, 64), *range(64, len(data), 37), *range(len(data) - 32, len(data))]
    for size in sizes:
        with pytest.raises(ProgramError, match=r"truncated|damaged|not a program file"):
            Program.from_bytes(data[:size])
    with pytest.raises(ProgramError, match=f"truncated: {len(data) - 1} of {len(data)} bytes; copy it again"):
        Program.from_bytes(data[:-1])


def test_every_bit_flip_is_refused(data: bytes) -> None:
    seed = 20
    print(f"seed {seed}")
    source = random.Random(seed)
    header = 8 + int.from_bytes(data[:8], "little")
    places = list(range(16)) + [source.randrange(header) for _ in range(700)]
    places += [source.randrange(len(data)) for _ in range(300)] + [len(data) - 1]
    checksum = data.index(b"sha256")
    places += list(range(checksum - 8, checksum + 90))
    for place in places:
        altered = bytearray(data)
        altered[place] ^= 1 << source.randrange(8)
        with pytest.raises(ProgramError):
            Program.from_bytes(bytes(altered))


def test_bytes_behind_the_end_are_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match="damaged or altered"):
        Program.from_bytes(data + b"\0")


def test_another_format_version_is_refused(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(program_file, "FORMAT", 7)
        program.save(tmp_path / "net.pop")
    with pytest.raises(
        ProgramError, match=r"net.pop: the file has format version 7, this popshift reads version 1"
    ):
        Program.load(tmp_path / "net.pop")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY" + bytes(200), b"\xff" * 100, bytes(100)])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pop").write_bytes(content)
    with pytest.raises(ProgramError, match="not a program file"):
        Program.load(tmp_path / "x.pop")


def test_a_manifest_that_is_not_understood_is_refused(program: Program) -> None:
    manifest, arrays = program_file.unpack(program.to_bytes(), "here")
    for key in ("config", "inputs", "layers", "segments", "digest", "name"):
        for broken in ({k: v for k, v in manifest.items() if k != key}, {**manifest, key: 3}):
            if key == "name" and key in broken:
                continue
            with pytest.raises(ProgramError, match="here: its manifest is not understood"):
                Program.from_bytes(program_file.pack(broken, arrays), where="here")
    with pytest.raises(ProgramError, match=r"has digest 0x.* here, 0x0000000000000005 where it was compiled"):
        Program.from_bytes(program_file.pack({**manifest, "digest": "0x5"}, arrays))


def test_a_missing_file_or_folder_is_named(program: Program, tmp_path: Path) -> None:
    with pytest.raises(
        ProgramError, match=r"none.pop: cannot read it \(No such file or directory\); check the path"
    ):
        Program.load(tmp_path / "none.pop")
    with pytest.raises(ProgramError, match="cannot write it"):
        program.save(tmp_path / "no folder" / "net.pop")


def test_a_save_that_fails_leaves_the_old_file(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pop"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ProgramError, match="disk full"):
        program.save(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["net.pop"]


def test_another_configuration_is_refused_with_what_differs(program: Program) -> None:
    program.require(program.config)
    program.require(program.config.digest)
    program.require(program.config.replace(name="other", clock_hz=50_000_000, link="uart"))
    other = program.config.replace(name="wider", cols=8, requantise="compact")
    with pytest.raises(ProgramError) as caught:
        program.require(other)
    assert str(caught.value) == (
        "program example: compiled for configuration tiny, not for configuration wider: cols 4 against 8, "
        "requantise 'exact' against 'compact'; compile the model for that configuration"
    )


def test_a_device_of_another_configuration_is_refused(program: Program) -> None:
    with pytest.raises(ProgramError, match="not for configuration a8: rows 4 against 8, cols 4 against 8"):
        program.require(load_config("a8").digest)
    with pytest.raises(ProgramError, match="not for digest 0x0000000000000001: its own digest is 0x"):
        program.require(1)


def test_a_program_that_does_not_fit_its_configuration_is_refused(program: Program) -> None:
    segment = program.segments[0]
    many = np.zeros((program.config.weight_depth + 1, program.config.weight_word_bytes), np.uint8)
    cases = {
        "the weights of segment 0 need 1025 words, there are 1024": {
            "segments": [replace(segment, weights=many)]
        },
        r"the weights of segment 0 are uint8 \(60, 5\)": {
            "segments": [replace(segment, weights=many[:60, :5])]
        },
        "the instructions of segment 0 are float64": {
            "segments": [replace(segment, instructions=np.zeros(3))]
        },
        "the segments must run every layer exactly once": {"segments": [segment, segment]},
        "tensor far needs 4 banks of 1056 words, there are 4 of 1024": {"inputs": [layout("far", 1000)]},
        "tensor wide needs 6 banks": {"inputs": [layout("wide", 0, copies=3)]},
        "the layout of tensor odd is impossible": {"inputs": [layout("odd", -1)]},
        "layer conv writes 'conv_out', which is no tensor of the program": {"tensors": []},
        "it needs an input, an output and a segment": {"outputs": []},
    }
    for message, change in cases.items():
        if "segments" in change and len(change["segments"]) == 1:
            change = {"segments": [replace(change["segments"][0], layers=[0, 1, 2])]}
        with pytest.raises(ProgramError, match=message):
            replace(program, **change)


def test_the_layer_of_an_instruction_is_the_one_whose_mark_comes_next(program: Program) -> None:
    single = example_program()
    assert [getattr(single.layer_at(0, pc), "name", None) for pc in range(5)] == [
        "conv",
        "pool",
        "dense",
        None,
        None,
    ]
    assert getattr(program.layer_at(1, 0), "name", None) == "pool"
    assert (single.cycle_limit(0), program.cycle_limit(1)) == (4 * 400 + 100_000, 4 * 230 + 100_000)
