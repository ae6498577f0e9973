"""A seed summary as plain text: the matrix with its spread over the seeds, and one line for every domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cogen.console import table
from cogen.evaluate.matrix import COMBINED, GENERAL, NOTHING
from cogen.evaluate.seed_summary import DomainSummary, SeedSummary, Spread

OTHERS = "others'"


def format_seed_summary(seed_summary: SeedSummary) -> str:
    """Models by domains in bits per byte, mean and standard deviation over the seeds, `*` at the lowest of a column.

    The last row is the retained gain. General text is the last column.
    """
    models, domains = seed_summary.models, seed_summary.domains
    columns = [[seed_summary.rows.get((m, d)) for m in models] for d in domains]
    columns.append([seed_summary.means[m] for m in models])
    header, gains = ["bits per byte", *domains, "mean"], [seed_summary.retained_gain[d] for d in domains]
    kept: list[str] = ["retained gain", *(_percent(gain) for gain in gains), NOTHING]
    if seed_summary.general:
        header.append(GENERAL)
        kept.append(NOTHING)
        columns.append([seed_summary.general.get(m) for m in models])
    written = [_mark_lowest(column) for column in columns]
    rows = [header, *([m, *(column[i] for column in written)] for i, m in enumerate(models))]
    if any(gain.known for gain in gains):
        rows.append(kept)
    return table(rows, marks="*") + "\n"


def joining_lines(seed_summary: SeedSummary) -> Iterator[str]:
    """For each domain: how much joining changed its scores, compared with training alone."""
    for domain, member in seed_summary.members.items():
        if member.own.mean is not None:
            yield f"{domain}: {_member(member)}"


def member_lines(seed_summary: SeedSummary) -> Iterator[str]:
    """The lines of `joining_lines`, then forgetting on general text, then a warning where there is one seed."""
    yield from joining_lines(seed_summary)
    forgotten = seed_summary.forgetting.get(COMBINED)
    if forgotten is not None and forgotten.mean is not None:
        yield f"general text: the combined model reads it {_change(forgotten)} bits per byte than the base"
    if len(seed_summary.seeds) < 2:
        yield "one seed: these figures have no spread (--seeds 3)"


def _member(member: DomainSummary) -> str:
    text = f"joining {_gain('your own held-out text', member.own)} bits per byte over training alone"
    return text if member.others.mean is None else f"{text}, and {_gain(OTHERS, member.others)}"


def _gain(whose: str, gain: Spread) -> str:
    mean = gain.mean or 0.0
    return f"{'improved' if mean >= 0 else 'worsened'} {whose} by {_written(abs(mean), gain.sd)}"


def _change(change: Spread) -> str:
    mean = change.mean or 0.0
    return f"{'worse' if mean > 0 else 'better'} by {_written(abs(mean), change.sd)}"


def _written(mean: float, sd: float | None) -> str:
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"


def _percent(gain: Spread) -> str:
    if gain.mean is None:
        return NOTHING
    return f"{gain.mean:.1%}" if gain.sd is None else f"{100 * gain.mean:.1f} ± {100 * gain.sd:.1f}%"


def _mark_lowest(column: Sequence[Spread | None]) -> list[str]:
    means = [None if spread is None else spread.mean for spread in column]
    known = [mean for mean in means if mean is not None]
    lowest = min(known) if len(known) > 1 else None
    marks = ["*" if mean is not None and mean == lowest else "" for mean in means]
    return [
        NOTHING if spread is None or spread.mean is None else _written(spread.mean, spread.sd) + mark
        for spread, mark in zip(column, marks, strict=True)
    ]
