"""Files and folders appear whole or not at all; a failure is one line and leaves the old content."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cogen.errors import RunError
from cogen.files import write_file, write_folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden entries too; None for a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))
    }


def failing(real: Callable[..., object], at: int, code: int) -> Callable[..., object]:
    """`real`, but its call number `at`, counted from 1, raises OSError."""
    calls = 0

    def call(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return call


def refusal(write: Callable[[], None], path: Path) -> str:
    with pytest.raises(RunError) as caught:
        write()
    line = str(caught.value)
    assert "\n" not in line and "expected a writable place with room, got " in line and f"({path})" in line
    return line


def test_a_file_is_written_into_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b" / "c.bin", b"\x00\xff")
    assert tree(tmp_path) == {"a": None, "a/b": None, "a/b/c.bin": b"\x00\xff"}


def test_a_file_is_replaced_and_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"longer than the new one")
    write_file(path, b"new")
    assert tree(tmp_path) == {"a.txt": b"new"}
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_being_replaced_is_never_seen_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"old")
    seen: list[bytes] = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append(path.read_bytes())
        real(source, target)
        seen.append(path.read_bytes())

    monkeypatch.setattr(os, "replace", replace)
    write_file(path, b"new content")
    assert seen == [b"old", b"new content"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"old")
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 1, code))
    assert "got a full disk (" in refusal(lambda: write_file(path, b"new"), path)
    assert tree(tmp_path) == {"a.txt": b"old"}


def test_a_full_disk_leaves_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 1, errno.ENOSPC))
    refusal(lambda: write_file(tmp_path / "a.txt", b"new"), tmp_path / "a.txt")
    assert tree(tmp_path) == {}


def test_another_failure_is_named_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 1, errno.EIO))
    assert f"got {os.strerror(errno.EIO)} (" in refusal(lambda: write_file(tmp_path / "a", b""), tmp_path / "a")


def test_an_interrupt_passes_through_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"old")

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new")
    assert tree(tmp_path) == {"a.txt": b"old"}


@pytest.mark.parametrize("write", [lambda p: write_file(p, b"x"), lambda p: write_folder(p, {"x": b"x"})])
def test_a_place_below_a_file_cannot_be_written(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    refusal(lambda: write(tmp_path / "file" / "a"), tmp_path / "file" / "a")
    assert tree(tmp_path) == {"file": b"in the way"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("write", [lambda p: write_file(p, b"x"), lambda p: write_folder(p, {"x": b"x"})])
def test_a_folder_without_permission_cannot_be_written(tmp_path: Path, write: Callable[[Path], None]) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in refusal(lambda: write(tmp_path / "a"), tmp_path / "a")


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"x": b"kept"})
    refusal(lambda: write_file(tmp_path / "a", b"new"), tmp_path / "a")
    assert tree(tmp_path) == {"a": None, "a/x": b"kept"}


def test_a_folder_holds_just_its_files_and_others_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "a"
    write_folder(folder, {"x": b"1", "y": b""})
    assert tree(tmp_path) == {"deep": None, "deep/a": None, "deep/a/x": b"1", "deep/a/y": b""}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"x": b"old", "gone": b"old"})
    (tmp_path / "a" / "below").mkdir()
    write_folder(tmp_path / "a", {"x": b"new", "y": b"new"})
    assert tree(tmp_path) == {"a": None, "a/x": b"new", "a/y": b"new"}


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    write_folder(tmp_path / "a", {"x": b"old"})
    monkeypatch.setattr(os, "fsync", failing(os.fsync, at, errno.ENOSPC))
    line = refusal(lambda: write_folder(tmp_path / "a", {"x": b"new", "y": b"new"}), tmp_path / "a")
    assert "got a full disk (" in line
    assert tree(tmp_path) == {"a": None, "a/x": b"old"}


def test_a_full_disk_leaves_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 2, errno.ENOSPC))
    refusal(lambda: write_folder(tmp_path / "a", {"x": b"1", "y": b"2"}), tmp_path / "a")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("at", [1, 2], ids=["stepping aside", "stepping in"])
def test_a_swap_that_fails_half_way_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write_folder(tmp_path / "a", {"x": b"old"})
    monkeypatch.setattr(os, "replace", failing(os.replace, at, errno.EIO))
    refusal(lambda: write_folder(tmp_path / "a", {"x": b"new"}), tmp_path / "a")
    assert tree(tmp_path) == {"a": None, "a/x": b"old"}
