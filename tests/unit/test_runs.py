"""The run folder: who may make, replace, lock and read it, and what a killed process leaves in it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cogen.errors import RunError
from cogen.files import write_file
from cogen.runs import RunFolder, append_line, read_lines

HOLDER = (
    "import sys\nfrom cogen.runs import RunFolder\n"
    "with RunFolder(sys.argv[1]).lock(0):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def complete(run: RunFolder, number: int) -> None:
    with run.building_round(number) as folder:
        (folder / "round.json").write_text("{}")


def fail_midway(run: RunFolder, number: int, error: BaseException) -> None:
    with run.building_round(number) as folder:
        (folder / "half").write_text("x")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_paths_lie_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder("run")
    assert run.round(7) == tmp_path / "run" / "rounds" / "0007"
    assert run.node("grid") == tmp_path / "run" / "nodes" / "grid"
    assert run.expert("grid") == tmp_path / "run" / "experts" / "grid"


def test_a_new_or_empty_folder_takes_a_run(run: RunFolder, tmp_path: Path) -> None:
    run.create("a = 1\n")
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").create("b = 2\n")
    assert run.config.read_text() == "a = 1\n"
    assert names(tmp_path / "empty") == ["config.toml", "run.json"]
    assert run.read_id() == RunFolder(run.path).read_id() != RunFolder(tmp_path / "empty").read_id()


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "JSON in UTF-8"), ("[1]", "an object of format 1"), ('{"format": 2, "id": "a"}', "format 1, got format 2")],
)
def test_a_run_of_another_format_has_no_id(text: str, problem: str, run: RunFolder) -> None:
    run.create("a = 1\n")
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match=rf"cannot read run\.json: expected {problem}"):
        run.read_id()


def test_a_run_is_not_begun_over_another(run: RunFolder) -> None:
    run.create("a = 1\n")
    with pytest.raises(RunError, match=r"expected a new or empty folder, got a run .*--resume.*--overwrite"):
        run.create("b = 2\n")
    assert run.config.read_text() == "a = 1\n"


def test_overwrite_leaves_nothing_of_the_old_run(run: RunFolder) -> None:
    run.create("a = 1\n")
    complete(run, 1)
    for folder in (run.merged, run.logs, run.node("grid"), run.expert("grid")):
        folder.mkdir(parents=True)
    for file in (run.evaluation, run.path / "report.html", run.path / ".evaluation.json.x1y2"):
        file.write_text("old")
    run.append_event("run_finished")
    run.create("b = 2\n", overwrite=True)
    assert names(run.path) == ["config.toml", "run.json"] and run.config.read_text() == "b = 2\n"


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_deleted(run: RunFolder, overwrite: bool) -> None:
    run.path.mkdir()
    (run.path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="got other files"):
        run.create("a = 1\n", overwrite=overwrite)
    assert names(run.path) == ["thesis.tex"]


@pytest.mark.parametrize("name", ["thesis.tex", ".git", ".configuration"])
def test_other_files_next_to_a_run_are_never_deleted(run: RunFolder, name: str) -> None:
    run.create("a = 1\n")
    (run.path / name).write_text("years of work")
    with pytest.raises(RunError, match="got other files"):
        run.create("b = 2\n", overwrite=True)
    assert (run.path / name).read_text() == "years of work" and run.config.read_text() == "a = 1\n"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_place_for_a_run(run: RunFolder, overwrite: bool) -> None:
    run.path.write_text("a file")
    with pytest.raises(RunError, match="got other files"):
        run.create("a = 1\n", overwrite=overwrite)
    assert run.path.read_text() == "a file"


def test_only_a_run_can_be_resumed(run: RunFolder) -> None:
    with pytest.raises(RunError, match=r"expected a run folder with config\.toml, got none"):
        run.require_resumable()
    run.create("a = 1\n")
    run.require_resumable()


def test_rounds_count_up_to_the_first_gap(run: RunFolder) -> None:
    assert run.last_complete_round() == 0
    for number in (0, 1, 2, 4):
        complete(run, number)
    assert run.last_complete_round() == 2
    complete(run, 3)
    assert run.last_complete_round() == 4


def test_a_round_without_its_record_or_still_being_built_does_not_count(run: RunFolder) -> None:
    complete(run, 1)
    run.round(2).mkdir()
    left = run.path / "rounds" / ".0002.building"
    left.mkdir()
    (left / "round.json").write_text("{}")
    assert run.last_complete_round() == 1


def test_a_round_appears_only_when_its_block_ends(run: RunFolder) -> None:
    with run.building_round(1) as folder:
        (folder / "global").mkdir()
        (folder / "round.json").write_text("{}")
        assert run.last_complete_round() == 0 and not run.round(1).exists()
    assert names(run.path / "rounds") == ["0001"] and names(run.round(1)) == ["global", "round.json"]


def test_a_round_built_again_replaces_what_was_there(run: RunFolder) -> None:
    left = run.path / "rounds" / ".0001.building"
    left.mkdir(parents=True)
    (left / "torn").write_text("of a killed process")
    run.round(1).mkdir()
    (run.round(1) / "stale").write_text("of a run before")
    complete(run, 1)
    assert names(run.round(1)) == ["round.json"]


@pytest.mark.parametrize("error", [ValueError("bad reply"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_round_that_fails_leaves_nothing_and_keeps_the_old(run: RunFolder, error: BaseException) -> None:
    complete(run, 1)
    for number in (1, 2):
        with pytest.raises(type(error)):
            fail_midway(run, number, error)
    assert names(run.path / "rounds") == ["0001"] and names(run.round(1)) == ["round.json"]


def test_a_round_on_a_full_disk_is_one_line_and_leaves_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="got a full disk"), run.building_round(1) as folder:
        write_file(folder / "round.json", b"{}")
    assert names(run.path / "rounds") == []


def test_an_error_of_another_kind_in_a_round_stays_what_it_is(run: RunFolder) -> None:
    with pytest.raises(ConnectionResetError):
        fail_midway(run, 1, ConnectionResetError("peer"))
    assert names(run.path / "rounds") == []


def test_lines_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    assert read_lines(path) == []
    append_line(path, {"n": 1, "text": "a\nb ü"})
    append_line(path, {"n": 2})
    assert read_lines(path) == [{"n": 1, "text": "a\nb ü"}, {"n": 2}]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("torn", [b'{"n":2,"lo', b'{"n":2,"text":"\xc3', b"7", b"[1]"])
def test_a_torn_line_costs_itself_only(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, {"n": 1})
    with open(path, "ab") as file:
        file.write(torn)
    assert read_lines(path) == [{"n": 1}]
    append_line(path, {"n": 3})
    append_line(path, {"n": 4})
    assert read_lines(path) == [{"n": 1}, {"n": 3}, {"n": 4}]
    assert path.read_bytes() == b'{"n":1}\n' + torn + b'\n{"n":3}\n{"n":4}\n'


def test_events_carry_their_name_and_time(run: RunFolder) -> None:
    run.append_event("round_started", round=2)
    (line,) = read_lines(run.events_path)
    assert line["event"] == "round_started" and line["round"] == 2 and line["time"].endswith("+00:00")


def test_a_line_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write"):
        append_line(tmp_path / "file" / "log.jsonl", {"n": 1})


def test_another_process_cannot_take_a_held_run_until_its_holder_ends(run: RunFolder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdin=-1, stdout=-1, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match="expected no other process in it, got one that is still running"),
            run.lock(0),
        ):
            pass
        holder.kill()
        holder.communicate(timeout=30)
        with run.lock(5):
            pass
    finally:
        holder.kill()
        holder.communicate(timeout=30)


def test_the_lock_waits_as_long_as_told_and_is_free_after_its_block(run: RunFolder) -> None:
    with run.lock(0):
        began = time.monotonic()
        with pytest.raises(RunError, match="cannot use run folder"), run.lock(0.3):
            pass
        assert time.monotonic() - began >= 0.3
    with pytest.raises(ValueError, match="inside"), run.lock(0):
        raise ValueError("inside")
    with run.lock(0):
        pass


def test_a_process_that_inherits_the_lock_holds_it_on(run: RunFolder) -> None:
    with run.lock(0) as handle:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(handle,))
    try:
        with pytest.raises(RunError, match="cannot use run folder"), run.lock(0):
            pass
    finally:
        child.communicate(timeout=30)
    with run.lock(5):
        pass


def test_the_lock_lies_next_to_the_run_so_that_it_outlives_overwrite(run: RunFolder) -> None:
    with run.lock(0):
        run.create("a = 1\n")
        run.create("b = 2\n", overwrite=True)
        shutil.rmtree(run.path)
        with pytest.raises(RunError, match="cannot use run folder"), RunFolder(run.path).lock(0):
            pass
    assert names(run.path.parent) == [".run.lock", "run"]


def test_a_place_that_cannot_be_a_folder_cannot_be_held(run: RunFolder) -> None:
    run.path.write_text("a file")
    with pytest.raises(RunError, match="cannot write"), run.lock(0):
        pass
    assert run.path.read_text() == "a file"


def test_two_runs_are_held_apart(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a").lock(0), RunFolder(tmp_path / "b").lock(0):
        assert names(tmp_path) == [".a.lock", ".b.lock", "a", "b"]
