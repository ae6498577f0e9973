"""Cleaning, splitting and tokenising a spool of documents into the folder of a prepared corpus.

The sides of the split are known before cleaning, except in small corpora: cleaning may drop all reserved or all
training documents. Then `_missing_side` moves one document to the other side, by the law of `split.py`, and the
work is done again with the new sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.base import leading_id
from cogen.config import Data
from cogen.data.card import DataCard, FileNote, Part, SkippedFile, describe_lengths, general_tokens_per_word
from cogen.data.chunk import Cleaned, clean_chunk, count_chunk, each_chunk, write_job
from cogen.data.clean import BoilerplateCounter
from cogen.data.document import Document
from cogen.data.select import DropCounts, Selection
from cogen.data.split import hash_order, num_leading, too_small
from cogen.data.spool import Progress, Spool
from cogen.data.store import StoreWriter, write_synced

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DocumentScorer = Callable[[Sequence[Document]], Sequence[float]]
"""Bits per byte of documents under the base."""


@dataclass(frozen=True)
class Task:
    """One call of `prepare`: the corpus and the settings."""

    root: Path
    tokenizer: PreTrainedTokenizerBase
    settings: Data
    heldout_frac: float
    validation_frac: float
    base: str
    scorer: DocumentScorer | None
    progress: Progress | None
    num_files: int

    @property
    def reserved_frac(self) -> float:
        """The share of documents that are not trained on: held-out and validation ones."""
        return self.heldout_frac + self.validation_frac

    def report(self, what: str, done: int, total: int) -> None:
        """Call `progress`, if there is one, with bytes done and bytes in all."""
        if self.progress is not None:
            self.progress(what, done, total)


@dataclass
class _Kept:
    """What cleaning and selecting left of a spool."""

    selection: Selection
    writer: StoreWriter
    counts: DropCounts = field(default_factory=DropCounts)
    reserved: list[Document] = field(default_factory=list)
    lowest_train: tuple[float, str] | None = None

    @property
    def num_train(self) -> int:
        return len(self.writer.lengths)

    def add(self, cleaned: Cleaned, is_reserved: bool) -> None:
        """Keep one document."""
        assert cleaned.tokens is not None
        self.counts.keep(cleaned, is_reserved)
        if is_reserved:
            self.reserved.append(cleaned.document)
            return
        self.writer.add(cleaned.tokens)
        order = hash_order(cleaned.document)
        self.lowest_train = order if self.lowest_train is None else min(self.lowest_train, order)


def build_store(task: Task, spool: Spool, staging: Path, folder: Path) -> None:
    """Clean, split and tokenise the documents of `spool`, and write the files of a store.

    Args:
        staging: a folder for temporary files.
        folder: where the store is written.
    Raises:
        DataError: too few documents are left after cleaning.
    """
    job = staging / "job.json"
    repeated = _repeated_lines(task, spool)
    write_job(job, task.settings, task.tokenizer, repeated, keep_text=task.settings.perplexity_filter)
    kept = _select(task, spool, job, folder)
    while moved := _missing_side(task, spool, kept):
        kept.writer.discard()
        spool = moved
        kept = _select(task, spool, job, folder)
    _require_parts(task, spool, kept)
    digest = kept.writer.finish(sorted(kept.reserved, key=hash_order))
    write_synced(folder / "card.json", _card(task, spool, kept, digest).to_json().encode())


def _select(task: Task, spool: Spool, job: Path, folder: Path) -> _Kept:
    """Clean every document and drop repeated ones, reserved documents first; write training tokens."""
    kept = _Kept(Selection(task.settings), StoreWriter(folder, len(task.tokenizer)))
    total, done = sum(c.num_bytes for c in spool.chunks), 0
    for is_reserved, chunks in ((True, spool.reserved), (False, spool.train)):
        results = each_chunk(partial(clean_chunk, job_path=job, is_reserved=is_reserved), chunks)
        for chunk, cleaned in zip(chunks, results, strict=True):
            for document in _remaining(task, cleaned, kept, is_reserved):
                kept.add(document, is_reserved)
            done += chunk.num_bytes
            task.report("preparing", done, total)
    return kept


def _missing_side(task: Task, spool: Spool, kept: _Kept) -> Spool | None:
    """The spool with one document moved to a side that has too few; None where nothing is missing or can be moved."""
    if task.heldout_frac >= 1.0:
        return None
    num_missing = _num_reserved_needed(task, kept) - len(kept.reserved)
    if num_missing > 0 and kept.num_train > num_missing and kept.lowest_train is not None:
        return spool.with_reserved(kept.lowest_train[1])
    if not kept.num_train and len({d.id for d in kept.reserved}) > 1 and not task.validation_frac:
        return spool.with_trained(max(map(hash_order, kept.reserved))[1])
    return None


def _num_reserved_needed(task: Task, kept: _Kept) -> int:
    """One held-out document, and one validation document after all held-out ones where validation is asked for."""
    if not task.validation_frac:
        return 1
    return max(1, num_leading(sorted(kept.reserved, key=hash_order), task.heldout_frac)) + 1


def _require_parts(task: Task, spool: Spool, kept: _Kept) -> None:
    """Raise DataError if a part that was asked for has no document."""
    if task.heldout_frac >= 1.0 or (kept.num_train and len(kept.reserved) >= _num_reserved_needed(task, kept)):
        return
    parts = ""
    if task.validation_frac:
        parts = f"held-out, validation (early_stop_frac = {task.validation_frac:g}) and training documents, one at least of each"
    num_documents = kept.num_train + len(kept.reserved)
    raise too_small(num_documents, task.heldout_frac, str(task.root), _lost(spool, kept.counts), parts)


def _lost(spool: Spool, counts: DropCounts) -> str:
    """What was not kept or not read, for an error: the reasons with their counts, and the first skipped file."""
    reasons = [f"{amount.num_documents} dropped ({reason})" for reason, amount in sorted(counts.dropped.items())]
    if spool.reading.skipped:
        first = spool.reading.skipped[0]
        reasons.append(f"{spool.reading.num_skipped} skipped ({first.file}: {first.reason})")
    return "".join(f", {reason}" for reason in reasons)


def _repeated_lines(task: Task, spool: Spool) -> frozenset[int]:
    """The lines that many documents begin or end with."""
    if not task.settings.boilerplate:
        return frozenset()
    counter, done = BoilerplateCounter(), 0
    total = sum(c.num_bytes for c in spool.chunks)
    counts = each_chunk(partial(count_chunk, unicode=task.settings.unicode), spool.chunks)
    for chunk, part in zip(spool.chunks, counts, strict=True):
        counter.merge(part)
        done += chunk.num_bytes
        task.report("looking for boilerplate", done, total)
    return counter.repeated()


def _remaining(task: Task, cleaned: Sequence[Cleaned], kept: _Kept, is_reserved: bool) -> Iterator[Cleaned]:
    """The documents of a chunk that are kept; each of the others is counted under the first reason to drop it."""
    left = []
    for document in cleaned:
        if reason := kept.selection.repeats(document) or document.fault:
            kept.counts.drop(document, reason)
        else:
            left.append(document)
    for document, reason in zip(left, _absurd(task, left), strict=True):
        if reason := reason or kept.selection.resembles(document, is_reserved):
            kept.counts.drop(document, reason)
        else:
            yield document


def _absurd(task: Task, cleaned: Sequence[Cleaned]) -> list[str]:
    """For each document, why the perplexity filter drops it; empty where it does not."""
    if not task.settings.perplexity_filter or task.scorer is None:
        return [""] * len(cleaned)
    low, high = task.settings.min_bits_per_byte, task.settings.max_bits_per_byte
    scores = task.scorer([c.document for c in cleaned])
    return ["too predictable" if s < low else "gibberish to the base" if s > high else "" for s in scores]


def _card(task: Task, spool: Spool, kept: _Kept, digest: str) -> DataCard:
    counts = kept.counts
    return DataCard(
        source=str(task.root.resolve()),
        base=task.base,
        settings=task.settings.model_dump(),
        heldout_frac=task.heldout_frac,
        num_files=task.num_files,
        read=counts.read,
        train=Part(kept.num_train, counts.num_tokens[False], counts.num_bytes[False]),
        heldout=Part(len(kept.reserved), counts.num_tokens[True], counts.num_bytes[True]),
        num_words=counts.num_words,
        general_tokens_per_word=general_tokens_per_word(task.tokenizer),
        lengths=describe_lengths(counts.lengths),
        sha256=digest,
        num_file_bytes=spool.reading.num_file_bytes,
        num_lost_bytes=spool.reading.num_lost_bytes,
        skipped=tuple(SkippedFile(s.file, s.reason, s.num_bytes) for s in spool.reading.skipped),
        num_skipped=spool.reading.num_skipped,
        notes=tuple(FileNote(n.file, n.text) for n in spool.reading.notes),
        dropped=dict(sorted(counts.dropped.items())),
        num_control_characters=counts.num_control_characters,
        num_boilerplate_lines=counts.num_boilerplate_lines,
        num_boilerplate_bytes=counts.num_boilerplate_bytes,
        languages=dict(counts.languages.most_common()),
        scripts=dict(counts.scripts.most_common()),
        personal_data=dict(sorted(counts.personal.items())),
        num_leaked=kept.selection.num_leaked,
        special_per_document=1 if leading_id(task.tokenizer) is None else 2,
    )
