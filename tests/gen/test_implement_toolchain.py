"""Tools, the cache and how a failed run is told."""

import stat
import sys
import time

import pytest

from popshift.gen.implement import toolchain
from popshift.gen.implement.place_route import _hopeless
from popshift.gen.implement.toolchain import Tool, last_error, run
from popshift.hw.errors import ToolError


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("POPSHIFT_CACHE", str(tmp_path / "cache"))


def executable(folder, name: str, text: str):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_native_command_goes_before_the_packaged_one(monkeypatch, tmp_path):
    tool = Tool("place", ("place-native", "place-wasm"), "pip install place")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool.path is None and not tool.available and tool.version is None
    wasm = executable(tmp_path, "place-wasm", 'echo "place 1.2.3 (built today)"')
    assert tool.require() == wasm and tool.version == "1.2.3"
    native = executable(tmp_path, "place-native", 'echo "(Version place-2.0-7)" >&2')
    assert tool.require() == native and tool.version == "2.0-7"


def test_a_tool_that_does_not_start_has_no_version(monkeypatch, tmp_path):
    executable(tmp_path, "broken", 'echo "libusb-1.0.so.0: cannot open"; exit 127')
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = Tool("broken", ("broken",), "mend it")
    assert tool.available and tool.version is None


def test_a_missing_tool_says_how_to_get_it():
    with pytest.raises(ToolError, match=r"^frob is not installed; run: pip install frob$") as raised:
        Tool("frob", ("no-such-command-frob",), "pip install frob").require()
    assert raised.value.exit_status == 3


def test_a_failed_tool_is_told_by_its_last_error_and_its_log_is_kept(tmp_path):
    command = executable(
        tmp_path, "tool", "echo 'ERROR: first'; echo 'ERROR: no such port'; echo 'bye'; exit 1"
    )
    with pytest.raises(ToolError, match=r"synthesis failed: ERROR: no such port") as raised:
        run([command], task="synthesis", log=tmp_path / "tool.log", cwd=tmp_path)
    with open(raised.value.where) as kept:
        assert kept.read() == "ERROR: first\nERROR: no such port\nbye\n"


def test_a_tool_that_falls_silent_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "_LOOK_SECONDS", 0.1)
    command = executable(tmp_path, "tool", "echo begun; exec sleep 60")
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"waiting: it has told nothing for 0\.01 minutes; try another seed"):
        run([command], task="waiting", log=tmp_path / "tool.log", cwd=tmp_path, silent_minutes=0.01)
    assert time.monotonic() - started < 30


def test_a_tool_that_cannot_start_is_a_tool_error(tmp_path):
    with pytest.raises(ToolError, match="cannot start"):
        run([tmp_path / "absent"], task="synthesis", log=tmp_path / "tool.log", cwd=tmp_path)


def test_a_tool_that_takes_too_long_is_ended_and_its_log_kept(tmp_path):
    command = executable(tmp_path, "tool", "echo started; exec sleep 60")
    with pytest.raises(ToolError, match=r"placing: given up after 0.02 minutes; allow more") as raised:
        run([command], task="placing", log=tmp_path / "slow.log", cwd=tmp_path, minutes=0.02)
    with open(raised.value.where) as kept:
        assert kept.read() == "started\n"


def test_what_has_no_hope_is_stopped(tmp_path):
    command = tmp_path / "routing"
    command.write_text("#!/bin/sh\ncat\nexec sleep 60\n")
    command.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(ToolError, match="routing: it told so much; try another seed"):
        run(
            [command],
            task="routing",
            log=tmp_path / "log",
            cwd=tmp_path,
            text="enough\n",
            hopeless=lambda log: "it told so much" if "enough" in log else None,
        )
    assert time.monotonic() - started < 30


def turns(*overused: int) -> str:
    return "".join(
        f"Info:     iter={turn} wires=1 overused={number} overuse={number} tmgfail=0\n"
        for turn, number in enumerate(overused, 1)
    )


def test_a_router_without_hope_is_one_whose_conflicts_only_move():
    assert _hopeless("") is None
    falling = [20000 // turn for turn in range(1, 100)]
    assert _hopeless(turns(*falling)) is None, "fewer and fewer"
    assert _hopeless(turns(*falling, *[12] * 250)) is None, "nearly there"
    moving = _hopeless(turns(*falling, *[1] * 301))
    assert moving == "the router does not get rid of its conflicts (1 after 400 turns)"
    assert _hopeless(turns(*falling[:40])) is None
    stuck = _hopeless(turns(*falling[:40], *range(430, 500)))
    assert stuck == "the router does not get rid of its conflicts (499 after 110 turns)"
    assert _hopeless(turns(*falling, *[0] * 19)) is None
    assert _hopeless(turns(*falling, *[0] * 20)) == "the router does not find faster wires (in 119 turns)"


def test_standard_input_reaches_the_tool(tmp_path):
    log = tmp_path / "tool.log"
    run([sys.executable, "-c", "print(input()[::-1])"], task="mirror", log=log, cwd=tmp_path, text="abc\n")
    assert log.read_text() == "cba\n"


def test_last_error_of_a_log_without_errors(tmp_path):
    log = tmp_path / "log"
    log.write_text("one\ntwo\n\n")
    assert last_error(log) == "two"
    log.write_text("")
    assert last_error(log) == "it printed nothing"


def test_every_family_has_a_place_and_route_tool():
    from popshift.gen.implement.devices import DEVICES
    from popshift.gen.implement.synthesis import FAMILIES

    assert {device.family for device in DEVICES.values()} == set(FAMILIES) == set(toolchain.NEXTPNR)


def test_a_tool_that_was_killed_is_told_so(tmp_path):
    with pytest.raises(ToolError, match="sh was ended by signal 9; see whether the machine is short"):
        run(["sh", "-c", "kill -9 $$"], task="routing", log=tmp_path / "log", cwd=tmp_path)


def test_an_error_behind_its_place_is_found(tmp_path):
    log = tmp_path / "log"
    log.write_text("source.v:1: ERROR: syntax error\nParsing source.v\n")
    assert last_error(log) == "source.v:1: ERROR: syntax error"
