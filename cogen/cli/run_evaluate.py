"""The work of `cogen evaluate`, imported only when it runs."""

from __future__ import annotations

import json
from pathlib import Path

from cogen.adapter import Adapter
from cogen.base import Base, load_base
from cogen.cli.show import TokenBar, byte_bar, named_paths, print_json, token_bar
from cogen.data import Document, Window, heldout_windows, read_corpus
from cogen.data.spool import Progress
from cogen.data.walk import corpus_root
from cogen.errors import ConfigError
from cogen.evaluate.matrix import Evaluation, format_table
from cogen.evaluate.score import evaluate_adapters
from cogen.files import write_file
from cogen.train.corpus import prepare_corpus


def run_evaluate(
    base_name: str,
    adapters: list[str],
    data: list[str],
    out: Path | None,
    heldout_frac: float,
    max_tokens: int,
    block_tokens: int,
    *,
    as_json: bool,
) -> None:
    """Check the input, score with a bar, write and print the matrix."""
    folders, paths = named_paths(adapters, "--adapter"), named_paths(data, "--data")
    if not paths or "base" in folders:
        got = "nothing" if not paths else "an adapter called base"
        raise ConfigError("cannot evaluate", expected="--data NAME=PATH", got=got, fix="See cogen evaluate --help.")
    loaded = {name: Adapter.load(folder) for name, folder in folders.items()}
    for path in paths.values():
        corpus_root(path)
    base = load_base(base_name)
    with byte_bar("data") as bar:
        heldout = {name: _heldout(base, path, heldout_frac, bar.update) for name, path in paths.items()}
    windows = {n: heldout_windows(d, base.tokenizer, block_tokens, max_tokens) for n, d in heldout.items()}
    evaluation = _score(base, loaded, windows)
    if out is not None:
        write_file(out, evaluation.to_json().encode())
    if as_json:
        print_json(json.loads(evaluation.to_json()))
    else:
        print(format_table(evaluation))


def _heldout(base: Base, path: str, heldout_frac: float, progress: Progress) -> tuple[Document, ...]:
    """The held-out part as training leaves it; a corpus that is held out whole just as it is."""
    if heldout_frac >= 1.0:
        return read_corpus(path).documents
    return prepare_corpus(base, path, heldout_frac=heldout_frac, progress=progress).heldout


def _score(base: Base, adapters: dict[str, Adapter], windows: dict[str, list[Window]]) -> Evaluation:
    tokens = sum(len(w.tokens) for some in windows.values() for w in some)
    with token_bar("scoring", tokens * (len(adapters) + 1)) as bar:
        return evaluate_adapters(base, adapters, windows, progress=_advance(bar))


def _advance(bar: TokenBar):  # type: ignore[no-untyped-def]
    return lambda row, domain, num_tokens: bar.update(bar.done + num_tokens, f"{row} on {domain}")
