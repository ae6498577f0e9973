"""What is done to a batch of documents on its own, in any process: counted, cleaned, tokenised."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    signature,
    strip_boilerplate,
)
from cogen.data.document import Document
from cogen.data.spool import SpoolBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Cleaned:
    """A document after all steps that need no other document.

    Args:
        fault: why it is dropped; empty where it is not. Then it has text, tokens and signature.
        num_read_bytes: before cleaning.
        exact: equal for texts that differ in white space at most.
        tokens: with EOS, and BOS where the tokenizer puts one.
    """

    document: Document
    num_read_bytes: int
    fault: str = ""
    exact: bytes = b""
    num_bytes: int = 0
    num_words: int = 0
    num_control_characters: int = 0
    num_boilerplate_lines: int = 0
    language: str = ""
    personal: Counter[str] = field(default_factory=Counter)
    checksum: NDArray[np.uint8] | None = None
    tokens: NDArray[np.int32] | None = None


def write_job(
    path: Path, settings: Data, tokenizer: PreTrainedTokenizerBase, repeated: Iterable[int], *, keep_text: bool
) -> None:
    """Put what every worker needs where it can read it.

    Args:
        repeated: lines of `BoilerplateCounter.repeated`.
        keep_text: give back the text of every document, not of the held-out ones alone.
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


def count_batch(batch: SpoolBatch, unicode: bool) -> BoilerplateCounter:
    """The lines on the edges of the batch's documents."""
    counter = BoilerplateCounter()
    for document in batch.read():
        counter.add(normalise(document.text)[0] if unicode else document.text)
    return counter


def clean_batch(batch: SpoolBatch, job_path: Path, is_heldout: bool) -> list[Cleaned]:
    """The batch's documents in order, cleaned and tokenised."""
    job = _job(job_path)
    cleaned = [_clean(document, job) for document in batch.read()]
    kept = [c for c in cleaned if not c.fault]
    tokens = iter(job.tokenize([c.document.text for c in kept]))
    return [c if c.fault else _finished(c, next(tokens), is_heldout or job.keep_text) for c in cleaned]


@dataclass(frozen=True)
class _Job:
    settings: Data
    tokenizer: Any
    first: tuple[int, ...]
    eos: int
    repeated: frozenset[int]
    keep_text: bool

    def tokenize(self, texts: list[str]) -> Iterable[NDArray[np.int32]]:
        """As `pack.tokenize`, without the library that wraps the tokenizer: a worker starts in a fraction of the time."""
        for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield np.array([*self.first, *encoding.ids, self.eos], dtype=np.int32)


@lru_cache(maxsize=1)
def _job(path: Path) -> _Job:
    """Read once a process; each preparation has a folder of its own."""
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
    """All steps up to tokens, in their order; a document that is dropped has done with the rest."""
    settings, text = job.settings, document.text
    num_read_bytes = len(text.encode())
    text, num_control = normalise(text) if settings.unicode else (text, 0)
    text, num_lines = strip_boilerplate(text, job.repeated) if settings.boilerplate else (join_pages(text), 0)
    if not text.strip():
        return Cleaned(document, num_read_bytes, "nothing left after cleaning")
    exact = exact_key(text)
    fault = quality_fault(text) if settings.quality else None
    if fault is not None:
        return Cleaned(document, num_read_bytes, f"quality: {fault.rule}", exact)
    checksum = signature(text) if settings.near_duplicates or settings.leakage else None
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
        language=language,
        personal=personal,
        checksum=checksum,
    )


def _finished(cleaned: Cleaned, tokens: NDArray[np.int32], keep_text: bool) -> Cleaned:
    """With its tokens, and without the text where nobody reads it any more."""
    about = cleaned.document
    document = about if keep_text else Document(about.id, "", "", "")
    return Cleaned(**{**vars(cleaned), "document": document, "tokens": tokens})
