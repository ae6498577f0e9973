"""Bits per byte of a routed model on held-out windows, and where its gate sends them. Legend: G = `GATE_TOKENS`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cogen.data.pack import Window
from cogen.evaluate.matrix import Cell
from cogen.evaluate.score import nothing_held_out
from cogen.evaluate.scores import RoutingScore
from cogen.routing.folder import COMMON, RoutedModel
from cogen.routing.gate import Choice, likeliest
from cogen.train.likelihood import nats_by_token
from cogen.train.lora import attached
from cogen.train.text_states import GATE_TOKENS, mean_state

if TYPE_CHECKING:
    from cogen.base import Base

POSTERIOR = ":posterior"
Progress = Callable[[str, str, int], None]


@dataclass(frozen=True)
class RoutedScores:
    """Cells of the matrix, and the choices of the gate."""

    cells: tuple[Cell, ...]
    routing: tuple[RoutingScore, ...]


def score_routed(
    base: Base,
    routed: RoutedModel,
    row: str,
    windows: Mapping[str, Sequence[Window]],
    *,
    posterior: bool = False,
    progress: Progress | None = None,
) -> RoutedScores:
    """Score a routed model as it would answer.

    By gate: the gate reads the first G tokens of a window with the base alone. These are scored with the common adapter,
    since nobody is chosen yet, and the others with the one that is chosen.

    By posterior, as row `<row>:posterior`, with rows `<row>:<expert>` for all that it takes: all adapters predict every
    token, each weighted by how well it predicted the tokens before it. With J adapters and the same weight for all at
    the start, a window's likelihood is the mean of theirs: p(x) = 1/J sum_j p_j(x). It costs J passes.

    Args:
        row: name of the model in the matrix.
        windows: domain to its windows.
        progress: called with row, domain and tokens scored.
    Raises:
        DataError: a domain has no windows.
    Source of the posterior: Li et al., Branch-Train-Merge (arXiv 2208.03306).
    """
    for domain, some in windows.items():
        if not some:
            raise nothing_held_out(domain)
    tell = progress or (lambda *_: None)
    choices = {d: list(_choices(base, routed, some)) for d, some in windows.items()}
    nats = {d: [0.0] * len(some) for d, some in windows.items()}
    totals: dict[str, dict[str, list[float]]] = {}
    for name, adapter in routed.opened.items():
        with attached(base.model, dict(adapter.factors)):
            for d, some in windows.items():
                whole, start = _asked(name, choices[d], some, posterior=posterior)
                sums = dict(zip(whole, window_nats(base, [some[i] for i in whole], tell, row, d), strict=True))
                for i, (before, after) in sums.items():
                    if choices[d][i].expert == name:
                        nats[d][i] += after
                    if name == COMMON:
                        nats[d][i] += before
                if posterior:
                    totals.setdefault(d, {})[name] = [sum(sums[i]) for i in range(len(some))]
                first = window_nats(base, [_first(some[i]) for i in start], tell, row, d)
                for i, (before, _) in zip(start, first, strict=True):
                    nats[d][i] += before
    cells = [_cell(row, d, some, nats[d]) for d, some in windows.items()]
    if posterior:
        for name in routed.opened:
            cells += [_cell(f"{row}:{name}", d, some, totals[d][name]) for d, some in windows.items()]
        cells += [_cell(row + POSTERIOR, d, some, _mixed(totals[d].values())) for d, some in windows.items()]
    return RoutedScores(tuple(cells), tuple(_routing(row, d, chosen) for d, chosen in choices.items()))


def _asked(
    name: str, choices: Sequence[Choice], windows: Sequence[Window], *, posterior: bool
) -> tuple[list[int], list[int]]:
    """The windows that an adapter scores to their end, and those of which it scores the first G tokens."""
    ends = [c.expert == name and len(w.tokens) > GATE_TOKENS for c, w in zip(choices, windows, strict=True)]
    whole = [i for i, end in enumerate(ends) if end or posterior]
    return whole, [i for i in range(len(windows)) if name == COMMON and i not in whole]


def window_nats(
    base: Base, windows: Sequence[Window], tell: Progress, row: str, domain: str
) -> Iterator[tuple[float, float]]:
    """-ln p of each window's first G tokens, and of its others, with what is attached now."""
    for some, token_nats in nats_by_token(base, windows):
        at = 0
        for window in some:
            own = token_nats[at : at + len(window.tokens)]
            at += len(own)
            yield float(own[:GATE_TOKENS].sum()), float(own[GATE_TOKENS:].sum())
        tell(row, domain, at)


def _first(window: Window) -> Window:
    """The first G tokens of a window; its bytes are not used."""
    return replace(window, tokens=window.tokens[:GATE_TOKENS])


def _choices(base: Base, routed: RoutedModel, windows: Sequence[Window]) -> Iterator[Choice]:
    for window in windows:
        state, count = mean_state(base, [base.start_id, *window.tokens[:GATE_TOKENS].tolist()])
        yield likeliest(routed.gate.chances(state, count))


def _mixed(totals: Iterable[Sequence[float]]) -> list[float]:
    """-ln of the mean likelihood of each window, from -ln p of each adapter."""
    return [_minus_ln_mean(nats) for nats in zip(*totals, strict=True)]


def _minus_ln_mean(nats: Sequence[float]) -> float:
    least = min(nats)
    return least - math.log(sum(math.exp(least - n) for n in nats) / len(nats))


def _cell(row: str, domain: str, windows: Sequence[Window], nats: Sequence[float]) -> Cell:
    num_bytes, num_tokens = sum(w.num_bytes for w in windows), sum(len(w.tokens) for w in windows)
    return Cell(row, domain, sum(nats) / math.log(2.0) / num_bytes, num_bytes, num_tokens)


def _routing(row: str, domain: str, choices: Sequence[Choice]) -> RoutingScore:
    chance = sum(c.chance for c in choices) / len(choices)
    return RoutingScore(row, domain, dict(Counter(c.expert for c in choices)), chance)
