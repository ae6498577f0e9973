"""Multiple-choice probes: which of several continuations has the highest likelihood under a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cogen.evaluate.continuation import Continuation, encode_pair, log_likelihoods
from cogen.evaluate.items import bad_item, read_items, text_of, texts_of
from cogen.evaluate.scores import ProbeScore

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from cogen.base import Base

WHAT = "probes"
NUM_BINS = 10
NUM_RESAMPLES = 2000
CONFIDENCE_FRAC = 0.95


@dataclass(frozen=True)
class Probe:
    """A context with several continuations, one of which is right.

    Args:
        context: the text before a choice, without a space at its end.
        choices: continuations; each is scored after the context and a space.
        answer: index of the right choice.
        document: id of the document that the probe was made from, or empty.
    """

    id: str
    context: str
    choices: tuple[str, ...]
    answer: int
    document: str = ""


def as_prompt(question: str) -> str:
    """The text of a question that a model reads before its answer."""
    return f"Question: {question}\nAnswer:"


def read_probes(path: str | Path) -> tuple[Probe, ...]:
    """Read probes, one per line: `id`, `choices`, `answer`, and `question` or `context`.

    A question becomes `Question: ...`, newline, `Answer:`; a context is used unchanged.

    Raises:
        DataError: the file is missing, or a line is not a probe.
    """
    return read_items(path, WHAT, _probe)


def _probe(values: Mapping[str, Any], where: str) -> Probe:
    if ("question" in values) == ("context" in values):
        got = "both" if "question" in values else f"keys {', '.join(sorted(map(str, values)))}"
        raise bad_item(WHAT, "a question or a context", got, where)
    if "question" in values:
        context = as_prompt(text_of(values, "question", WHAT, where).strip())
    else:
        context = text_of(values, "context", WHAT, where).rstrip()
    choices = texts_of(values, "choices", WHAT, where)
    if len(choices) < 2:
        raise bad_item(WHAT, "two choices or more", str(len(choices)), where)
    answer = values.get("answer")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise bad_item(WHAT, f"answer as an index from 0 to {len(choices) - 1}", repr(answer), where)
    document = values.get("document")
    return Probe(
        text_of(values, "id", WHAT, where), context, choices, answer, "" if document is None else str(document)
    )


def probe_pairs(probes: Sequence[Probe], tokenizer: PreTrainedTokenizerBase) -> list[Continuation]:
    """Every choice of every probe, in order, as the continuation of its context."""
    return [encode_pair(tokenizer, p.context, " " + choice) for p in probes for choice in p.choices]


def score_probes(
    base: Base,
    probes: Sequence[Probe],
    model: str,
    domain: str,
    progress: Callable[[int], None] | None = None,
) -> ProbeScore:
    """Score the base with the adapter that is attached to it now.

    Args:
        probes: one or more.
        progress: called after each batch with the number of tokens read.
    """
    nats = log_likelihoods(base, probe_pairs(probes, base.tokenizer), progress)
    return sum_up(probes, nats, model, domain)


def sum_up(probes: Sequence[Probe], nats: Sequence[float], model: str, domain: str) -> ProbeScore:
    """Accuracies and calibration from the log-likelihoods of all choices, in order. The first of equal choices counts.

    `accuracy_frac` takes the choice with the highest log-likelihood per UTF-8 byte (without the space before it), as
    `acc_bytes` of lm-evaluation-harness does, because a sum favours short choices. (The harness's `acc_norm` divides
    by characters.) `sum_accuracy_frac` is the harness's `acc`. Calibration uses the softmax over the sums, which is
    p(choice | one of the choices follows). Sums divided by bytes are not log-probabilities, so they are not used for it.
    """
    edges = np.cumsum([len(p.choices) for p in probes])[:-1]
    by_probe = np.split(np.asarray(nats, dtype=np.float64), edges)
    by_bytes = [bool(np.argmax(n / _num_bytes(p)) == p.answer) for p, n in zip(probes, by_probe, strict=True)]
    by_sum = [bool(np.argmax(n) == p.answer) for p, n in zip(probes, by_probe, strict=True)]
    low, high = mean_interval(by_bytes)
    return ProbeScore(
        model=model,
        domain=domain,
        num_probes=len(probes),
        accuracy_frac=float(np.mean(by_bytes)),
        low_frac=low,
        high_frac=high,
        sum_accuracy_frac=float(np.mean(by_sum)),
        chance_frac=float(np.mean([1.0 / len(p.choices) for p in probes])),
        calibration_error_frac=calibration_error([float(_softmax(n).max()) for n in by_probe], by_sum),
    )


def _num_bytes(probe: Probe) -> NDArray[np.float64]:
    return np.array([len(choice.encode()) for choice in probe.choices], dtype=np.float64)


def _softmax(nats: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted: NDArray[np.float64] = np.exp(nats - nats.max())
    shares: NDArray[np.float64] = shifted / shifted.sum()
    return shares


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean: percentiles of the means of seeded resamples of one or more values.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    found = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(found), (NUM_RESAMPLES, len(found)))
    tail = 50.0 * (1.0 - CONFIDENCE_FRAC)
    low, high = np.percentile(found[picks].mean(axis=1), [tail, 100.0 - tail])
    return float(low), float(high)


def calibration_error(confidences: Sequence[float], is_right: Sequence[bool]) -> float:
    """Expected calibration error: sum over bins b of n_b / n * |fraction right in b - mean confidence in b|.

    Ten bins of equal width; each includes its upper edge. A calibrated model has 0. With few values part of the error
    is noise.

    Args:
        confidences: one or more, in [0, 1].
    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(is_right, dtype=np.float64)
    inner_edges = np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1]
    off = np.bincount(np.searchsorted(inner_edges, sure), weights=right - sure, minlength=NUM_BINS)
    return float(np.abs(off).sum() / len(sure))
