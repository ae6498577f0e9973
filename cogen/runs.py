"""The run folder: layout, events, rounds, lock.

config.toml          resolved settings
run_metadata.json    versions and amounts of text (simulations only)
run.json             the run's id, by which its domains recognise a resumed run
events.jsonl         everything that happened: one JSON object per line, appended and flushed
rounds/0001/         global/, clients/<domain>/, round.json; appears whole when the round is complete
visits/0002/0001/    client/, global/, visit.json: of a relay's round that is not complete; each visit appears whole
nodes/<domain>/      files of one domain, which stay at the domain: train.jsonl, optimizer state
experts/<domain>/    each client's reply, in a run of one round
merged/              the last global adapter
routed/              the experts with a common adapter and a gate, where the config asks for them
evaluation.json      bits per byte of every model on every domain
baselines/<seed>/    local/<domain>/ and centralized/: adapters to compare the run with
seeds/<seed>/        the same run with another seed, in its own run folder
audit.json           what the models remember of the text (`cogen audit`)
seed_summary.json    means over all seeds, with their baselines
report.html          written by `cogen report`, together with merged/MODEL_CARD.md
logs/                output of Flower's programs and of the trainers; baselines.jsonl has the steps of the baselines
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cogen.errors import RunError
from cogen.files import building_folder, cannot_write, holding, write_file
from cogen.records import Record

CONFIG, EVENTS, EVALUATION, REPORT = "config.toml", "events.jsonl", "evaluation.json", "report.html"
SEED_SUMMARY, RUN, RUN_METADATA, AUDIT = "seed_summary.json", "run.json", "run_metadata.json", "audit.json"
LOCK = ".lock"
HEAD_BYTES = 80  # a file that starts with other bytes than before was replaced
FILES = (CONFIG, RUN, RUN_METADATA, EVENTS, EVALUATION, REPORT, SEED_SUMMARY, AUDIT)
ENTRIES = (*FILES, "rounds", "visits", "nodes", "experts", "merged", "logs", "baselines", "seeds", "tracking")


class RunId(Record):
    """`run.json`: by its id the domains recognise a run that is resumed."""

    file_name = RUN
    fix = "Start the run again in another folder."

    format: Literal[1] = 1
    id: str


class RunFolder:
    """The paths, events and lock of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def events_path(self) -> Path:
        return self.path / EVENTS

    @property
    def evaluation(self) -> Path:
        return self.path / EVALUATION

    @property
    def audit(self) -> Path:
        return self.path / AUDIT

    @property
    def run_metadata(self) -> Path:
        return self.path / RUN_METADATA

    @property
    def merged(self) -> Path:
        return self.path / "merged"

    @property
    def routed(self) -> Path:
        """The routed model, where the run makes one."""
        return self.path / "routed"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def seed_summary(self) -> Path:
        return self.path / SEED_SUMMARY

    @property
    def baseline_steps(self) -> Path:
        """Every step of the baselines' training."""
        return self.logs / "baselines.jsonl"

    def baselines(self, seed: int) -> Path:
        return self.path / "baselines" / str(seed)

    def seed(self, seed: int) -> RunFolder:
        return RunFolder(self.path / "seeds" / str(seed))

    def expert(self, domain: str) -> Path:
        return self.path / "experts" / domain

    def node(self, domain: str) -> Path:
        return self.path / "nodes" / domain

    def round(self, number: int) -> Path:
        return self.path / "rounds" / f"{number:04d}"

    @property
    def visits(self) -> Path:
        """Of a relay: the visits of a round that is not complete."""
        return self.path / "visits"

    def visit(self, number: int, position: int) -> Path:
        """The visit at this position, from 1, of round `number`."""
        return self.visits / f"{number:04d}" / f"{position:04d}"

    def create(self, config_toml: str, *, overwrite: bool = False) -> None:
        """Make the folder and write the resolved settings and the run's id.

        Raises:
            RunError: the folder holds a run and `overwrite` is off, or it holds other files.
        """
        if self.config.exists() and overwrite and all(_of_a_run(p.name) for p in self.path.iterdir()):
            shutil.rmtree(self.path)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunError(
                "cannot start a run here",
                expected="a new or empty folder",
                got="a run" if self.config.exists() and not overwrite else "other files",
                where=str(self.path),
                fix="Continue the run with --resume, replace it with --overwrite, or name another folder with --out.",
            )
        RunId(id=secrets.token_hex(8)).write(self.path / RUN)
        write_file(self.config, config_toml.encode())

    def read_id(self) -> str:
        """The run's id: random, and the same after every resume.

        Raises:
            RunError: `run.json` is missing or cannot be used.
        """
        return RunId.load(self.path / RUN).id

    def require_resumable(self) -> None:
        """Raise RunError unless there is a run to continue."""
        if not self.config.is_file():
            raise RunError(
                "cannot resume",
                expected=f"a run folder with {CONFIG}",
                got="none",
                where=str(self.path),
                fix="Start the run without --resume.",
            )

    def last_complete_round(self) -> int:
        """Number of the last complete round; 0 if there is none."""
        number = 0
        while (self.round(number + 1) / "round.json").is_file():
            number += 1
        return number

    def is_finished(self) -> bool:
        """Whether the last start of the run came to its end, and its evaluation and merged adapter are there."""
        ends = [e["event"] for e in read_lines(self.events_path) if str(e.get("event")).startswith("run_")]
        return ends[-1:] == ["run_finished"] and self.evaluation.is_file() and self.merged.is_dir()

    def append_event(self, event: str, **values: Any) -> None:
        """Append one line to `events.jsonl` and flush it to the disk."""
        append_line(self.events_path, {"time": datetime.now(UTC).isoformat(), "event": event, **values}, durable=True)

    def building_round(self, number: int) -> AbstractContextManager[Path]:
        """A staging folder that becomes `rounds/<number>` when the block ends without an error."""
        return building_folder(self.round(number), has_one_writer=True)

    @contextmanager
    def lock(self, wait_seconds: float = 20.0) -> Iterator[int]:
        """Hold the run for this process and for child processes that inherit the yielded descriptor.

        Raises:
            RunError: another process holds it for longer than `wait_seconds`.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        with holding(self.path.parent / f".{self.path.name}{LOCK}", self._in_use, wait_seconds) as handle:
            yield handle

    def _in_use(self) -> RunError:
        return RunError(
            "cannot use run folder",
            expected="no other process in it",
            got="one that is still running",
            where=str(self.path),
            fix="Wait until that process ends, or name another folder with --out.",
        )


def _of_a_run(name: str) -> bool:
    """Whether the run makes an entry with this name, or a staging path for it; other files belong to the user."""
    return name in ENTRIES or name.startswith(tuple(f".{entry}." for entry in ENTRIES))


def append_line(path: Path, values: Mapping[str, Any], *, durable: bool = False) -> None:
    """Append one JSON object as a line and flush it, to the disk if `durable`. An incomplete last line is ended first."""
    line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from None


class Tail:
    """The new lines of a file that another process appends to. An incomplete last line waits for the next call.

    A file that was replaced or shortened is read again from its start, and `generation` goes up by one.

    Args:
        skip_existing: skip the lines that are in the file now.
    Attributes:
        written: when the file last changed [seconds since 1970].
    """

    def __init__(self, path: Path, *, skip_existing: bool = False) -> None:
        self.path, self.written, self.generation = path, 0.0, 0
        self._offset, self._head = 0, b""
        if skip_existing:
            self.lines()

    def lines(self) -> list[bytes]:
        """The lines that were completed since the last call, without empty lines; none for a missing file."""
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._restart()
            return []
        if found.st_size < self._offset:
            self._restart()
        if found.st_size == self._offset:
            return []
        self.written = found.st_mtime
        with open(self.path, "rb") as file:
            if file.read(len(self._head)) != self._head:
                self._restart()
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._head = self._head or whole[:HEAD_BYTES]
        self._offset += len(whole)
        return [line for line in whole.split(b"\n") if line.strip()]

    def records(self) -> list[dict[str, Any] | None]:
        """The same lines as JSON objects; None for a line that is not one, such as the last line of a killed process."""
        return [_parse(line) for line in self.lines()]

    def _restart(self) -> None:
        self.generation += self._offset > 0
        self._offset, self._head = 0, b""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All JSON objects of a JSONL file. Incomplete lines are skipped; a missing file has none."""
    if not path.is_file():
        return []
    return [value for line in path.read_bytes().split(b"\n") if (value := _parse(line)) is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
