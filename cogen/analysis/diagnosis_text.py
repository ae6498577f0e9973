"""A diagnosis as plain text, and the advice that follows from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from cogen.analysis.diagnosis import Diagnosis, Family, Pair
from cogen.console import safe, table

MOST_PAIRS = 45
NOTHING = "-"
RELATIONS = ("outputs", "chance", "inputs", "chance", "cosine", "meeting", "sign conflict")
# Rules of thumb for the advice. Overlap counts above chance: 0 is chance, 1 the same subspace.
LITTLE = 0.10
ALIKE = 0.90
MUCH_SHARED = 0.25
OPPOSED = 0.55  # of what meets; unrelated updates have 0.5


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Tables of adapters, pairs and module families, the overall lines, the findings, and one sentence of advice."""
    adapters = [[a.name, str(a.rank), str(a.num_modules), f"{a.norm:.3g}"] for a in diagnosis.adapters]
    parts = [_table(["adapter", "rank", "modules", "norm"], *adapters)]
    parts += [_table(["pair", *RELATIONS, "norm ratio"], *map(_pair_row, _shown(diagnosis.pairs)))]
    if len(diagnosis.pairs) > MOST_PAIRS:
        parts[-1] += f"the {MOST_PAIRS} of {len(diagnosis.pairs)} pairs with the largest overlap above chance\n"
    families = [[f.name, *_relations(f), f"{f.energy_frac:.1%}"] for f in diagnosis.families]
    parts.append(_table(["all pairs, by family", *RELATIONS, "energy"], *families))
    parts.append("".join(f"{line}\n" for line in overall_lines(diagnosis)))
    if diagnosis.findings:
        rows = [[f.level, f.adapter or "all", f.text] for f in diagnosis.findings]
        parts.append(table(rows, num_left=3) + "\n")
    return "\n".join([*parts, f"advice: {safe(advice(diagnosis))}\n"])


def _table(*rows: Sequence[str]) -> str:
    return table(rows) + "\n"


def overall_lines(diagnosis: Diagnosis) -> list[str]:
    """The numbers that are about all adapters together, one line each."""
    d = diagnosis
    share = "" if d.shared_energy_frac is None else f", with {d.shared_energy_frac:.1%} of the energy"
    lines = [f"over-shared output directions: {d.num_shared_directions} of {d.num_directions}{share}"]
    if d.energy_by_rank:
        curve = ", ".join(f"{e.rank}: {e.energy_frac:.1%}" for e in d.energy_by_rank)
        lines.append(f"energy of the mean by rank: {curve}; 90% at {d.rank_for_90}, 99% at {d.rank_for_99}")
    error = d.factor_average_error
    found = f"none, {d.factor_average_reason}" if error is None else f"{error:.1%} of the mean's norm"
    lines.append(f"error if A and B were averaged apart: {found}")
    return lines


def advice(diagnosis: Diagnosis) -> str:
    """One sentence of advice. The thresholds are rules of thumb; scores on held-out text decide."""
    troubled = list(dict.fromkeys(f.adapter for f in diagnosis.findings if f.level == "problem"))
    if troubled:
        return f"First repair or omit {', '.join(troubled)}: a merge would refuse them or go wrong."
    if odd := [f.adapter for f in diagnosis.findings if f.kind == "norm"]:
        return f"First see to the norm of {', '.join(odd)}: in a mean, an adapter counts by its norm as well as by its weight."
    pairs = [p for p in diagnosis.pairs if p.cosine is not None]
    if not pairs:
        return "No two adapters change the same module, so that adding them up (task_arithmetic) loses nothing."
    excess, cosines = max(map(excess_overlap, pairs)), [p.cosine or 0.0 for p in pairs]
    shared = diagnosis.shared_energy_frac or 0.0
    if min(cosines) > ALIKE:
        return f"The updates are nearly the same (cosines from {min(cosines):.2f}): the mean keeps them as they are."
    if opposed := [p for p in pairs if _pulls_apart(p)]:
        worst = min(opposed, key=lambda p: p.cosine or 0.0)
        return (
            f"{worst.first} and {worst.second} pull in opposite directions (sign conflict {worst.sign_conflict_frac:.0%} "
            "of what meets, where unrelated updates have 50%): compare ties and tsv_m with the mean."
        )
    if shared > MUCH_SHARED:
        return (
            f"Directions that most adapters write to hold {shared:.0%} of the energy: "
            "try calibrate = pico as well as the plain mean, at a searched scale."
        )
    if excess < LITTLE:
        return "The adapters overlap hardly more than by chance: the mean at a searched scale is safe."
    return (
        f"The adapters overlap more than by chance (by up to {excess:.0%} of what is possible) without pulling apart: "
        "begin with the mean at a searched scale, and compare it with tsv_m."
    )


def excess_overlap(pair: Pair | Family) -> float:
    """The larger of both sides' (overlap - chance) / (1 - chance): 0 at chance, 1 for the same subspace."""
    return max(
        above_chance(pair.output_overlap, pair.output_chance) or 0.0,
        above_chance(pair.input_overlap, pair.input_chance) or 0.0,
    )


def above_chance(overlap: float | None, chance: float | None) -> float | None:
    """(overlap - chance) / (1 - chance); None where either is missing or chance is 1."""
    if overlap is None or chance is None or chance >= 1.0:
        return None
    return (overlap - chance) / (1.0 - chance)


def _pulls_apart(pair: Pair) -> bool:
    return (pair.sign_conflict_frac or 0.0) > OPPOSED and (pair.meeting_frac or 0.0) > LITTLE


def _relations(row: Pair | Family) -> list[str]:
    overlaps = (row.output_overlap, row.output_chance, row.input_overlap, row.input_chance)
    cosine = NOTHING if row.cosine is None else f"{row.cosine:+.3f}"
    return [*map(_percent, overlaps), cosine, _percent(row.meeting_frac), _percent(row.sign_conflict_frac)]


def _pair_row(pair: Pair) -> list[str]:
    ratio = NOTHING if pair.norm_ratio is None else f"{pair.norm_ratio:.3g}"
    return [f"{pair.first} · {pair.second}", *_relations(pair), ratio]


def _shown(pairs: Sequence[Pair]) -> list[Pair]:
    if len(pairs) <= MOST_PAIRS:
        return list(pairs)
    most = sorted(range(len(pairs)), key=lambda i: -excess_overlap(pairs[i]))[:MOST_PAIRS]
    return [pairs[i] for i in sorted(most)]


def _percent(frac: float | None) -> str:
    return NOTHING if frac is None else f"{frac:.1%}"
