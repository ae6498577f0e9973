"""Merges that are made and scored in memory: what a search and the measuring of contributions share.

A column is a domain's validation text, or general text.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

from cogen.adapter import Adapter, Factors
from cogen.analysis.contributions import Shapley, evaluations_needed, leave_one_out, shapley
from cogen.analysis.proposals import label
from cogen.analysis.search import search
from cogen.analysis.trials import Candidate, Constraints, SearchResult
from cogen.base import Base, load_base
from cogen.data import Document, Window, heldout_windows, read_corpus
from cogen.data.split import validation_documents
from cogen.errors import ConfigError, DataError, MergeError
from cogen.merge.combine import merge_adapters
from cogen.merge.factored import checked_weights, normalise_weights
from cogen.merge.rule import Rule
from cogen.train.likelihood import sum_nats
from cogen.train.lora import attached

GENERAL = "general text"
MEAN = "mean"
MEAN_LIKE = ("mean", "stack", "dare", "iso_c", "regmean")

Effects = dict[str, dict[str, float]]
OnMerge = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """A base in memory, the adapters to merge, and the windows of every column."""

    base: Base
    adapters: Mapping[str, Adapter]
    windows: Mapping[str, Sequence[Window]]

    def score(self, factors: Mapping[str, Factors] | None) -> dict[str, float]:
        """Bits per byte by column with these factors attached; None scores the base."""
        with attached(self.base.model, factors) if factors else nullcontext():
            return {column: self._bits_per_byte(windows) for column, windows in self.windows.items()}

    def merged(self, rule: Rule, weights: Mapping[str, float]) -> Mapping[str, Factors]:
        """The merge of the adapters that `weights` names."""
        parts = [self.adapters[name] for name in weights]
        merged = merge_adapters(parts, list(weights.values()), names=list(weights), **asdict(rule))
        return merged.adapter.factors

    def _bits_per_byte(self, windows: Sequence[Window]) -> float:
        return sum_nats(self.base, windows) / math.log(2.0) / sum(w.num_bytes for w in windows)


def open_adapters(folders: Mapping[str, str]) -> dict[str, Adapter]:
    """Adapters by name, their factors left on disk.

    Raises:
        MergeError: fewer than two. AdapterError: one cannot be used.
    """
    require_several(folders)
    return {name: Adapter.open(folder) for name, folder in folders.items()}


def require_several(adapters: Mapping[str, object]) -> None:
    """Raise MergeError for fewer than two."""
    if len(adapters) < 2:
        fix = "Name another adapter: one alone needs no merge."
        raise MergeError("cannot merge", expected="two or more adapters", got=str(len(adapters)), fix=fix)


def read_validation(
    data: Mapping[str, str], heldout_frac: float, validation_frac: float
) -> dict[str, tuple[Document, ...]]:
    """The validation documents of every corpus, name to path.

    Raises:
        ConfigError: no corpus. DataError: one cannot be read, or has no validation document.
    """
    if not data:
        fix = "Name a corpus for every domain."
        raise ConfigError("cannot score merges", expected="--data NAME=PATH", got="nothing", fix=fix)
    corpora = {name: read_corpus(path) for name, path in data.items()}
    return {
        name: validation_documents(corpus.documents, heldout_frac, validation_frac, data[name])
        for name, corpus in corpora.items()
    }


def make_bench(
    base_name: str,
    adapters: Mapping[str, Adapter],
    documents: Mapping[str, Sequence[Document]],
    max_tokens: int,
    sequence_length: int,
) -> Bench:
    """Load the base, once, and cut up to `max_tokens` of every column into windows.

    Raises:
        FingerprintMismatch: an adapter was made for another base.
        DataError: a column has no text to score.
    """
    if min(max_tokens, sequence_length) < 1:
        got = f"{max_tokens} and {sequence_length}"
        expected = "tokens to score and a window of 1 token or more"
        raise ConfigError("cannot score merges", expected=expected, got=got, fix="Raise them.")
    base = load_base(base_name)
    base.info.require_context(sequence_length, "sequence length", "Lower --sequence-length.")
    for name, adapter in adapters.items():
        base.info.require(adapter, name)
    windows = {n: heldout_windows(d, base.tokenizer, sequence_length, max_tokens) for n, d in documents.items()}
    if empty := [name for name, some in windows.items() if not some]:
        fix = "Add documents to the corpus."
        raise DataError("cannot score", expected="validation text", got="none", where=empty[0], fix=fix)
    return Bench(base, adapters, windows)


def search_merge(
    bench: Bench, proposals: Sequence[Rule], budget: int, constraints: Constraints | None, on_merge: OnMerge
) -> SearchResult:
    """`search` over merges of the bench's adapters; a column called `GENERAL` has a constraint of its own.

    Args:
        on_merge: called with a description of each merge that was scored.
    """
    names = list(bench.adapters)

    def score(candidate: Candidate) -> dict[str, float]:
        weights = dict(zip(names, candidate.weights, strict=True))
        found = bench.score(bench.merged(candidate.rule, weights))
        on_merge(f"{label(candidate.rule)} at {candidate.rule.scale:g}")
        return found

    general = GENERAL if GENERAL in bench.windows else None
    return search(proposals, names, bench.score(None), score, budget=budget, general=general, constraints=constraints)


def most_merges(num_adapters: int, num_permutations: int) -> int:
    """How many merges `measure_contributions` scores at most."""
    return int(min(2**num_adapters, evaluations_needed(num_adapters, num_permutations) + num_adapters))


def measure_contributions(
    bench: Bench, rule: Rule, weights: Sequence[float] | None, num_permutations: int, seed: int, on_merge: OnMerge
) -> tuple[Effects, Shapley]:
    """Leave-one-out effects and Shapley values by adapter and column, and their mean over the columns.

    Where only some of the adapters are merged, each keeps the share of a mean that it has in the whole.

    Args:
        weights: in the order of the adapters; None for equal ones.
        on_merge: called with a description of each merge that was scored.
    Raises:
        MergeError: too few permutations, settings or weights that cannot work.
    """
    names = list(bench.adapters)
    shares = dict(zip(names, shares_of(rule, weights, len(names)), strict=True))

    @functools.cache
    def value(some: frozenset[str]) -> Mapping[str, float]:
        chosen = [name for name in names if name in some and shares[name] != 0]
        part = {name: shares[name] for name in chosen}
        found = bench.score(bench.merged(part_of(rule, shares, chosen), part) if chosen else None)
        on_merge(" + ".join(chosen) or "base")
        return found if MEAN in found else {**found, MEAN: math.fsum(found.values()) / len(found)}

    found = shapley(names, value, num_permutations, seed)
    return leave_one_out(names, value), found


def shares_of(rule: Rule, weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights as the rule uses them: divided by their sum where it takes a mean.

    Raises:
        WeightError: weights that cannot work.
    """
    raw = [1.0] * count if weights is None else weights
    return normalise_weights(raw, count) if rule.is_normalised else checked_weights(raw, count)


def part_of(rule: Rule, shares: Mapping[str, float], some: Sequence[str]) -> Rule:
    """The rule for some of the adapters, in which each keeps the share that it has in the merge of all.

    A mean divides by the sum of weights, so that fewer adapters would each count for more: its scale is
    multiplied by the part's sum over the whole's. Rules that add up (task_arithmetic, TSV-M), take means
    of those that agree (TIES) or restore a norm (Pico) stay as they are.
    """
    if rule.method not in MEAN_LIKE or rule.calibrate != "none":
        return rule
    return replace(rule, scale=rule.scale * math.fsum(shares[n] for n in some) / math.fsum(shares.values()))
