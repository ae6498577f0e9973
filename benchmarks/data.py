"""How fast, and in how much memory, a large corpus is prepared: `python benchmarks/data.py --megabytes 1000`.

The corpus is made up: pseudo-words by Zipf's law in sentences and paragraphs, about 2 KB a document, of
which a share repeats another one, exactly or nearly. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

VOCABULARY = 50_000
DOCUMENT_WORDS = 330
DUPLICATE_FRAC = 0.02
SYLLABLES = [
    "ka",
    "to",
    "mi",
    "ren",
    "sol",
    "ver",
    "dan",
    "pli",
    "ost",
    "ur",
    "el",
    "gran",
    "tem",
    "bo",
    "cha",
    "nu",
    "sta",
    "fi",
    "lo",
    "pre",
    "con",
    "der",
    "ing",
    "ex",
    "al",
    "um",
]
# So that language and quality rules see text as they know it.
COMMON = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "that",
    "for",
    "it",
    "with",
    "as",
    "on",
    "be",
    "by",
    "this",
    "are",
    "at",
    "from",
    "or",
    "an",
    "have",
    "not",
    "which",
]


def main() -> None:
    """Make, prepare, prepare again, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--folder", type=Path, help="where corpus and cache go; a temporary one without it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cogen-bench-") as scratch:
        print(json.dumps(measure(args.folder or Path(scratch), args.megabytes * 10**6, args.base), indent=2))


def measure(folder: Path, num_bytes: int, base: str) -> dict[str, object]:
    """Figures of a first and a second start."""
    from transformers import AutoTokenizer

    from cogen.base import describe_base
    from cogen.config import Data
    from cogen.data.prepare import prepare

    corpus = folder / "corpus.jsonl"
    num_documents = write_corpus(corpus, num_bytes)
    info = describe_base(base)
    tokenizer = AutoTokenizer.from_pretrained(info.folder, local_files_only=True)
    stages: dict[str, float] = {}
    began = time.monotonic()

    def note(what: str, done: int, total: int) -> None:
        stages[what] = round(time.monotonic() - began, 1)

    options = {"tokenizer_hash": info.fingerprint.tokenizer, "cache_dir": folder / "cache"}
    time.sleep(2.5)  # a file just written is not known again by its time
    began = time.monotonic()
    with PeakMemory() as peak:
        made = prepare(corpus, lambda: tokenizer, Data(), 0.05, progress=note, **options)
    first_seconds = time.monotonic() - began
    began = time.monotonic()
    again = prepare(corpus, lambda: tokenizer, Data(), 0.05, **options)
    second_seconds = time.monotonic() - began
    assert again.sha256 == made.sha256
    return {
        "corpus_mb": corpus.stat().st_size / 1e6,
        "num_documents": num_documents,
        "num_kept": made.card.num_documents,
        "num_tokens": made.card.num_tokens,
        "dropped": {reason: amount.num_documents for reason, amount in made.card.dropped.items()},
        "seconds": round(first_seconds, 1),
        "stage_ends_seconds": stages,
        "mb_per_second": round(num_bytes / 1e6 / first_seconds, 2),
        "peak_rss_mb_before": round(peak.before / 1e6),
        "peak_rss_mb_all_processes": round(peak.peak / 1e6),
        "second_start_seconds": round(second_seconds, 3),
    }


def write_corpus(path: Path, num_bytes: int) -> int:
    """JSON lines of about `num_bytes`, the same ones each time; how many."""
    chance, numbers = random.Random(1), np.random.default_rng(1)
    words = COMMON + ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(VOCABULARY)]
    shares = 1 / np.arange(1, len(words) + 1) ** 1.05
    edges = np.cumsum(shares / shares.sum())
    earlier: list[str] = []
    written = count = 0
    with path.open("w") as file:
        while written < num_bytes:
            drawn = np.minimum(np.searchsorted(edges, numbers.random(DOCUMENT_WORDS)), len(words) - 1)
            text = _prose([words[i] for i in drawn], chance)
            if earlier and chance.random() < DUPLICATE_FRAC:
                text = chance.choice(earlier) + chance.choice(["", " Added later."])
            elif len(earlier) < 1000:
                earlier.append(text)
            written += file.write(json.dumps({"id": f"d{count}", "text": text}) + "\n")
            count += 1
    return count


def _prose(words: list[str], chance: random.Random) -> str:
    """Sentences of 8 to 24 words, paragraphs of about 80."""
    parts: list[str] = []
    while words:
        cut = chance.randint(8, 24)
        sentence, words = words[:cut], words[cut:]
        parts.append(" ".join(sentence).capitalize() + "." + ("\n\n" if chance.random() < 0.2 else " "))
    return "".join(parts).strip()


class PeakMemory:
    """Resident sets of this process and its children added up, ten times a second; pages they share count often."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak = max(self.peak, _resident())


def _resident() -> int:
    import psutil

    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
