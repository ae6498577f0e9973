"""Multiple-choice probes: which of several continuations a model finds most likely."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cogen.evaluate.calibration import calibration_error, mean_interval
from cogen.evaluate.continuation import Continuation, encode_pair, log_likelihoods
from cogen.evaluate.records import bad_record, read_records, text_of, texts_of
from cogen.evaluate.scores import ProbeScore

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from cogen.base import Base

WHAT = "probes"


@dataclass(frozen=True)
class Probe:
    """A context, of whose continuations one is right.

    Args:
        context: what the model reads before a choice, without a space at its end.
        choices: each is scored after the context and a space.
        answer: index of the right one.
        document: id of the text that it was made from, if any.
    """

    id: str
    context: str
    choices: tuple[str, ...]
    answer: int
    document: str = ""


def as_prompt(question: str) -> str:
    """What a model reads before its answer."""
    return f"Question: {question}\nAnswer:"


def read_probes(path: str | Path) -> tuple[Probe, ...]:
    """Probes from a file with one a line: `id`, `choices`, `answer`, and `question` or `context`.

    A question is put as `Question: ...`, newline, `Answer:`; a context stands as it is.

    Raises:
        DataError: no such file, or a line that is no probe.
    """
    return read_records(path, WHAT, _probe)


def _probe(values: Mapping[str, Any], where: str) -> Probe:
    if ("question" in values) == ("context" in values):
        got = "both" if "question" in values else f"keys {', '.join(sorted(map(str, values)))}"
        raise bad_record(WHAT, "a question or a context", got, where)
    if "question" in values:
        context = as_prompt(text_of(values, "question", WHAT, where).strip())
    else:
        context = text_of(values, "context", WHAT, where).rstrip()
    choices = texts_of(values, "choices", WHAT, where)
    if len(choices) < 2:
        raise bad_record(WHAT, "two choices or more", str(len(choices)), where)
    answer = values.get("answer")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise bad_record(WHAT, f"answer as an index from 0 to {len(choices) - 1}", repr(answer), where)
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
    """Score whatever is attached to the base now.

    Args:
        probes: one or more.
        progress: called with the tokens read, after each batch.
    """
    nats = log_likelihoods(base, probe_pairs(probes, base.tokenizer), progress)
    return sum_up(probes, nats, model, domain)


def sum_up(probes: Sequence[Probe], nats: Sequence[float], model: str, domain: str) -> ProbeScore:
    """Accuracies and calibration from the log-likelihoods of all choices, in order; of equal ones the first is taken.

    `accuracy_frac` takes the choice of most log-likelihood per UTF-8 byte (without the space before it),
    lm-evaluation-harness's `acc_bytes`, since a sum favours short choices; its `acc_norm` divides by
    characters. `sum_accuracy_frac` is its `acc`. Calibration is of the softmax over the sums: p(choice),
    given that one of the choices follows; divided by bytes they are no log-probabilities of anything.
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
