"""A corpus prepared for training once (read, cleaned, split, tokenised), and found in the cache the next time.

Three passes, each streaming: (1) read every file into a spool on disk; (2) count the first and last lines of
documents, for boilerplate; (3) clean and tokenise chunk by chunk on all cores, held-out documents first, while
one process drops duplicates and writes tokens. The result is stored in the cache under a hash of the documents,
of what was skipped, the settings and the tokenizer. A second key, a hash of the files' names, sizes and times, finds it without
reading a document. Results that were not used for longest are removed, so that the cache does not grow without bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogen.base_fetch import cache_folder
from cogen.config import Data
from cogen.data.build import DocumentScorer, Task, build_store
from cogen.data.card import DataCard
from cogen.data.read import iter_corpus, no_documents
from cogen.data.spool import Progress, write_spool
from cogen.data.store import Prepared, keep_folder, open_store, private_folder
from cogen.data.walk import Found, corpus_root, walk
from cogen.errors import ConfigError, DataError
from cogen.files import write_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Version of the folder and of the cleaning steps: raised whenever either changes.
FORMAT = 4
NUM_KEPT, NUM_KEPT_OF_ONE = 64, 6  # prepared corpora in the common cache, and in the folder of one domain
INDEX = "index"
NAME = re.compile("[0-9a-f]{64}")
# A file that changed less than this before we read it may change again without a new time.
SETTLED_SECONDS = 2.0


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
    """Read, clean, split and tokenise the corpus at `path`, or find an earlier result in the cache.

    Documents and tokens are on disk and read when needed, so memory does not grow with the training part.

    Args:
        load_tokenizer: called only where there is something to tokenise.
        heldout_frac: share of documents held out, at least one, see `split`; 1 holds out all.
        validation_frac: share of all documents reserved for validation, taken from the training part.
        tokenizer_hash: the tokenizer's hash in the base's fingerprint.
        base: the base's name, for the card.
        scorer: needed by `settings.perplexity_filter`.
        scorer_hash: a hash of all that the scorer depends on.
        cache_dir: the folder of one domain for its prepared corpora; `data` in the cache when None.
    Raises:
        ConfigError: the perplexity filter is on and there is no scorer.
        DataError: no such path, no documents, or fewer than two after cleaning (three with validation);
            with strict settings, a file or line that cannot be read.
        RunError: the cache cannot be written.
    """
    if settings.perplexity_filter and scorer is None:
        fix = "Name a base, or switch data.perplexity_filter off."
        raise ConfigError("cannot filter by perplexity", expected="a base", got="none", where=str(path), fix=fix)
    root, cache = corpus_root(path), cache_dir or common_cache()
    cleaning = settings.model_dump(exclude={"max_loss_frac"})
    key = [FORMAT, cleaning, heldout_frac, validation_frac, tokenizer_hash, scorer_hash]
    began, stamp = time.time(), _Stamp.of(root)
    link = cache / INDEX / _sha256([*key, str(root.resolve()), stamp.files])
    name = _linked(link)
    prepared = None if name is None else open_store(cache / name)
    if name is None or prepared is None:
        fracs = (heldout_frac, validation_frac)
        task = Task(root, load_tokenizer(), settings, *fracs, base, scorer, progress, len(stamp.files))
        name, prepared = _find_or_build(task, cache, key)
        if stamp.newest < began - SETTLED_SECONDS and _Stamp.of(root) == stamp:
            write_file(link, name.encode(), private=True)
        _remove_unused(cache, NUM_KEPT if cache_dir is None else NUM_KEPT_OF_ONE, cache / name)
    with suppress(OSError):
        os.utime(cache / name)  # used now
    return replace(prepared, card=prepared.card.model_copy(update={"source": str(path), "base": base}))


def common_cache() -> Path:
    """The prepared corpora of everything but the members of real federations, who have them in their own folders."""
    return cache_folder() / "data"


def prepared_from(path: Path, cache: Path) -> list[Path]:
    """The folders in `cache` that were made from the corpus at `path`; one made of an equal corpus elsewhere is not among them."""
    return [folder for folder in _results(cache) if _source(folder) == str(path.resolve())]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in the folder; 0 where there is none."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())


def _results(cache: Path) -> list[Path]:
    return [p for p in cache.iterdir() if NAME.fullmatch(p.name)] if cache.is_dir() else []


def _source(folder: Path) -> str | None:
    try:
        return DataCard.load(folder / "card.json").source
    except DataError:
        return None


def _linked(link: Path) -> str | None:
    """The name of the result that a link names; None where there is no link."""
    try:
        return link.read_text("utf-8")
    except OSError:
        return None


def _remove_unused(cache: Path, num_kept: int, newest: Path) -> None:
    """Keep the results that were used last, `newest` among them."""
    with suppress(OSError):  # another process may be doing the same
        others = sorted((p for p in _results(cache) if p != newest), key=lambda p: p.stat().st_mtime, reverse=True)
        for folder in others[num_kept - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)
        remove_dead_links(cache)


def remove_dead_links(cache: Path) -> None:
    """Remove the index's entries of results that are gone."""
    for link in (cache / INDEX).glob("[0-9a-f]*"):
        name = _linked(link)
        if name is None or not (cache / name).is_dir():
            link.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Stamp:
    """Names, sizes, times and modes of a corpus's files, which identify it without reading a document."""

    files: list[list[str | int]]
    newest: float

    @classmethod
    def of(cls, root: Path) -> _Stamp:
        found = [_stat(item) for item in walk(root) if isinstance(item, Found)]
        return cls([values for values, _ in found], max((changed for _, changed in found), default=0.0))


def _stat(found: Found) -> tuple[list[str | int], float]:
    """A file's entry in the stamp, and the time of its last change; for a forbidden file, the error's number."""
    try:
        stat = found.path.stat()
    except OSError as error:
        return [found.name, error.errno or 0], 0.0
    # The mode too: a file skipped for its permissions may be read next time, and keeps its time.
    return [found.name, stat.st_size, stat.st_mtime_ns, stat.st_mode], stat.st_mtime


def _find_or_build(task: Task, cache: Path, key: list[Any]) -> tuple[str, Prepared]:
    """The name of the prepared folder in the cache, and its content."""
    with private_folder(cache) as staging:
        spool = write_spool(staging, iter_corpus(task.root, task.settings.strict), task.reserved_frac, task.progress)
        if not spool.num_documents:
            raise no_documents(task.root, spool.reading)
        name = _sha256([*key, spool.sha256, *spool.reading.values()])
        found = open_store(cache / name)
        if found is None:
            store = staging / "store"
            store.mkdir(mode=0o700)
            build_store(task, spool, staging, store)
            keep_folder(store, cache / name)
            found = open_store(cache / name)
        assert found is not None
    return name, found


def _sha256(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
