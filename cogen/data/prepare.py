"""A corpus made ready for training once: read, cleaned, split, tokenised; and found again the next time.

Passes, each streaming: (1) read every file into a spool on disk; (2) count the lines on the edges of
documents, for boilerplate; (3) clean and tokenise batch by batch on all cores, held-out documents first,
while one process drops duplicates and writes tokens. What is made lies in the cache under a hash of the
documents, the settings and the tokenizer; a hash of the files' names, sizes and times leads there sooner.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.base import cache_folder, leading_id
from cogen.config import Data
from cogen.data.batch import Cleaned, clean_batch, count_batch, write_job
from cogen.data.card import DataCard, Part, SkippedFile, describe_lengths, general_tokens_per_word
from cogen.data.clean import BoilerplateCounter
from cogen.data.document import Document, Skipped
from cogen.data.read import iter_corpus, no_documents
from cogen.data.select import DropCounts, Selection
from cogen.data.split import heldout_order, is_heldout, require_both, validation_documents
from cogen.data.spool import Progress, Spool, write_spool
from cogen.data.store import Prepared, StoreWriter, keep_folder, open_store, private_folder, write_synced
from cogen.data.walk import Found, corpus_root, walk
from cogen.data.workers import each_batch
from cogen.errors import ConfigError
from cogen.files import write_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of the folder and of what the steps make of a text: raised whenever either changes.
FORMAT = 2
# A file changed this shortly ago may change again without its time telling so.
SETTLED_SECONDS = 2.0

DocumentScorer = Callable[[Sequence[Document]], Sequence[float]]
"""Bits per byte of documents under the base."""


def prepare(
    path: str | Path,
    load_tokenizer: Callable[[], PreTrainedTokenizerBase],
    settings: Data,
    heldout_frac: float,
    *,
    tokenizer_hash: str,
    validation_frac: float = 0.0,
    base: str = "",
    scorer: DocumentScorer | None = None,
    scorer_hash: str = "",
    progress: Progress | None = None,
    cache_dir: Path | None = None,
) -> Prepared:
    """Read, clean, split and tokenise the corpus at `path`, or find what was made of it before.

    Memory stays flat: tokens are read from disk as they are needed, and so are documents until then.

    Args:
        load_tokenizer: called only where there is something to tokenise.
        heldout_frac: a document's side depends on its id alone; 1 holds everything out.
        validation_frac: of all documents, taken from the training ones and kept apart beside the held-out ones.
        tokenizer_hash: that of the base's fingerprint.
        base: its name, for the card.
        scorer: what `settings.perplexity_filter` needs, and with `scorer_hash` what it depends on.
        cache_dir: where prepared corpora lie, `data` in the cache when None.
    Raises:
        DataError: no such path, no documents, too few to hold anything out; with strict settings, a bad file or line.
        RunError: the cache cannot be written.
    """
    if settings.perplexity_filter and scorer is None:
        fix = "Name a base, or switch data.perplexity_filter off."
        raise ConfigError("cannot filter by perplexity", expected="a base", got="none", where=str(path), fix=fix)
    root, cache = corpus_root(path), cache_dir or cache_folder() / "data"
    about = [FORMAT, settings.model_dump(), heldout_frac, validation_frac, tokenizer_hash, scorer_hash]
    began, stamp = time.time(), _Stamp.of(root)
    link = cache / "index" / _sha256([*about, str(root.resolve()), stamp.files])
    made = open_store(cache / link.read_text("utf-8")) if link.is_file() else None
    if made is None:
        fracs = (heldout_frac, validation_frac)
        task = _Task(root, load_tokenizer(), settings, *fracs, base, scorer, progress, len(stamp.files))
        name, made = _find_or_make(task, cache, about)
        if stamp.newest < began - SETTLED_SECONDS and _Stamp.of(root) == stamp:
            write_file(link, name.encode())
    return replace(made, card=made.card.model_copy(update={"source": str(path), "base": base}))


@dataclass(frozen=True)
class _Task:
    """What `prepare` was asked for."""

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
    def aside_frac(self) -> float:
        """Of documents that are not trained on."""
        return self.heldout_frac + self.validation_frac

    def report(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)


@dataclass(frozen=True)
class _Stamp:
    """Names, sizes, times and modes of a corpus's files, by which it is known again without reading it."""

    files: list[list[str | int]]
    newest: float

    @classmethod
    def of(cls, root: Path) -> _Stamp:
        found = [_known_by(item) for item in walk(root) if isinstance(item, Found)]
        return cls([values for values, _ in found], max((changed for _, changed in found), default=0.0))


def _known_by(found: Found) -> tuple[list[str | int], float]:
    """A file as a stamp has it, and when it was changed; one that may not be looked at will be, with another stamp."""
    try:
        about = found.path.stat()
    except OSError as error:
        return [found.name, error.errno or 0], 0.0
    # The mode too: a file skipped for its permissions may be read next time, and keeps its time.
    return [found.name, about.st_size, about.st_mtime_ns, about.st_mode], about.st_mtime


def _find_or_make(task: _Task, cache: Path, about: list[Any]) -> tuple[str, Prepared]:
    """The folder's name in the cache, and what is in it."""
    with private_folder(cache) as aside:
        spool = write_spool(aside, _reading(task), task.aside_frac, task.progress)
        if not spool.num_documents:
            raise no_documents(task.root, spool.skipped, spool.num_skipped)
        name = _sha256([*about, spool.sha256])
        found = open_store(cache / name)
        if found is None:
            made = aside / "store"
            made.mkdir(mode=0o700)
            _make(task, spool, aside, made)
            keep_folder(made, cache / name)
            found = open_store(cache / name)
        assert found is not None
    return name, found


