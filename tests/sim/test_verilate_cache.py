import threading

import pytest

from popshift.hw.errors import ToolError
from popshift.sim.build_cache import cache_folder, cached, digest


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("POPSHIFT_CACHE", str(tmp_path / "cache"))


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("POPSHIFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "popshift"


def test_digest_tells_parts_apart():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a") != digest("a", "")
    assert digest("a", b"b") == digest(b"a", "b")


def test_folder_is_filled_once_even_by_many_at_a_time():
    calls, results = [], []
    ready = threading.Barrier(4)

    def make(folder):
        calls.append(folder)
        (folder / "built").write_text("whole")

    def want():
        ready.wait()
        results.append((cached("thing", "key", make, what="a thing") / "built").read_text())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert results == ["whole"] * 4


def test_failed_build_leaves_nothing_and_can_be_repeated():
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cached("thing", "key", fail, what="a thing")
    assert [path for path in (cache_folder() / "thing").iterdir() if path.is_dir()] == []
    folder = cached("thing", "key", lambda folder: (folder / "built").touch(), what="a thing")
    assert [path.name for path in folder.iterdir()] == ["built"]


def test_cache_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POPSHIFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match=r"cannot build in the cache .*set POPSHIFT_CACHE to a folder"):
        cached("thing", "key", lambda folder: None, what="a thing")
