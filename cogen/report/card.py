"""A data card -> text for a terminal, or one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cogen.console import table
from cogen.data.account import Account
from cogen.data.card import PERCENTILES, Amount, DataCard
from cogen.data.clean import writing_of
from cogen.data.clean.scripts import ALPHABET
from cogen.report import units
from cogen.report.charts import NARROW, WIDE, Chart
from cogen.report.columns import column_chart, share_chart
from cogen.report.html import template

MOST_LANGUAGES = 12
MOST_FILES = 20
MANY_TOKENS_PER_WORD = 1.5
Rows = Sequence[tuple[str, str]]


def card_page(card: DataCard) -> str:
    """The page as HTML; every text of the card is escaped."""
    return template("card.html.j2").render(
        title=f"Data card of {card.source} · CO-GEN",
        card=card,
        headline=headline(card),
        overview=overview(card),
        cost=cost_rows(card),
        fate_chart=fate_chart(card),
        length_chart=length_chart(card),
        language_chart=language_chart(card),
        percentiles=list(zip(PERCENTILES, card.lengths.percentiles, strict=False)),
        is_redacted=bool(card.settings.get("redact")),
        findings=findings(card),
    )


def card_text(card: DataCard) -> str:
    """The card as text for a terminal."""
    parts = [headline(card), _aligned(overview(card)), _aligned(_fates(card), "Documents")]
    if card.lengths.percentiles:
        shares = [(f"{p}%" if 0 < p < 100 else ("shortest", "longest")[p > 0]) for p in PERCENTILES]
        values = [f"{units.count(v)} tokens" for v in card.lengths.percentiles]
        parts.append(_aligned(list(zip(shares, values, strict=True)), "Lengths"))
    if card.languages:
        languages = list(card.languages.items())[:MOST_LANGUAGES]
        parts.append(_aligned([(code, units.count(n)) for code, n in languages], "Languages"))
    if cost := cost_rows(card):
        parts.append(_aligned(cost, "Training on it here"))
    if card.notes:
        notes = [(note.file, note.text) for note in card.notes[:MOST_FILES]]
        notes += [("...", f"and {units.count(more)} more")] if (more := len(card.notes) - len(notes)) else []
        parts.append(_aligned(notes, "How files were read"))
    if card.skipped:
        files = [(one.file, one.reason) for one in card.skipped[:MOST_FILES]]
        files += [("...", f"and {units.count(more)} more")] if (more := card.num_skipped - len(files)) else []
        parts.append(_aligned(files, "Skipped"))
    return "\n\n".join([*parts, *findings(card), f"Prepared content: sha256 {card.sha256}"])


def headline(card: DataCard) -> str:
    """How much text there is to train on and to score on, in one sentence."""
    train, heldout = card.train, card.heldout
    return (
        f"{units.count(train.num_tokens)} tokens to train on in {_documents(train.num_documents)}, "
        f"{units.count(heldout.num_tokens)} held out in {_documents(heldout.num_documents)}."
    )


def overview(card: DataCard) -> Rows:
    """The few numbers at the top."""
    general = units.decimals(card.general_tokens_per_word, 2)
    return [
        ("files", units.count(card.num_files)),
        ("skipped", units.count(card.num_skipped)),
        ("text lost, in bytes", units.percent(Account.of_card(card).loss_frac, 1)),
        ("documents read", f"{units.count(card.read.num_documents)}, {units.byte_size(card.read.num_bytes)}"),
        ("words", units.count(card.num_words)),
        ("tokens per word", f"{units.decimals(card.tokens_per_word, 2)} (everyday English {general})"),
        ("control characters removed", units.count(card.num_control_characters)),
        ("boilerplate lines removed", units.count(card.num_boilerplate_lines)),
    ]


def findings(card: DataCard) -> list[str]:
    """Personal data, leakage and token use that deserve a look, a sentence each."""
    found = []
    if card.personal_data:
        kinds = ", ".join(f"{units.count(n)} {name.replace('_', ' ')}" for name, n in card.personal_data.items())
        what = "replaced" if card.settings.get("redact") else "kept; --redact replaces them"
        found.append(f"Personal data: {kinds} ({what}).")
    if card.num_leaked:
        what = "dropped" if card.settings.get("leakage") else "kept, so held-out scores will look too good"
        repeat = "repeats" if card.num_leaked == 1 else "repeat"
        found.append(f"Leakage: {_documents(card.num_leaked)} nearly {repeat} a held-out document ({what}).")
    found += _measured_by_script(card)
    if card.tokens_per_word > MANY_TOKENS_PER_WORD * card.general_tokens_per_word:
        found.append("Tokens: the tokenizer breaks these words into many pieces, so that a token holds less text.")
    return found


def _measured_by_script(card: DataCard) -> list[str]:
    """Where the quality rules were not the ones for alphabets."""
    counted = [(f"{units.count(n)} in {script}", writing_of(script)) for script, n in card.scripts.items()]
    others = ", ".join(text for text, writing in counted if writing.has_spaces and writing is not ALPHABET)
    unspaced = ", ".join(text for text, writing in counted if not writing.has_spaces)
    found = []
    if others:
        found.append(f"Quality rules: documents held to the words and lines of their script: {others}.")
    if unspaced:
        off = "no rules on word length, n-grams, ends and lengths of lines"
        found.append(
            f"Quality rules: documents measured by letter, for want of spaces between words ({off}): {unspaced}."
        )
    return found


def cost_rows(card: DataCard) -> Rows:
    """Time and memory of training; empty where they were not measured."""
    if card.cost is None:
        return []
    cost = card.cost
    return [
        ("rate", f"{cost.tokens_per_second:.0f} tokens/s"),
        (f"a round of {units.count(cost.num_tokens)} tokens", f"about {units.duration(60 * cost.minutes)}"),
        ("every document once", f"about {units.duration(60 * cost.epoch_minutes)}"),
        ("memory at the peak", f"about {units.byte_size(round(1e6 * cost.peak_memory_mb))}"),
        ("adapter", units.byte_size(round(1e6 * cost.adapter_mb))),
    ]


def fate_chart(card: DataCard) -> Chart:
    """Documents that were read: in training, held out, or dropped and why."""
    bars = [("training", card.train.num_documents, "better"), ("held out", card.heldout.num_documents, "better")]
    bars += [(reason, amount.num_documents, "worse") for reason, amount in _by_size(card)]
    draw = partial(share_chart, bars, card.read.num_documents, title="Documents kept and dropped")
    return Chart(draw(width=WIDE), draw(width=NARROW))


def length_chart(card: DataCard) -> Chart | None:
    """Documents by their tokens, in powers of two; None without a document."""
    counts = card.lengths.counts
    if not counts:
        return None
    first = next(i for i, count in enumerate(counts) if count)
    columns = [(units.short_count(2**i) if i < 10 else f"{2**i // 1024}Ki", n) for i, n in enumerate(counts)][first:]
    draw = partial(column_chart, columns, "tokens, from", "documents", title="Documents by tokens")
    return Chart(
        draw(width=WIDE),
        draw(width=NARROW),
        notes=("A column holds documents with at least its number of tokens, and fewer than twice as many.",),
    )


def language_chart(card: DataCard) -> Chart | None:
    """Documents by language, rare languages together; None where no language was found."""
    if not card.languages:
        return None
    found = sorted(card.languages.items(), key=lambda item: -item[1])
    bars = [(code, count, "better") for code, count in found[:MOST_LANGUAGES]]
    if rest := sum(count for _, count in found[MOST_LANGUAGES:]):
        bars.append(("others", rest, "better"))
    draw = partial(share_chart, bars, sum(card.languages.values()), title="Documents by language")
    return Chart(
        draw(width=WIDE),
        draw(width=NARROW),
        notes=("und: too few letters to detect a language. zxx: no language.",)
        if {"und", "zxx"} & set(card.languages)
        else (),
    )


def _fates(card: DataCard) -> Rows:
    kept = [("training", card.train.num_documents), ("held out", card.heldout.num_documents)]
    dropped = [(reason, amount.num_documents) for reason, amount in _by_size(card)]
    share = max(1, card.read.num_documents)
    return [(name, f"{units.count(n)} ({units.percent(n / share, 1)})") for name, n in [*kept, *dropped]]


def _by_size(card: DataCard) -> list[tuple[str, Amount]]:
    return sorted(card.dropped.items(), key=lambda item: -item[1].num_documents)


def _documents(count: int) -> str:
    return f"{units.count(count)} document{'' if count == 1 else 's'}"


def _aligned(rows: Rows, heading: str = "") -> str:
    lines = [f"  {line}" for line in table(rows, num_left=2).splitlines()]
    return "\n".join([heading, *lines] if heading else lines)
