"""The work on one chunk of documents (counting, cleaning, tokenising), and how all cores share the chunks."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cogen.base import leading_id
from cogen.config import Data
from cogen.data.card import count_words
from cogen.data.clean import (
    BoilerplateCounter,
    detect_language,
    exact_key,
    join_pages,
    normalise,
    personal_data,
    quality_fault,
    redact,
    script_of,
    signature,
    strip_boilerplate,
)
from cogen.data.document import Document
from cogen.data.spool import Chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

# With less to do, the work is done before the first worker has imported its libraries.
MIN_PARALLEL_BYTES = 16 * 2**20
IN_FLIGHT_PER_WORKER = 3

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cleaned:
    """A document after all steps that need no other document.

    Args:
        fault: why it is dropped; empty where it is kept. Only a kept one has tokens and a signature.
        num_read_bytes: UTF-8 bytes before cleaning.
        script: by whose words the quality rules measured it; empty where they did not.
        num_boilerplate_bytes: UTF-8 bytes of the lines removed and of white space at their side.
        exact: a hash, equal for texts that differ in white space only.
        minhash: its signature, where near-duplicates are looked for.
        tokens: token ids `(n,)` with EOS, and BOS where the tokenizer adds one.
    """

    document: Document
    num_read_bytes: int
    fault: str = ""
    exact: bytes = b""
    num_bytes: int = 0
    num_words: int = 0
    num_control_characters: int = 0
    num_boilerplate_lines: int = 0
    num_boilerplate_bytes: int = 0
    script: str = ""
    language: str = ""
    personal: Counter[str] = field(default_factory=Counter)
    minhash: NDArray[np.uint8] | None = None
    tokens: NDArray[np.int32] | None = None


def write_job(
    path: Path, settings: Data, tokenizer: PreTrainedTokenizerBase, repeated: Iterable[int], *, keep_text: bool
) -> None:
    """Write what every worker needs to `path`.

    Args:
        repeated: the lines of `BoilerplateCounter.repeated`.
        keep_text: whether workers return the text of training documents too, not only of reserved ones.
    """
    values = {
        "settings": settings.model_dump(),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "bos": leading_id(tokenizer),
        "eos": tokenizer.eos_token_id,
        "repeated": sorted(repeated),
        "keep_text": keep_text,
    }
    path.write_text(json.dumps(values))


def count_chunk(chunk: Chunk, unicode: bool) -> BoilerplateCounter:
    """Count the first and last lines of the chunk's documents."""
    counter = BoilerplateCounter()
    for document in chunk.read():
        counter.add(normalise(document.text)[0] if unicode else document.text)
    return counter


def clean_chunk(chunk: Chunk, job_path: Path, is_reserved: bool) -> list[Cleaned]:
    """The chunk's documents in order, cleaned and tokenised."""
    job = _job(job_path)
    cleaned = [_clean(document, job) for document in chunk.read()]
    kept = [c for c in cleaned if not c.fault]
    tokens = iter(job.tokenize([c.document.text for c in kept]))
    return [c if c.fault else _finished(c, next(tokens), is_reserved or job.keep_text) for c in cleaned]


@dataclass(frozen=True)
class _Job:
    """What `write_job` wrote, as a worker uses it."""

    settings: Data
    tokenizer: Any
    first: tuple[int, ...]
    eos: int
    repeated: frozenset[int]
    keep_text: bool

    def tokenize(self, texts: list[str]) -> Iterable[NDArray[np.int32]]:
        """The tokens of `pack.tokenize`, without importing transformers, so that a worker starts fast."""
        for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield np.array([*self.first, *encoding.ids, self.eos], dtype=np.int32)


@lru_cache(maxsize=1)
def _job(path: Path) -> _Job:
    """Read the job once a process; each preparation has a folder of its own."""
    from tokenizers import Tokenizer

    values = json.loads(path.read_text())
    tokenizer = Tokenizer.from_str(values["tokenizer"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # text is text, see pack.PLAIN
    settings = Data.model_validate(values["settings"])
    first = () if values["bos"] is None else (values["bos"],)
    return _Job(settings, tokenizer, first, values["eos"], frozenset(values["repeated"]), values["keep_text"])


def _clean(document: Document, job: _Job) -> Cleaned:
    """All steps up to tokens, in their order; a document that is dropped skips the other steps."""
    settings, text = job.settings, document.text
    num_read_bytes = len(text.encode())
    text, num_control = normalise(text) if settings.unicode else (text, 0)
    num_normal = len(text.encode())
    text, num_lines = strip_boilerplate(text, job.repeated) if settings.boilerplate else (join_pages(text), 0)
    num_boilerplate_bytes = num_normal - len(text.encode()) if num_lines else 0
    if not text.strip():
        return Cleaned(document, num_read_bytes, "nothing left after cleaning")
    exact = exact_key(text)
    script = script_of(text)[0] if settings.quality else ""
    fault = quality_fault(text) if settings.quality else None
    if fault is not None:
        return Cleaned(document, num_read_bytes, f"quality: {fault.rule}", exact, script=script)
    minhash = signature(text) if settings.near_duplicates or settings.leakage else None
    language = detect_language(text)
    text, personal = redact(text) if settings.redact else (text, personal_data(text))
    return Cleaned(
        Document(document.id, document.title, text, document.source),
        num_read_bytes,
        exact=exact,
        num_bytes=len(text.encode()),
        num_words=count_words(text),
        num_control_characters=num_control,
        num_boilerplate_lines=num_lines,
        num_boilerplate_bytes=num_boilerplate_bytes,
        script=script,
        language=language,
        personal=personal,
        minhash=minhash,
    )


def _finished(cleaned: Cleaned, tokens: NDArray[np.int32], keep_text: bool) -> Cleaned:
    """The document with its tokens, and without the text where nobody reads it later."""
    about = cleaned.document
    document = about if keep_text else Document(about.id, "", "", "")
    return Cleaned(**{**vars(cleaned), "document": document, "tokens": tokens})


def each_chunk(function: Callable[[Chunk], Result], chunks: Sequence[Chunk]) -> Iterator[Result]:
    """Yield `function(chunk)` for every chunk, in order, computed on all cores; in this process for little data.

    Few results are in memory at a time.

    Args:
        function: a module-level function or a partial of one, since it is pickled for the workers.
    """
    num_workers = min(num_cores(), len(chunks))
    if num_workers == 1 or sum(c.num_bytes for c in chunks) < MIN_PARALLEL_BYTES:
        yield from map(function, chunks)
        return
    # Not forked: a parent that has used torch or a tokenizer has threads, whose locks a fork would inherit.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_limit_threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(function, chunk))
                if len(waiting) >= IN_FLIGHT_PER_WORKER * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit_threads() -> None:
    """One core for each worker: the tokenizer would start a thread for every core in each."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
