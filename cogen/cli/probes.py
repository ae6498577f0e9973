"""`cogen probes`: probes made from a domain's own text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.help import CONTEXT, Command, Group
from cogen.cli.options import DEFAULT_BASE, LARGEST_SEED, AsJson, BaseName, Overwrite, in_bounds
from cogen.console import BYTES, Bar, print_json

if TYPE_CHECKING:
    from cogen.data import Document

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)


@app.callback()
def group() -> None:
    """Make multiple-choice probes from text.

    Example: cogen probes make grid.jsonl --general text.jsonl --out cloze.jsonl
    """


@app.command("make", cls=Command)
def make(
    path: Annotated[str, typer.Argument(help="The domain's corpus; its held-out part is read.")],
    general: Annotated[str, typer.Option(help="General text, to tell terms apart.")],
    out: Annotated[Path, typer.Option(help="File to write, one probe a line.")],
    base: BaseName = DEFAULT_BASE,
    heldout_frac: Annotated[float, typer.Option(help="As in training; 1 reads everything.")] = 0.05,
    num: Annotated[int, typer.Option(help="Probes to make at most.")] = 200,
    max_terms: Annotated[int, typer.Option(help="Most typical terms to ask for.")] = 400,
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same probes.", callback=in_bounds(0, LARGEST_SEED))
    ] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make probes that ask for the terms of a domain.

    A probe is a sentence of the corpus up to a term, with that term and three others to choose from.

    Example: cogen probes make grid.jsonl --general text.jsonl --out cloze.jsonl
    """
    from cogen.data import read_corpus
    from cogen.data.walk import corpus_root
    from cogen.errors import RunError
    from cogen.evaluate.cloze import make_probes, probes_jsonl
    from cogen.files import write_file

    _require_usable(num, max_terms, heldout_frac)
    if out.exists() and not overwrite:
        fix = "Name another with --out, or replace it with --overwrite."
        raise RunError("cannot write probes", expected="a new file", got="an existing one", where=str(out), fix=fix)
    for corpus in (path, general):
        corpus_root(corpus)
    documents = _documents(path, base, heldout_frac)
    probes = make_probes(documents, read_corpus(general).documents, num, max_terms, seed)
    write_file(out, probes_jsonl(probes).encode())
    if as_json:
        print_json({"out": str(out), "num_probes": len(probes), "num_documents": len(documents)})
        return
    for probe in probes[:3]:
        print(f"{probe.context} [{' | '.join(probe.choices)}]")
    print(f"\n{len(probes)} probes from {len(documents)} documents: {out}")


def _require_usable(num: int, max_terms: int, heldout_frac: float) -> None:
    """Raise ConfigError for counts below 1, or a held-out share that is not in (0, 1]."""
    from cogen.errors import ConfigError

    if min(num, max_terms) < 1 or not 0.0 < heldout_frac <= 1.0:
        raise ConfigError(
            "cannot make probes",
            expected="1 probe and 1 term or more, and a held-out share above 0 and up to 1",
            got=f"{num}, {max_terms} and {heldout_frac:g}",
            fix="Change --num, --max-terms or --heldout-frac.",
        )


def _documents(path: str, base_name: str, heldout_frac: float) -> Sequence[Document]:
    """The held-out part as training leaves it; with a fraction of 1 the whole corpus, for which no base is needed."""
    from cogen.base import load_base
    from cogen.data import read_corpus
    from cogen.train.corpus import prepare_corpus

    if heldout_frac >= 1.0:
        return read_corpus(path).documents
    base = load_base(base_name)
    with Bar("data", BYTES) as bar:
        return prepare_corpus(base, path, heldout_frac=heldout_frac, progress=bar.update_part).heldout
