"""`cogen data` as a user runs it: the card, what was dropped and why, the settings, and mistakes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from cogen.base import Base
from cogen.config import Train
from cogen.data import Document
from cogen.data.card import DataCard
from cogen.data.pack import heldout_windows
from cogen.evaluate.score import score_windows
from cogen.train.corpus import score_documents
from cogen.train.throughput import measure_rate, rate_between
from tests.conftest import SEEDS
from tests.shell import Cogen

SEED_TEXTS = [json.loads(line)["text"] for line in (SEEDS / "grid.jsonl").read_text().splitlines()]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The 32 seeds on grids, one again, one nearly, a title, personal data, and a file of another kind."""
    folder = tmp_path / "notes"
    folder.mkdir()
    seeds = [json.loads(line) for line in (SEEDS / "grid.jsonl").read_text().splitlines()]
    extra = [
        {"id": "same", "text": seeds[3]["text"]},
        {"id": "near", "text": seeds[5]["text"].replace(" the ", " this ", 1)},
        {"id": "title", "text": "Figure 3"},
        {
            "id": "person",
            "text": "The clerk in the office of the grid has the address jane@example.org and likes to be asked.",
        },
    ]
    (folder / "grid.jsonl").write_text("\n".join(map(json.dumps, [*seeds, *extra])))
    (folder / "tool.exe").write_bytes(b"MZ")
    return folder


def test_the_card_says_what_became_of_every_document(cogen: Cogen, corpus: Path, tiny_folder: Path) -> None:
    code, out, err = cogen("data", corpus, "--base", tiny_folder, "--json", "--heldout-frac", 0.15)
    assert code == 0, err
    card = json.loads(out)
    folder = Path(card.pop("out"))
    assert folder == Path("cards/notes")
    read = DataCard.from_json((folder / "card.json").read_text(), "card.json")
    assert read == DataCard.from_json(json.dumps(card), "stdout")
    assert read.read.num_documents == 36 and read.num_documents == 33
    assert {reason: amount.num_documents for reason, amount in read.dropped.items()} | {"near": 1} == {
        "exact duplicate": 1,
        "quality: number of words": 1,
        "near": 1,
        next(reason for reason in read.dropped if reason.startswith("near-duplicate")): 1,
    }
    assert read.personal_data == {"email": 1} and read.languages == {"en": 33}
    assert [Path(left.file).name for left in read.skipped] == ["tool.exe"]
    assert read.cost is not None and read.cost.tokens_per_second > 0 and read.cost.adapter_mb > 0
    page = (folder / "card.html").read_text()
    assert "jane" not in page + out and "Figure 3" not in page


def test_text_and_settings(cogen: Cogen, corpus: Path, tiny_folder: Path, tmp_path: Path) -> None:
    options = (
        "--base",
        tiny_folder,
        "--out",
        tmp_path / "card",
        "--no-cost",
        "--redact",
        "--set",
        "data.quality=false",
    )
    code, out, err = cogen("data", corpus, *options)
    assert code == 0, err
    assert "in 34 documents" in out or "tokens to train on" in out
    assert "1 email (replaced)" in out and "quality" not in out and "Training on it here" not in out
    assert out.rstrip().endswith("card.html")
    assert json.loads((tmp_path / "card" / "card.json").read_text())["cost"] is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--set", "federation.num_rounds=2"), "expected data.KEY=VALUE"),
        (("--set", "data.qualty=false"), "Did you mean 'quality'?"),
        (("--set", "data.near_duplicate_jaccard=1.5"), "data.near_duplicate_jaccard"),
        (("--heldout-frac", "0"), "evaluate.heldout_frac"),
    ],
)
def test_mistakes_are_one_line(
    cogen: Cogen, corpus: Path, tiny_folder: Path, options: tuple[str, ...], expected: str
) -> None:
    code, out, err = cogen("data", corpus, "--base", tiny_folder, "--no-cost", *options)
    assert code == 2 and out == "" and expected in err and "Traceback" not in err
    assert not Path("cards").exists()


def test_strict_stops_at_a_file_that_is_skipped_otherwise(cogen: Cogen, corpus: Path, tiny_folder: Path) -> None:
    (corpus / "old.txt").write_bytes(b"caf\xe9 au lait")
    code, _, err = cogen("data", corpus, "--base", tiny_folder, "--no-cost", "--strict")
    assert code == 2 and "old.txt" in err
    code, out, _ = cogen("data", corpus, "--base", tiny_folder, "--no-cost")
    assert code == 0 and "old.txt" in out


def test_the_perplexity_filter_drops_what_lies_outside(
    cogen: Cogen, corpus: Path, tiny_folder: Path, tiny: Base
) -> None:
    """The bounds are set around the scores of the documents; the base is a random one."""
    documents = [Document(str(n), "", line, "") for n, line in enumerate(texts(corpus))]
    scores = sorted(score_documents(tiny, documents))
    low, high = (scores[1] + scores[2]) / 2, (scores[-3] + scores[-2]) / 2
    settings = (f"data.min_bits_per_byte={low}", f"data.max_bits_per_byte={high}", "data.quality=false")
    switches = [word for text in settings for word in ("--set", text)]
    code, out, err = cogen(
        "data", corpus, "--base", tiny_folder, "--no-cost", "--json", "--perplexity-filter", *switches
    )
    assert code == 0, err
    dropped = {reason: amount["num_documents"] for reason, amount in json.loads(out)["dropped"].items()}
    assert dropped["too predictable"] in (1, 2) and dropped["gibberish to the base"] in (1, 2)
    assert json.loads(out)["settings"]["max_bits_per_byte"] == high


def texts(corpus: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (corpus / "grid.jsonl").read_text().splitlines()]


def test_perplexity_is_scored_for_each_document_alone(tiny: Base) -> None:
    documents = [Document(str(n), "", text[: 40 + 30 * n], "") for n, text in enumerate(SEED_TEXTS[:12])]
    scores = score_documents(tiny, documents, window_tokens=64)
    for document, score in zip(documents, scores, strict=True):
        window = heldout_windows([document], tiny.tokenizer, 64, 1)
        assert score == pytest.approx(score_windows(tiny, window, "base", "one").bits_per_byte, rel=1e-5)
    assert len(set(scores)) == 12


def test_the_rate_counts_tokens_over_seconds(tiny: Base) -> None:
    assert rate_between([3.0, 4.0, 7.0], 64) == 2 * 64 / 4.0
    document = np.array([*tiny.tokenizer(" ".join(SEED_TEXTS))["input_ids"], tiny.eos_id], dtype=np.int32)
    began = time.monotonic()
    rate = measure_rate(tiny, [document], Train(sequence_length=64, rank=4))
    assert 0 < 2 * 64 / rate < time.monotonic() - began
    assert not any("lora" in name for name, _ in tiny.model.named_parameters()), "the base is as it was"
