"""`cogen data`: what is in a corpus, and what cleaning makes of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogen.cli.options import DEFAULT_BASE, AsJson, BaseName, HeldoutFrac
from cogen.console import BYTES, Bar, print_json

if TYPE_CHECKING:
    from cogen.base import Base
    from cogen.config import Train
    from cogen.data import Prepared
    from cogen.data.card import CorpusCost


def data(
    path: Annotated[str, typer.Argument(help="A file, a folder or hf://datasets/OWNER/NAME.")],
    base: BaseName = DEFAULT_BASE,
    out: Annotated[Path | None, typer.Option(help="Folder of the card; cards/<name> by default.")] = None,
    heldout_frac: HeldoutFrac = 0.05,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at the first unreadable file or line.")] = False,
    redact: Annotated[bool, typer.Option("--redact", help="Replace personal data by their kind.")] = False,
    perplexity_filter: Annotated[
        bool, typer.Option("--perplexity-filter", help="Drop gibberish and trivial text.")
    ] = False,
    cost: Annotated[bool, typer.Option(help="Time a few training steps.")] = True,
    settings: Annotated[list[str], typer.Option("--set", help="data.KEY=VALUE or train.KEY=VALUE.")] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Clean a corpus, split it and write its data card.

    The card counts documents and tokens, says what was dropped and why, and what training costs.
    cogen train finds the corpus prepared.

    Example: cogen data seeds/clinical.jsonl --base smollm2-135m
    """
    from cogen.train.memory import tune_allocator

    tune_allocator()
    flags = {"strict": strict, "redact": redact, "perplexity_filter": perplexity_filter}
    chosen = [f"data.{name}=true" for name, value in flags.items() if value]
    _write_card(path, base, out, heldout_frac, [*chosen, *settings], with_cost=cost, as_json=as_json)


def _write_card(
    path: str,
    base_name: str,
    out: Path | None,
    heldout_frac: float,
    overrides: list[str],
    *,
    with_cost: bool,
    as_json: bool,
) -> None:
    """Prepare the corpus with a bar, write the card and its page, print it."""

    from cogen.base import load_base
    from cogen.cli.cli_config import cli_config
    from cogen.files import write_file
    from cogen.report.card import card_page, card_text
    from cogen.train.corpus import prepare_corpus
    from cogen.train.start import require_context

    config = cli_config("data", path, heldout_frac, overrides, ("data", "train"))
    base = load_base(base_name)
    if with_cost:
        require_context(base.info, config.train)
    with Bar("data", BYTES) as bar:
        prepared = prepare_corpus(base, path, config.data, config.evaluate.heldout_frac, progress=bar.update_part)
    cost = measured_cost(base, prepared, config.train) if with_cost else None
    card = prepared.card.model_copy(update={"cost": cost})
    folder = out or Path("cards") / (Path(path).stem or "data")
    card.write(folder / "card.json")
    write_file(folder / "card.html", card_page(card).encode())
    if as_json:
        print_json({**card.model_dump(), "out": str(folder)})
    else:
        print(f"{card_text(card)}\n\n{folder / 'card.html'}")


def measured_cost(base: Base, prepared: Prepared, settings: Train) -> CorpusCost:
    """What a round takes on this machine, from a few real training steps."""
    from cogen.train.throughput import measure_rate

    print("timing a few training steps", file=sys.stderr)
    return cost_at(base, prepared, settings, measure_rate(base, prepared.train, settings))


def cost_at(base: Base, prepared: Prepared, settings: Train, rate: float) -> CorpusCost:
    """What a round takes at `rate` tokens a second."""
    from cogen.train.cost import card_cost, training_cost

    return card_cost(training_cost(base, settings), prepared.num_train_tokens, rate)
