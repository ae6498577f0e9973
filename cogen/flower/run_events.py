"""Follows a run in Flower: shows new events as they come, and raises an error when the run fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cogen.config import RunConfig, load_config
from cogen.errors import ConfigError, FederationError, RunError
from cogen.evaluate.baselines import OnEvent
from cogen.flower.awaited import Awaited
from cogen.runs import RunFolder, Tail

POLL_SECONDS = 0.5
# A status request costs 1 s of CPU, which training would lose: often until the first event, seldom afterwards.
FIRST_STATUS_SECONDS, STATUS_SECONDS = 10.0, 60.0


class Watcher:
    """Reads new lines of `events.jsonl` and of the nodes' training logs."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._tails: dict[Path, Tail] = {}

    def skip(self) -> None:
        """Skip the lines that are there already."""
        for _ in self.new():
            pass

    def new(self) -> Iterator[dict[str, Any]]:
        """Events and training steps since the last call; a step has `event = "step"` and its domain."""
        for path in sorted(self.run.path.glob("nodes/*/train.jsonl")):
            for line in self._new_in(path):
                yield {**line, "event": "step", "domain": path.parent.name}
        yield from self._new_in(self.run.events_path)

    def _new_in(self, path: Path) -> Iterator[dict[str, Any]]:
        return filter(None, self._tails.setdefault(path, Tail(path)).records())


def follow_run(
    seen: Watcher,
    show: OnEvent,
    alive: Callable[[], bool],
    status: Callable[[], str],
    awaited: Awaited | None = None,
) -> None:
    """Show new events until the run is over.

    Args:
        awaited: says what is waited for while no event comes; a simulation shows its steps instead.
        alive: whether the process that runs it is alive.
        status: asks Flower for the run's state; called now and then, since a ServerApp may end without an event.
    Raises:
        FederationError: the run failed, and can be resumed.
    """
    last_status, pause = time.monotonic(), FIRST_STATUS_SECONDS
    while True:
        failure = None if alive() else "Flower's SuperLink ended"
        if failure is None and time.monotonic() - last_status > pause:
            last_status, state = time.monotonic(), status()
            failure = f"Flower ended it as {state!r}" if state.startswith("finished") else None
        for event in seen.new():
            pause = STATUS_SECONDS
            show(event)
            if awaited is not None:
                awaited.see(event)
            if event["event"] == "run_finished":
                return
            if event["event"] == "run_failed":
                raise run_failed(seen.run, str(event["reason"]))
        if failure is not None:
            raise run_failed(seen.run, failure)
        if awaited is not None and (line := awaited.line()) is not None:
            show(line)
        time.sleep(POLL_SECONDS)


def open_run(
    run: RunFolder, source: Path, overrides: Iterable[str], *, resume: bool, overwrite: bool, command: str
) -> RunConfig:
    """The settings with which a run is started or resumed.

    Raises:
        ConfigError: both `resume` and `overwrite`, or wrong settings.
        RunError: there is nothing to resume.
    """
    if resume and overwrite:
        raise ConfigError(
            f"cannot {command}", expected="--resume or --overwrite", got="both", fix="Use only one of them."
        )
    if not resume:
        return load_config(source, overrides)
    run.require_resumable()
    return load_config(run.config, overrides)


def begin_run(run: RunFolder, settings: RunConfig, *, resume: bool, overwrite: bool) -> Watcher:
    """Make the run's folder, or check that a resumed run has its old settings; the caller holds the folder's lock.

    Raises:
        RunError: another run is in the folder, or the settings of the resumed run differ.
    """
    seen = Watcher(run)
    if not resume:
        run.create(settings.to_toml(), overwrite=overwrite)
        return seen
    if settings != load_config(run.config):
        raise other_settings(run)
    seen.skip()
    return seen


def other_settings(run: RunFolder) -> RunError:
    """The error for a run that is resumed with settings that must not change."""
    return RunError(
        "cannot resume",
        expected="the settings that the run began with",
        got="others",
        where=str(run.config),
        fix="Remove --set, or start a new run with --out.",
    )


def run_failed(run: RunFolder, reason: str) -> FederationError:
    """The error for a run that ended before its last round."""
    return FederationError(
        "the run failed",
        expected="every round to end",
        got=reason,
        where=str(run.path),
        fix="See events.jsonl and logs/ there, fix the cause, and continue with --resume.",
    )
