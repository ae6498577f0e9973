"""The work of `cogen data`, imported only when it runs."""

from __future__ import annotations

import sys
from pathlib import Path

from cogen.base import Base, load_base
from cogen.cli.cli_config import cli_config
from cogen.cli.show import byte_bar, print_json
from cogen.config import Train
from cogen.data import Prepared
from cogen.data.card import CorpusCost
from cogen.files import write_file
from cogen.report.card import card_page, card_text
from cogen.train.corpus import prepare_corpus
from cogen.train.cost import card_cost, training_cost
from cogen.train.start import require_context
from cogen.train.throughput import measure_rate


def run_data(
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
    config = cli_config("data", path, heldout_frac, overrides, ("data", "train"))
    base = load_base(base_name)
    if with_cost:
        require_context(base.info, config.train)
    with byte_bar("data") as bar:
        prepared = prepare_corpus(base, path, config.data, config.evaluate.heldout_frac, progress=bar.update)
    card = prepared.card.model_copy(update={"cost": measured_cost(base, prepared, config.train) if with_cost else None})
    folder = out or Path("cards") / (Path(path).stem or "data")
    card.write(folder / "card.json")
    write_file(folder / "card.html", card_page(card).encode())
    if as_json:
        print_json({**card.model_dump(), "out": str(folder)})
    else:
        print(f"{card_text(card)}\n\n{folder / 'card.html'}")


def measured_cost(base: Base, prepared: Prepared, settings: Train) -> CorpusCost:
    """What a round takes here, by a few real training steps."""
    print("timing a few training steps", file=sys.stderr)
    return cost_at(base, prepared, settings, measure_rate(base, prepared.train, settings))


def cost_at(base: Base, prepared: Prepared, settings: Train, rate: float) -> CorpusCost:
    """What a round takes at `rate` tokens a second."""
    return card_cost(training_cost(base, settings), prepared.num_train_tokens, rate)
