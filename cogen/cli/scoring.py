"""What search and contributions share: validation windows, merges scored in memory, a bar in trials."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from cogen.adapter import Adapter, Factors
from cogen.base import Base, load_base
from cogen.cli.show import duration
from cogen.data import Document, Window, heldout_windows, read_corpus
from cogen.data.split import validation_documents
from cogen.errors import ConfigError, MergeError
from cogen.evaluate.score import score_windows
from cogen.train.lora import attached

SECONDS_BETWEEN_LINES = 10


@dataclass(frozen=True)
class Bench:
    """A base in memory, the adapters to merge, and the windows on which merges are scored."""

    base: Base
    adapters: Mapping[str, Adapter]
    windows: Mapping[str, Sequence[Window]]

    def score(self, factors: Mapping[str, Factors] | None) -> dict[str, float]:
        """Bits per byte by column with these factors attached; None scores the base."""
        with attached(self.base.model, factors) if factors else nullcontext():
            return {c: score_windows(self.base, w, "merge", c).bits_per_byte for c, w in self.windows.items()}


def open_adapters(folders: Mapping[str, str]) -> dict[str, Adapter]:
    """Adapters by name, their factors left on disk.

    Raises:
        MergeError: fewer than two. AdapterError: one cannot be used.
    """
    require_several(folders)
    return {name: Adapter.open(folder) for name, folder in folders.items()}


def require_several(adapters: Mapping[str, object]) -> None:
    """Raise MergeError for fewer than two."""
    if len(adapters) < 2:
        fix = "One adapter needs no merge."
        raise MergeError("cannot merge", expected="two or more adapters", got=str(len(adapters)), fix=fix)


def read_validation(
    data: Mapping[str, str], heldout_frac: float, validation_frac: float
) -> dict[str, tuple[Document, ...]]:
    """The validation documents of every corpus, name to path.

    Raises:
        ConfigError: no corpus. DataError: one cannot be read, or has no validation document.
    """
    if not data:
        fix = "Name a corpus for every domain."
        raise ConfigError("cannot score merges", expected="--data NAME=PATH", got="nothing", fix=fix)
    corpora = {name: read_corpus(path) for name, path in data.items()}
    return {
        name: validation_documents(corpus.documents, heldout_frac, validation_frac, data[name])
        for name, corpus in corpora.items()
    }


def make_bench(
    base_name: str,
    adapters: Mapping[str, Adapter],
    documents: Mapping[str, Sequence[Document]],
    max_tokens: int,
    sequence_length: int,
) -> Bench:
    """Load the base, once, and cut up to `max_tokens` of every column into windows.

    Raises:
        FingerprintMismatch: an adapter was made for another base.
    """
    if min(max_tokens, sequence_length) < 1:
        got = f"{max_tokens} and {sequence_length}"
        expected = "tokens to score and a window of 1 token or more"
        raise ConfigError("cannot score merges", expected=expected, got=got, fix="Raise them.")
    base = load_base(base_name)
    for name, adapter in adapters.items():
        base.info.require(adapter, name)
    windows = {n: heldout_windows(d, base.tokenizer, sequence_length, max_tokens) for n, d in documents.items()}
    return Bench(base, adapters, windows)


@contextmanager
def trial_bar(title: str, total: int) -> Iterator[TrialBar]:
    """A live bar in trials with seconds a trial and time left; lines where there is no terminal."""
    bar = TrialBar(title, total)
    with bar.progress:
        yield bar
    bar.close()


class TrialBar:
    """Progress in trials, of which there may be fewer than `total`."""

    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.title, self.total, self.done = title, total, 0
        self.began = self.printed = time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.task = self.progress.add_task(title, total=total, note="")

    def advance(self, what: str) -> None:
        """One more trial is done, of `what`."""
        self.done += 1
        self.progress.update(self.task, completed=self.done, note=f"{self._pace()} · {what}")
        if not sys.stderr.isatty() and time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            print(f"{self.title} · {self.done}/{self.total} trials · {self._pace()} · {what}", file=sys.stderr)

    def close(self) -> None:
        if not sys.stderr.isatty():
            spent = duration(time.monotonic() - self.began)
            print(f"{self.title} · {self.done} trials · {spent}", file=sys.stderr, flush=True)

    def _pace(self) -> str:
        each = (time.monotonic() - self.began) / self.done
        return f"{each:.1f} s a trial · {duration(each * (self.total - self.done))} left"


def aligned(rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """Columns of text in line, the first `num_left` of them to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [t.ljust(w) if i < num_left else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
