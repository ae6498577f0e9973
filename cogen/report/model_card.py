"""MODEL_CARD.md of a merged adapter: its use, scores, data, settings and origin. It quotes no text of any domain.

The head is that of the Hugging Face hub's model cards, so that the file can be published as README.md without a change.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cogen.base_fetch import KNOWN_BASES, Packaged, without_path
from cogen.evaluate.matrix import BASE, COMBINED, Evaluation
from cogen.evaluate.scores import ProbeScore, QuestionScore, TaskScore
from cogen.report.audit_box import audit_markdown
from cogen.report.headline import forgetting, headline, verdict
from cogen.report.markdown import escaped, markdown_table
from cogen.report.record import RunRecord
from cogen.report.units import count, decimals, percent

S = TypeVar("S", ProbeScore, QuestionScore, TaskScore)
MODEL_CARD = "MODEL_CARD.md"
SETTINGS = (
    ("federation", ("schedule", "num_rounds", "method", "server_learning_rate", "weighting")),
    ("train", ("tokens_per_round", "sequence_length", "learning_rate", "rank", "seed")),
    ("evaluate", ("heldout_frac", "max_heldout_tokens")),
)
LIMITS = """\
- The scores above are on held-out text of the corpora that it was trained on. They say how well the model predicts
  such text, not whether what it writes is true. Small models make things up.
- **An adapter can reveal text that it was trained on to people who probe it.** It was trained without differential
  privacy, and an audit shows only what known attacks find. Ask every domain before you publish it.
- It fits only the base whose hashes are listed below.
- No licence has been chosen: it depends on the licences of the base and of every domain's text."""


def model_card(record: RunRecord) -> str:
    """The card as Markdown with its head; every name of the run is escaped."""
    parts = [
        f"---\n{_head(record)}\n---\n",
        f"# {escaped(record.name)}, combined adapter\n",
        f"A LoRA adapter for `{_base(record)}`, combined from {_made_of(record)} with CO-GEN: every domain continued "
        "pretraining on its own documents, and the adapters were merged. The documents did not leave their domains.\n",
        f"## Use\n\n{_use(record)}\n",
        f"## Measured\n\n{_measured(record)}\n",
        f"## What this model remembers\n\n{audit_markdown(record)}\n",
        f"## Data\n\n{_data(record)}\n",
        f"## Method\n\n{_method(record)}\n",
        f"## Limits\n\n{LIMITS}\n",
        f"## Provenance\n\n{_provenance(record)}\n",
    ]
    return "\n".join(parts)


