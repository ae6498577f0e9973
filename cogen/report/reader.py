"""Follows a run folder: each log is read once and then only what was added, other files when they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cogen.errors import RunError
from cogen.evaluate.matrix import Evaluation
from cogen.report.artifacts import FILES, read_artifacts
from cogen.report.record import RunRecord
from cogen.runs import RunFolder, Tail

OnMalformed = Callable[[RunError | OSError], None]
Stamps = tuple[tuple[int, int, int] | None, ...]


class Replaced(Exception):
    """A log is no longer the file that was read, so that all must be read again."""


def read_run(run: Path) -> RunRecord:
    """Everything that a report needs from a run folder; each part may be missing.

    Raises:
        RunError: there is no run in the folder, or one of its JSON files is malformed.
    """
    if not (run / "events.jsonl").is_file() and not (run / "evaluation.json").is_file():
        raise RunError(
            "no run to report",
            expected="a run folder with events.jsonl or evaluation.json",
            got="neither" if run.is_dir() else "no such folder",
            where=str(run),
            fix="Name a folder that `cogen simulate` or `cogen evaluate` has written.",
        )
    reader = RunReader(RunFolder(run), _refuse)
    reader.read()
    return reader.record


def _refuse(error: RunError | OSError) -> None:
    raise error


class RunReader:
    """Reads one run folder, and those of its further seeds, into a record.

    Args:
        on_malformed: is called with the error where a file cannot be read, again whenever a file changes.
    Attributes:
        has_changed: whether anything but a training step has come since the caller last cleared it.
        has_stepped: the same for training steps.
    """

    def __init__(self, run: RunFolder, on_malformed: OnMalformed) -> None:
        self.run, self.record = run, RunRecord(run.path.name)
        self.has_changed, self.has_stepped = True, True
        self._on_malformed = on_malformed
        self._events, self._baselines = Tail(run.events_path), Tail(run.baseline_steps)
        self._logs: dict[Path, Tail] = {}
        self._stamps: Stamps = ()
        self._seeds: dict[int, RunReader] = {}

    def read(self) -> None:
        """Take what is new.

        Raises:
            Replaced: the folder holds another run now.
        """
        for values in self._new(self._events):
            self.record.add_event(values)
            self.has_changed = True
        order = {domain: i for i, domain in enumerate(self.record.domains)}
        for domain in sorted(_entries(self.run.path / "nodes"), key=lambda d: (order.get(d, len(order)), d)):
            self._read_client(domain)
        for values in self._new(self._baselines):
            self.record.add_baseline_step(values, self._baselines.written)
            self.has_stepped = True
        self._read_files()
        for name in _entries(self.run.path / "seeds"):
            if name.isdecimal():
                self._read_seed(int(name))

    def _new(self, tail: Tail) -> list[dict[str, Any]]:
        """The new objects of a log; a line that holds none is counted."""
        found = tail.records()
        if tail.generation:
            raise Replaced
        num_bad = sum(values is None for values in found)
        self.record.num_bad_lines += num_bad
        self.has_changed |= num_bad > 0
        return [values for values in found if values is not None]

    def _read_client(self, domain: str) -> None:
        folder = self.run.node(domain)
        steps, efforts = (self._logs.setdefault(p, Tail(p)) for p in (folder / "train.jsonl", folder / "rounds.jsonl"))
        for values in self._new(steps):
            self.record.add_step(domain, values, steps.written)
            self.has_stepped = True
        for values in self._new(efforts):
            self.record.add_effort(domain, values)
            self.has_changed = True

    def _read_files(self) -> None:
        """Read the files that are written whole, if one of them is new, has changed or is gone."""
        run, record = self.run, self.record
        manifests = [run.merged / "cogen.json", *sorted(run.path.glob("experts/*/cogen.json"))]
        stamps = tuple(map(_stamp, (run.evaluation, run.config, *(run.path / name for name in FILES), *manifests)))
        if stamps == self._stamps:
            return
        self._stamps, self.has_changed = stamps, True
        record.adapters = tuple(str(path.parent.relative_to(run.path)) for path in manifests if path.exists())
        record.config = _read_text(run.config)
        try:
            text = _read_text(run.evaluation)
            record.evaluation = Evaluation.from_json(text, str(run.evaluation)) if text else None
        except (RunError, OSError) as error:
            self._on_malformed(error)
        try:
            record.artifacts = read_artifacts(run.path)
        except (RunError, OSError) as error:
            self._on_malformed(error)

    def _read_seed(self, seed: int) -> None:
        """The run folder of a further seed, which is a part of this run's page."""
        reader = self._seeds.setdefault(seed, RunReader(self.run.seed(seed), self._on_malformed))
        reader.read()
        self.record.seeds[seed] = reader.record
        self.record.updated = max(self.record.updated, reader.record.updated)
        self.has_changed |= reader.has_changed
        self.has_stepped |= reader.has_stepped
        reader.has_changed = reader.has_stepped = False


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, time and size, which change when a file is written again; None without a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read_text(path: Path) -> str:
    """The text of a file, empty when missing; bytes that are no UTF-8 are replaced."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
