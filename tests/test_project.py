"""Rules of the house that no tool checks: what imports what, how long files may be, what a wheel contains."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("hw", "firmware_py", "boards", "sim", "gen")
CONTRACTS = {f"popshift.hw.{name}" for name in ("config", "isa", "numerics", "packet", "errors")}

# floor -> (floors of the project it may import, third-party packages it may import)
FLOORS: dict[str, tuple[set[str], set[str] | None]] = {
    "hw": ({"hw"}, {"amaranth"}),
    "firmware_py": ({"hw", "firmware_py"}, {"numpy", "serial", "cobs", "safetensors", "rich", "filelock"}),
    "boards": ({"hw", "boards"}, {"amaranth", "amaranth_boards"}),
    "sim": ({"hw", "firmware_py", "boards", "sim"}, {"amaranth", "numpy", "rich", "filelock", "cobs"}),
    "gen": ({"hw", "firmware_py", "boards", "sim", "gen"}, None),  # None: anything
}
MAXIMUM_LINES = 500
EXEMPT_FROM_LINES = {"LICENSE"}

FILES = sorted(path for floor in CODE for path in (ROOT / floor).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Every module a file imports, at the top or inside a function, `from x import y` as both x and x.y."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import; write it out"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downwards_only(path):
    floor = path.relative_to(ROOT).parts[0]
    floors, packages = FLOORS[floor]
    for module in imports(path):
        top, *rest = module.split(".")
        assert top not in CODE, f"{name_of(path)} imports the bare {module}: write popshift.{module}"
        if top == "popshift":
            assert not rest or rest[0] in floors, (
                f"{name_of(path)} imports {module}, which is not below {floor}"
            )
        elif packages is not None and top not in sys.stdlib_module_names:
            assert top in packages, f"{name_of(path)} imports {top}; {floor} may use {sorted(packages)}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if name_of(path).startswith("firmware_py")], ids=name_of
)
def test_the_driver_needs_only_the_contracts_of_the_hardware(path):
    """They import no amaranth, so that the driver runs where it is not installed."""
    for module in imports(path):
        if module.startswith("popshift.hw."):
            assert any(module == contract or module.startswith(f"{contract}.") for contract in CONTRACTS), (
                module
            )


def test_contracts_import_without_amaranth_or_numpy():
    names = ", ".join(sorted(CONTRACTS))
    probe = f"import sys, {names}; print({{'amaranth', 'numpy', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_import_popshift_is_light_and_everything_public_is_there():
    probe = "import sys, popshift; print(len([name for name in sys.modules if name.startswith('popshift')]))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    import popshift

    for name in popshift.__all__:
        assert getattr(popshift, name) is not None
    assert sorted(popshift.__all__) == sorted(popshift._PUBLIC)
    assert set(popshift.__all__) <= set(dir(popshift))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        popshift.__getattr__("nonsense")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
        return [ROOT / name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    return [*FILES, *TESTS]  # a source archive without git


def test_no_file_is_over_500_lines():
    text = (".py", ".cpp", ".md", ".toml", ".jinja", ".css", "")
    long = {}
    for path in tracked():
        if path.suffix in text and path.name not in EXEMPT_FROM_LINES:
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > MAXIMUM_LINES:
                long[name_of(path)] = lines
    assert long == {}


def test_the_median_file_is_short():
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert lengths[len(lengths) // 2] <= 250


def test_no_file_has_a_name_that_says_nothing():
    empty_words = {"utils", "util", "common", "misc", "helpers", "helper"}
    assert [name_of(path) for path in FILES + TESTS if path.stem in empty_words] == []


def test_every_folder_with_code_is_a_package():
    missing = {name_of(path.parent) for path in FILES if not (path.parent / "__init__.py").is_file()}
    assert missing == set()


def test_source_folder_holds_one_link_per_floor():
    source = ROOT / "src" / "popshift"
    links = {entry.name: entry.readlink() for entry in source.iterdir() if entry.is_symlink()}
    assert links == {floor: Path("..") / ".." / floor for floor in CODE}
    others = {entry.name for entry in source.iterdir()} - set(links) - {"__pycache__"}
    assert others == {"__init__.py", "py.typed"}


def test_test_files_have_unique_names():
    """Without packages in tests/, pytest tells test modules apart by their base name."""
    names = [path.name for path in TESTS if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_requirement_on_torch_keeps_to_versions_that_were_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "torch>=2.6,<=2.13.0" in project["dependencies"]
    assert project["requires-python"] == ">=3.11"


def test_type_checker_is_given_every_floor():
    """It does not follow the links in src/popshift by itself: given that folder alone it checks one file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = {f"src/popshift/{floor}" for floor in CODE}
    assert set(project["tool"]["pyright"]["include"]) == {"src/popshift/__init__.py", *floors}


def test_wheel_contains_every_package_and_data_file(tmp_path):
    """Setuptools follows the links in src/popshift; an editable install would hide it if it did not."""
    copy = tmp_path / "checkout"
    contents = ["pyproject.toml", "README.md", "LICENSE", "src", *CODE]
    copied = subprocess.run(
        ["tar", "cf", "-", "--exclude=__pycache__", "--exclude=*.egg-info", *contents],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    copy.mkdir()
    subprocess.run(["tar", "xf", "-"], cwd=copy, input=copied.stdout, check=True)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(copy / done.stdout.split()[-1]) as wheel:
        packed = set(wheel.namelist())
    expected = {f"popshift/{name_of(path)}" for path in FILES}
    data = (".toml", ".cpp", ".v", ".jinja", ".css")
    expected |= {
        f"popshift/{name_of(path)}"
        for floor in CODE
        for path in (ROOT / floor).rglob("*")
        if path.suffix in data
    }
    expected |= {"popshift/__init__.py", "popshift/py.typed"}
    assert expected - packed == set()
    assert any(name.endswith("licenses/LICENSE") for name in packed)
