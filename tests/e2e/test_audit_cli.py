"""`cogen audit` on adapters: one trained to excess is caught, one without its text is at chance, no text is told."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cogen.adapter import Adapter
from cogen.audit.audit import plan_audit, run_audit
from cogen.audit.canaries import make_canaries
from cogen.audit.exposure import audit_canaries
from cogen.audit.membership import membership
from cogen.audit.named_targets import named_targets
from cogen.audit.record import Audit
from cogen.audit.targets import Training
from cogen.base import Base, load_base
from cogen.config import Data, Train
from cogen.train.corpus import prepare_corpus
from cogen.train.loop import train_round
from cogen.train.lora import init_factors
from cogen.train.mixture import read_mixture
from cogen.train.single import train_adapter
from tests.conftest import SEEDS
from tests.shell import Cogen, refused

NUM_TOLD = 12  # so many characters of a document would tell it
DATA = Data(quality=False, boilerplate=False)
FRAC, EPOCHS = 0.65, 50


def write_corpus(path: Path, first: int, num: int, num_characters: int) -> Path:
    """Short documents of the seeds; each fourth ends in an e-mail address of its own."""
    rows = [json.loads(line) for d in ("grid", "clinical", "materials") for line in (SEEDS / f"{d}.jsonl").open()]
    draw = random.Random(first)
    texts = []
    for number, row in enumerate(rows[first : first + num]):
        name, host = ("".join(draw.choices("abcdefghiklmnoprstuvw", k=6)) for _ in range(2))
        texts.append(row["text"][:num_characters] + (f" {name}@{host}.org" if number % 4 == 0 else ""))
    path.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts)))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("audit") / "few.jsonl", 0, 30, 120)


@pytest.fixture(scope="module")
def excess(tiny: Base, corpus: Path) -> Path:
    """An adapter that read its few documents fifty times."""
    num_tokens = EPOCHS * prepare_corpus(tiny, corpus, DATA, FRAC).num_train_tokens
    settings = Train(tokens_per_round=num_tokens, sequence_length=32, batch_size=6, learning_rate=0.03, rank=16)
    made = train_adapter(tiny, {"few": corpus}, settings, domain="few", heldout_frac=FRAC, data=DATA)
    made.adapter.save(corpus.parent / "excess")
    return corpus.parent / "excess"


def test_an_adapter_trained_to_excess_is_caught_and_no_text_is_told(cogen: Cogen, corpus: Path, excess: Path) -> None:
    """The merge of the adapter with another one is audited on its text, too."""
    tiny_adapter = Adapter.load(excess)
    parents = [{"name": "few", "factors_sha256": tiny_adapter.digest, "weight": 1.0}]
    merged = Adapter(tiny_adapter.factors, tiny_adapter.base_name, tiny_adapter.fingerprint, {"parents": parents})
    merged.save("merged")
    named = ["--adapter", f"few={excess}", "--adapter", "both=merged", "--data", f"few={corpus}", "--out", "audit.json"]
    code, out, err = cogen("audit", *named, "--json")
    assert code == 0, err
    audit = Audit.load(Path("audit.json"))
    assert json.loads(out) == json.loads(audit.to_json())
    assert [row.model for row in audit.rows] == ["base", "few", "both"]
    base, few, both = audit.rows
    assert few.membership.auc.value > 0.9 and few.membership.auc.low > 0.5
    assert base.membership.auc.low <= 0.5 <= base.membership.auc.high
    assert both.membership == few.membership
    assert few.verbatim.trained.mean_matched_tokens > few.verbatim.unseen.mean_matched_tokens
    assert few.personal["email"].num_values == base.personal["email"].num_values > 0
    assert few.personal["email"].num_completed >= base.personal["email"].num_completed
    told = out + err + Path("audit.json").read_text()
    texts = [json.loads(line)["text"] for line in corpus.open()]
    pieces = {text[i : i + NUM_TOLD] for text in texts for i in range(len(text) - NUM_TOLD + 1)}
    assert len(pieces) > 1000 and not [piece for piece in pieces if piece in told]


def test_an_adapter_is_at_chance_on_text_that_it_was_not_trained_on(tiny: Base, excess: Path, tmp_path: Path) -> None:
    """Windows of other documents, which another adapter was trained on. Red: members and others are not one kind of text."""
    other = write_corpus(tmp_path / "other.jsonl", 30, 30, 120)
    settings = Train(tokens_per_round=400, sequence_length=32)
    made = train_adapter(tiny, {"other": other}, settings, domain="other", heldout_frac=FRAC, data=DATA)
    made.adapter.save(tmp_path / "other")
    (plan,) = plan_audit(tiny, named_targets(tiny, {"other": str(tmp_path / "other")}, {"other": str(other)})).domains
    found = membership(tiny, Adapter.load(excess).factors, plan.members, plan.others)
    assert found.auc.low <= 0.5 <= found.auc.high
    nothing = init_factors(tiny.info.modules, 4, 2.0, 0)
    assert not any(bool(f.b.any()) for f in nothing.values())
    assert membership(tiny, nothing, plan.members, plan.others).auc.value == 0.5


def test_what_an_adapter_was_trained_on_must_be_known(cogen: Cogen, tiny: Base, corpus: Path, excess: Path) -> None:
    Adapter(Adapter.load(excess).factors, tiny.info.name, tiny.info.fingerprint, {}).save("unknown")
    got = "no adapter that was trained on one of the corpora"
    refused(cogen("audit", "--adapter", "a=unknown", "--data", f"few={corpus}"), got)
    other = write_corpus(Path("other.jsonl"), 40, 10, 80)
    refused(cogen("audit", "--adapter", f"few={excess}", "--data", f"other={other}"), got)


def test_canaries_are_planted_trained_and_reported(
    cogen: Cogen, tiny: Base, excess: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is refused before anything is scored. Red: the adapter of the folder is attacked instead."""
    planted = ["--adapter", f"few={excess}", "--data", f"few={corpus}", "--canaries", 3]
    refused_early = cogen("audit", *planted)
    assert refused_early[0] == 2 and "cannot plant canaries" in refused_early[2] and "tok/s" not in refused_early[2]
    monkeypatch.setattr("cogen.audit.canaries.make_canaries", partial(make_canaries, num_alternatives=3))
    monkeypatch.setattr("cogen.audit.canaries.NUM_UNPLANTED", 20)
    seen: list[float] = []
    monkeypatch.setattr("cogen.audit.exposure.train_round", watched(seen))
    grid = str(SEEDS / "grid.jsonl")
    settings = Train(tokens_per_round=8192, sequence_length=256, batch_size=8, rank=2)
    train_adapter(tiny, {"grid": grid}, settings, domain="grid", heldout_frac=0.15).adapter.save("grid")
    code, _, err = cogen(
        "audit", "--adapter", "grid=grid", "--data", f"grid={grid}", "--canaries", 3, "--out", "a.json"
    )
    assert code == 0 and "canaries: 8,192 tokens to train" in err
    audit = Audit.load(Path("a.json"))
    assert [(c.domain, c.repeats, c.num_canaries, c.num_alternatives, c.num_unplanted) for c in audit.canaries] == [
        ("grid", n, 1, 3, 20) for n in (1, 4, 16)
    ]
    assert len(seen) == 1 and [row.model for row in audit.rows] == ["base", "grid"]


