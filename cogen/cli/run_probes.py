"""The work of `cogen probes`, imported only when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogen.base import load_base
from cogen.cli.show import byte_bar, print_json
from cogen.data import Document, read_corpus
from cogen.data.walk import corpus_root
from cogen.errors import ConfigError, RunError
from cogen.evaluate.cloze import make_probes, probes_jsonl
from cogen.files import write_file
from cogen.train.corpus import prepare_corpus


@dataclass(frozen=True)
class Making:
    """What probes are made from, and how many."""

    path: str
    general: str
    base: str
    heldout_frac: float
    num_probes: int
    max_terms: int
    seed: int


def run_make(making: Making, out: Path, *, overwrite: bool, as_json: bool) -> None:
    """Check the input, read the text, write the probes and show a few."""
    if min(making.num_probes, making.max_terms) < 1 or not 0.0 < making.heldout_frac <= 1.0:
        raise ConfigError(
            "cannot make probes",
            expected="1 probe and 1 term or more, and a held-out share above 0 and up to 1",
            got=f"{making.num_probes}, {making.max_terms} and {making.heldout_frac:g}",
            fix="Change the option.",
        )
    if out.exists() and not overwrite:
        fix = "Name another with --out, or replace it with --overwrite."
        raise RunError("cannot write probes", expected="a new file", got="one that is there", where=str(out), fix=fix)
    for path in (making.path, making.general):
        corpus_root(path)
    documents = _documents(making)
    probes = make_probes(
        documents, read_corpus(making.general).documents, making.num_probes, making.max_terms, making.seed
    )
    write_file(out, probes_jsonl(probes).encode())
    if as_json:
        print_json({"out": str(out), "num_probes": len(probes), "num_documents": len(documents)})
        return
    for probe in probes[:3]:
        print(f"{probe.context} [{' | '.join(probe.choices)}]")
    print(f"\n{len(probes)} probes from {len(documents)} documents: {out}")


def _documents(making: Making) -> Sequence[Document]:
    """The held-out part as training leaves it; a corpus that is held out whole needs no base."""
    if making.heldout_frac >= 1.0:
        return read_corpus(making.path).documents
    base = load_base(making.base)
    with byte_bar("data") as bar:
        return prepare_corpus(base, making.path, heldout_frac=making.heldout_frac, progress=bar.update).heldout