def _reading(task: _Task) -> Iterator[Document | Skipped]:
    return iter_corpus(task.root, task.settings.strict)


def _make(task: _Task, spool: Spool, aside: Path, folder: Path) -> None:
    """Passes 2 and 3, into `folder`."""
    job = aside / "job.json"
    repeated = _repeated_lines(task, spool)
    write_job(job, task.settings, task.tokenizer, repeated, keep_text=task.settings.perplexity_filter)
    selection, tally = Selection(task.settings), DropCounts()
    writer = StoreWriter(folder, len(task.tokenizer))
    aside_documents: list[Document] = []
    total = sum(b.end for b in (spool.heldout[-1:] + spool.train[-1:]))
    done = 0
    for is_aside, batches in ((True, spool.heldout), (False, spool.train)):
        results = each_batch(partial(clean_batch, job_path=job, is_heldout=is_aside), batches)
        for batch, cleaned in zip(batches, results, strict=True):
            for document in _kept(task, cleaned, selection, tally, is_aside):
                assert document.tokens is not None
                tally.keep(document, is_aside)
                aside_documents.append(document.document) if is_aside else writer.add(document.tokens)
            done += batch.end - batch.start
            task.report("preparing", done, total)
    _require_parts(task, aside_documents, len(writer.lengths), _lost(spool, tally))
    digest = writer.finish(sorted(aside_documents, key=heldout_order))
    parts = len(writer.lengths), len(aside_documents)
    card = _card(task, spool, tally, selection, parts, digest)
    write_synced(folder / "card.json", card.to_json().encode())


def _require_parts(task: _Task, aside: Sequence[Document], num_train: int, lost: str) -> None:
    """Every part that was asked for has a document at least."""
    where = str(task.root)
    if task.validation_frac:
        validation_documents(aside, task.heldout_frac, task.validation_frac, where)
    if task.heldout_frac < 1.0:
        num_heldout = sum(is_heldout(d.id, task.heldout_frac) for d in aside)
        require_both(num_train, num_heldout, task.heldout_frac, where, lost)


def _lost(spool: Spool, tally: DropCounts) -> str:
    """What was not read or not kept, where that leaves too little: the first file and the reasons."""
    reasons = [f"{amount.num_documents} dropped ({reason})" for reason, amount in sorted(tally.dropped.items())]
    if spool.skipped:
        first = spool.skipped[0]
        reasons.append(f"{spool.num_skipped} skipped ({first.file}: {first.reason})")
    return "".join(f", {reason}" for reason in reasons)


def _repeated_lines(task: _Task, spool: Spool) -> frozenset[int]:
    if not task.settings.boilerplate:
        return frozenset()
    counter, done = BoilerplateCounter(), 0
    counts = each_batch(partial(count_batch, unicode=task.settings.unicode), spool.batches)
    for batch, part in zip(spool.batches, counts, strict=True):
        counter.merge(part)
        done += batch.end - batch.start
        task.report("looking for boilerplate", done, sum(b.end - b.start for b in spool.batches))
    return counter.repeated()


def _kept(
    task: _Task, cleaned: Sequence[Cleaned], selection: Selection, tally: DropCounts, is_aside: bool
) -> Iterator[Cleaned]:
    """The documents of a batch that stay, each other one counted under the first reason to drop it."""
    left = []
    for document in cleaned:
        if reason := selection.repeats(document) or document.fault:
            tally.drop(document, reason)
        else:
            left.append(document)
    for document, reason in zip(left, _scored(task, left), strict=True):
        if reason := reason or selection.resembles(document, is_aside):
            tally.drop(document, reason)
        else:
            yield document


def _scored(task: _Task, cleaned: Sequence[Cleaned]) -> list[str]:
    if not task.settings.perplexity_filter or task.scorer is None:
        return [""] * len(cleaned)
    low, high = task.settings.min_bits_per_byte, task.settings.max_bits_per_byte
    scores = task.scorer([c.document for c in cleaned])
    return ["too predictable" if s < low else "gibberish to the base" if s > high else "" for s in scores]


def _card(
    task: _Task, spool: Spool, tally: DropCounts, selection: Selection, parts: tuple[int, int], digest: str
) -> DataCard:
    num_train, num_heldout = parts
    return DataCard(
        source=str(task.root),
        base=task.base,
        settings=task.settings.model_dump(),
        heldout_frac=task.heldout_frac,
        num_files=task.num_files,
        read=tally.read,
        train=Part(num_train, tally.num_tokens[False], tally.num_bytes[False]),
        heldout=Part(num_heldout, tally.num_tokens[True], tally.num_bytes[True]),
        num_words=tally.num_words,
        general_tokens_per_word=general_tokens_per_word(task.tokenizer),
        lengths=describe_lengths(tally.lengths),
        sha256=digest,
        skipped=tuple(SkippedFile(**asdict(left)) for left in spool.skipped),
        num_skipped=spool.num_skipped,
        dropped=dict(sorted(tally.dropped.items())),
        num_control_characters=tally.num_control_characters,
        num_boilerplate_lines=tally.num_boilerplate_lines,
        languages=dict(tally.languages.most_common()),
        personal_data=dict(sorted(tally.personal.items())),
        num_leaked=selection.num_leaked,
        special_per_document=1 if leading_id(task.tokenizer) is None else 2,
    )


def _sha256(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
