"""The command line as a user meets it: a process of its own, exit status, one line on standard error."""

import json
import subprocess
import sys
import time
import tomllib

import pytest
import typer

from popshift.gen.cli import main
from popshift.hw.config import named_configs
from popshift.hw.errors import DeviceError


def popshift(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "popshift.gen.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_help_names_every_command_and_loads_nothing_heavy():
    probe = (
        "import sys; from popshift.gen.cli import main; import popshift;"
        "print({'torch', 'numpy', 'amaranth', 'rich', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
    shown = popshift("--help")
    assert shown.returncode == 0
    for name, _ in main.COMMANDS:
        assert name in shown.stdout


def test_every_command_has_help_and_json():
    for name, _ in main.COMMANDS:
        shown = popshift(name, "--help")
        assert shown.returncode == 0 and "--json" in shown.stdout, name


def test_help_is_quick():
    best = 9.0
    for _ in range(3):
        start = time.monotonic()
        popshift("--help")
        best = min(best, time.monotonic() - start)
    # About 0.3 s; importing torch or amaranth.hdl by accident would cost seconds, even on a busy machine.
    assert best < 1.5


def test_configs_lists_and_prints_toml():
    table = popshift("configs")
    assert table.returncode == 0
    for name in named_configs():
        assert name in table.stdout
    printed = tomllib.loads(popshift("configs", "tiny").stdout)
    assert {**printed, "name": "tiny"} == named_configs()["tiny"].to_dict() and "name" not in printed
    assert json.loads(popshift("configs", "--json").stdout) == {
        name: config.to_dict() for name, config in named_configs().items()
    }
    assert json.loads(popshift("configs", "tiny", "--json").stdout) == named_configs()["tiny"].to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("configs", "tinny"), "no configuration named 'tinny'; did you mean tiny?"),
        (("configs", "missing.toml"), "missing.toml: cannot read it"),
        (("build", "tiny", "--device", "lfe5u-99f"), "unknown device 'lfe5u-99f'; choose from lfe5u-25f"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message):
    done = popshift(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("build",), ("configs", "--nonsense"), ("build", "tiny", "--seeds", "x")]
)
def test_wrong_usage_is_status_2_without_a_traceback(arguments):
    done = popshift(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr


def test_debug_shows_the_traceback():
    done = popshift("--debug", "configs", "tinny")
    assert done.returncode == popshift("configs", "tinny").returncode == 2
    assert "Traceback" in done.stderr and "ConfigError" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (
            DeviceError("it is silent", where="port X", remedy="plug it in"),
            1,
            "error: port X: it is silent; plug it in",
        ),
        (
            ModuleNotFoundError("No module named 'serial'", name="serial"),
            3,
            "error: the Python package serial is not installed; run: popshift doctor",
        ),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "error: unexpected ZeroDivisionError: division by zero; run with popshift --debug …",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_what_a_command_raises_becomes_one_line(raised, status, line, capsys):
    def command() -> None:
        raise raised

    with pytest.raises(typer.Exit) as ended:
        main.reporting(command)()
    assert ended.value.exit_code == status
    assert capsys.readouterr().err == line + "\n"


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m popshift.gen.cli.main configs --json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_version_is_the_packages():
    from importlib import metadata

    assert popshift("--version").stdout.strip() == metadata.version("popshift")
