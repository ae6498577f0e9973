"""Following a run: each event once, and every way in which a run ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogen.config import load_config
from cogen.errors import ConfigError, FederationError, RunError
from cogen.flower import run_events
from cogen.flower.run_events import Watcher, begin_run, follow_run, open_run
from cogen.runs import RunFolder, append_line


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def yes() -> bool:
    return True


def never() -> str:
    raise AssertionError("Flower was asked")


def test_events_and_steps_are_shown_once_until_the_end(run: RunFolder) -> None:
    run.append_event("run_started")
    seen = Watcher(run)
    seen.skip()
    shown: list[dict[str, Any]] = []

    def work() -> None:
        append_line(run.node("grid") / "train.jsonl", {"step": 1})
        run.append_event("round_started", round=1)
        time.sleep(1.2)
        run.append_event("run_finished")
        run.append_event("later")

    thread = threading.Thread(target=work)
    thread.start()
    follow_run(seen, shown.append, yes, never)
    thread.join()
    assert [e["event"] for e in shown] == ["step", "round_started", "run_finished"]
    assert shown[0] == {"step": 1, "event": "step", "domain": "grid"}


@pytest.mark.parametrize(
    ("alive", "status", "word"),
    [
        (lambda: False, never, "got Flower's SuperLink ended"),
        (yes, lambda: "finished:failed", "got Flower ended it as 'finished:failed'"),
        (yes, lambda: "finished:completed", "got Flower ended it as 'finished:completed'"),
    ],
)
def test_a_server_that_ends_without_a_word_is_noticed(
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    alive: Callable[[], bool],
    status: Callable[[], str],
    word: str,
) -> None:
    monkeypatch.setattr(run_events, "FIRST_STATUS_SECONDS", 0.0)
    with pytest.raises(FederationError, match=word):
        follow_run(Watcher(run), lambda event: None, alive, status)


def test_its_own_reason_comes_before_what_flower_says(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_events, "FIRST_STATUS_SECONDS", 0.0)
    run.append_event("run_failed", reason="no replies")
    with pytest.raises(FederationError, match="got no replies"):
        follow_run(Watcher(run), lambda event: None, lambda: False, lambda: "finished:failed")
    seen = Watcher(run)
    seen.skip()
    run.append_event("run_finished")  # resumed
    follow_run(seen, lambda event: None, lambda: False, lambda: "finished:completed")


def test_a_run_goes_on_with_the_settings_it_began_with(run: RunFolder, config_file: Path) -> None:
    settings = open_run(run, config_file, [], resume=False, overwrite=False, command="run")
    begin_run(run, settings, resume=False, overwrite=False)
    run.append_event("run_started")
    again = open_run(run, Path("gone.toml"), [], resume=True, overwrite=False, command="run")
    assert again == settings == load_config(run.config)
    assert list(begin_run(run, again, resume=True, overwrite=False).new()) == []
    other = open_run(run, config_file, ["train.rank=8"], resume=True, overwrite=False, command="run")
    with pytest.raises(RunError, match="expected the settings that the run began with"):
        begin_run(run, other, resume=True, overwrite=False)
    with pytest.raises(RunError, match="--resume"):
        begin_run(run, settings, resume=False, overwrite=False)
    with pytest.raises(ConfigError, match="cannot run: expected --resume or --overwrite, got both"):
        open_run(run, config_file, [], resume=True, overwrite=True, command="run")