def _head(record: RunRecord) -> str:
    """YAML for the hub, written by the hub's own library, so that no name can break it."""
    from huggingface_hub import EvalResult, ModelCardData

    scores = _scores(record)
    # The library groups results by dataset; only the config keeps two datasets apart.
    results = [
        EvalResult(
            "text-generation", "private", f"held-out text of {d}", "bits_per_byte", round(v, 4), dataset_config=d
        )
        for d, v in scores.items()
    ]
    known = KNOWN_BASES.get(_base(record))
    data = ModelCardData(
        base_model=known.repo_id if known else _base(record) or None,
        library_name="peft",
        license="unknown",
        tags=["cogen", "lora", "continual-pretraining", "federated-learning", "merge"],
        pipeline_tag="text-generation",
        model_name=record.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _base(record: RunRecord) -> str:
    """The base's name; of a path, which may tell who made the run, the last part alone."""
    merged = record.artifacts.merged
    name = (merged.base if merged else "") or (record.started.base if record.started else "")
    return without_path(name)


def _made_of(record: RunRecord) -> str:
    merged = record.artifacts.merged
    names = [parent.name for parent in merged.parents] if merged and merged.parents else list(record.domains)
    return f"{len(names)} domains ({', '.join(map(escaped, names))})" if names else "several domains"


def _use(record: RunRecord) -> str:
    base = _base(record)
    text = f'from cogen import load_base\nfrom peft import PeftModel\n\nbase = load_base("{base}")\n'
    code = f'```python\n{text}model = PeftModel.from_pretrained(base.model, "merged")\n```'
    return f'{code}\n\nReplace "merged" with the folder of this card.{_origin(base)}'


def _origin(base: str) -> str:
    """Where the weights of a known base come from; a packaged one has them from a 4-bit file."""
    known = KNOWN_BASES.get(base)
    if known is None:
        return ""
    if isinstance(known, Packaged):
        return f" `{base}` has the weights of `{known.repo_id}`, taken from a 4-bit file."
    return f" `{base}` is `{known.repo_id}` at revision `{known.revision}`."


def _scores(record: RunRecord) -> dict[str, float]:
    evaluation = record.evaluation
    found = {d: evaluation.bits_per_byte(COMBINED, d) for d in evaluation.domains} if evaluation else {}
    return {d: value for d, value in found.items() if value is not None}


def _measured(record: RunRecord) -> str:
    sentences = [s for s in (verdict(record.artifacts.seed_summary), headline(record), forgetting(record)) if s]
    evaluation = record.evaluation
    if evaluation is None or not evaluation.cells:
        return "\n\n".join(["\n".join(sentences), *(_further_scores(evaluation) if evaluation else [])])
    rows = [[m, *(decimals(evaluation.bits_per_byte(m, d)) for d in evaluation.domains)] for m in evaluation.models]
    changes = [_change(evaluation, d) for d in evaluation.domains]
    if any(changes):
        rows.append(["combined against base", *changes])
    table = markdown_table(["bits per byte", *evaluation.domains], rows)
    seeds = record.artifacts.seed_summary.seeds if record.artifacts.seed_summary else [0]
    spread = "" if len(seeds) > 1 else " One seed, so the spread is not known."
    text = f"{' '.join(map(escaped, sentences))}\n\nBits per byte on held-out text, lower is better.{spread}\n\n{table}"
    text += "".join(f"\n\nNot measured: {escaped('; '.join(gaps))}." for gaps in [evaluation.gaps()] if gaps)
    return "\n\n".join([text, *_further_scores(evaluation)])


def _further_scores(evaluation: Evaluation) -> Iterator[str]:
    """Probes, questions and benchmarks, a table each."""
    rows = [
        [
            s.model,
            s.domain,
            count(s.num_probes),
            percent(s.accuracy_frac, 1),
            f"{percent(s.low_frac, 1)} to {percent(s.high_frac, 1)}",
            percent(s.chance_frac, 1),
            percent(s.calibration_error_frac, 1),
        ]
        for s in _relevant(evaluation.probes)
    ]
    if rows:
        header = ["multiple choice", "domain", "probes", "right", "95% interval", "chance", "ECE"]
        yield f"Multiple-choice probes, answered without the text at hand. ECE is the expected calibration error.\n\n{markdown_table(header, rows)}"
    rows = [
        [
            s.model,
            s.domain,
            count(s.num_answerable),
            percent(s.right_frac),
            count(s.num_unanswerable),
            percent(s.made_up_frac),
        ]
        for s in _relevant(evaluation.questions)
    ]
    if rows:
        header = ["free answers", "domain", "with an answer", "right", "without one", "made up"]
        yield f"Answers in free text. An answer to a question that has none is made up, unless the model abstains.\n\n{markdown_table(header, rows)}"
    rows = [[s.model, s.task, s.metric, decimals(s.value), decimals(s.stderr)] for s in _relevant(evaluation.tasks)]
    if rows:
        header = ["benchmark", "task", "metric", "value", "standard error"]
        yield f"Tasks of lm-evaluation-harness.\n\n{markdown_table(header, rows)}"


def _relevant(scores: Sequence[S]) -> list[S]:
    """The scores of the combined model and of the base; all scores where neither has one."""
    return [s for s in scores if s.model in (BASE, COMBINED)] or list(scores)


def _change(evaluation: Evaluation, domain: str) -> str:
    base, mine = evaluation.bits_per_byte(BASE, domain), evaluation.bits_per_byte(COMBINED, domain)
    return "" if not base or mine is None else percent(mine / base - 1, 1, signed=True)


def _data(record: RunRecord) -> str:
    trained = {d: sum(r.num_tokens for r in record.replies if r.domain == d) for d in record.domains}
    data = record.artifacts.run_metadata.data if record.artifacts.run_metadata else {}
    header = ["domain", "documents", "their tokens", "tokens trained", "held-out documents", "held-out tokens"]
    rows = []
    for domain in record.domains:
        d = data.get(domain)
        have = (d.num_documents, d.num_tokens) if d else (None, None)
        held = (d.num_heldout_documents, d.num_heldout_tokens) if d else (None, None)
        rows.append([domain, *map(count, (*have, trained[domain], *held))])
    note = "" if data else "\n\nThe run folder does not say how many documents the domains have."
    return f"Amounts only; the text stays with the domains.\n\n{markdown_table(header, rows)}{note}"


def _method(record: RunRecord) -> str:
    """The most important settings; the run's config.toml has all of them."""
    try:
        config: dict[str, Any] = tomllib.loads(record.config)
    except tomllib.TOMLDecodeError:
        config = {}
    found = [[f"{t}.{key}", str(config[t][key])] for t, keys in SETTINGS for key in keys if key in config.get(t, {})]
    rounds = "In every round each domain trains the adapter on its own text, and the server merges the updates."
    if record.is_relay:
        rounds = (
            "In every round the adapter visits the domains in turn; each trains it on its own text and passes it on."
        )
    return f"{rounds}\n\n{markdown_table(['setting', 'value'], found)}" if found else rounds


def _provenance(record: RunRecord) -> str:
    merged, metadata = record.artifacts.merged, record.artifacts.run_metadata
    rows = []
    if merged:
        rows += [[f"base, {name}", digest] for name, digest in (merged.fingerprint or {}).items()]
        rows += [["this adapter", merged.factors_sha256]] if merged.factors_sha256 else []
        for parent in merged.parents:
            weight = "" if parent.weight is None else f", weight {parent.weight:.4g}"
            rows.append([f"{parent.name}{weight}", parent.factors_sha256])
    versions = ", ".join(f"{name} {version}" for name, version in (metadata.versions if metadata else {}).items())
    table = markdown_table(["sha256 of", "value"], rows) if rows else "There are no hashes in the run folder."
    return f"{table}\n\nVersions: {versions}." if versions else table


def card_path(run: Path) -> Path:
    """The path of the card of a run's merged adapter."""
    return run / "merged" / MODEL_CARD