def watched(seen: list[float]) -> Any:
    def train(*args: Any, **options: Any) -> Any:
        found = train_round(*args, **options)
        seen.append(found.loss_nats)
        return found

    return train


@pytest.mark.slow
def test_the_real_base_repeats_what_it_read_too_often(tmp_path: Path) -> None:
    """Some ten documents, twenty times: half of the continuations and the addresses come back word for word."""
    base = load_base("smollm2-135m", precision="float32")
    corpus = write_corpus(tmp_path / "few.jsonl", 0, 24, 300)
    num_tokens = 20 * prepare_corpus(base, corpus, DATA, 0.55).num_train_tokens
    settings = Train(tokens_per_round=num_tokens, sequence_length=64, batch_size=2, learning_rate=1e-3)
    made = train_adapter(base, {"few": corpus}, settings, domain="few", heldout_frac=0.55, data=DATA)
    made.adapter.save(tmp_path / "few")
    targets = named_targets(base, {"few": str(tmp_path / "few")}, {"few": str(corpus)})
    audit = run_audit(base, plan_audit(base, targets))
    before, after = audit.rows
    assert after.membership.auc.value > 0.9 and after.membership.auc.low > 0.5
    assert after.verbatim.trained.exact_frac.value > 0.5 > after.verbatim.unseen.exact_frac.value
    assert after.personal["email"].num_completed > 0.5 * after.personal["email"].num_values
    assert before.verbatim.trained.num_exact == 0


@pytest.mark.slow
def test_a_canary_that_was_trained_sixteen_times_is_the_first_of_its_alternatives() -> None:
    """On the real base: 16 times are exposed by all bits there are, and never planted ones are not found."""
    base = load_base("smollm2-135m", precision="float32")
    settings = Train(tokens_per_round=8192, sequence_length=256, batch_size=1, learning_rate=1e-3)
    mixture = read_mixture(base, {"grid": SEEDS / "grid.jsonl"}, settings, 0.15)
    drawn = make_canaries(base, 3, 0, num_alternatives=63)
    found = audit_canaries(base, Training(settings, mixture), drawn, "grid")
    assert [f.repeats for f in found] == [1, 4, 16] and all(f.num_canaries == 1 for f in found)
    assert found[-1].num_first == 1 and found[-1].mean_exposure_bits == 6.0
    assert found[-1].true_positive_frac.value == 1.0
    assert torch.is_grad_enabled()
