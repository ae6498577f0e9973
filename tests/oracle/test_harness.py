"""Our scores compared with lm-evaluation-harness, an independent program, on the same texts.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cogen.base import Base
from cogen.data import Document, heldout_windows
from cogen.errors import ConfigError, DataError
from cogen.evaluate.continuation import encode_pair, log_likelihoods
from cogen.evaluate.probes import read_probes, score_probes
from cogen.evaluate.score import evaluate_adapters, score_windows
from cogen.evaluate.tasks import Tasks, find_tasks, score_tasks
from tests.oracle.test_bpb import some_adapter

pytest.importorskip("lm_eval")

FOLDER = Path(__file__).parents[2] / "docs" / "tasks"


def own(*names: str) -> Tasks:
    return find_tasks(names, FOLDER)


@pytest.fixture(scope="module")
def harness(tiny_folder: Path) -> Any:
    """The harness around the tiny base as transformers loads it."""
    from lm_eval.models.huggingface import HFLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    return HFLM(model, tokenizer=AutoTokenizer.from_pretrained(tiny_folder), batch_size=3)


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these tests stays in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def test_log_likelihoods_are_the_harness_s(tiny: Base, harness: Any) -> None:
    """Red: context and continuation encoded apart; EOS in front of the context."""
    probes = read_probes(FOLDER / "grid_terms.jsonl")
    texts = [(p.context, " " + choice) for p in probes for choice in p.choices]
    texts += [("Trailing spaces go over  ", "there"), ("naïve — 中", "文 x"), ("tab\t", "stop")]
    theirs = harness.loglikelihood([SimpleNamespace(args=pair) for pair in texts], disable_tqdm=True)
    ours = log_likelihoods(tiny, [encode_pair(tiny.tokenizer, *pair) for pair in texts])
    assert ours == pytest.approx([nats for nats, _ in theirs], rel=1e-5)
    assert len({round(n, 3) for n in ours}) == len(texts)


def test_bits_per_byte_are_the_harness_s(tiny: Base) -> None:
    """Both put EOS in front of a text (the harness as the prefix of a model without BOS) and predict none at its end.

    Red: no EOS in front; characters in place of bytes.
    """
    rows = [json.loads(line) for line in (FOLDER / "grid_text.jsonl").read_text("utf-8").splitlines()]
    documents = [Document(row["id"], "", row["text"], "") for row in rows]
    windows = heldout_windows(documents, tiny.tokenizer, 512, 10**6)
    assert max(len(w.tokens) for w in windows) < tiny.model.config.max_position_embeddings
    (theirs,) = score_tasks(tiny, own("grid_text"), "base")
    assert (theirs.metric, theirs.num_samples) == ("bits_per_byte", 2)
    ours = score_windows(tiny, windows, "base", "grid").bits_per_byte
    assert ours == pytest.approx(theirs.value, rel=1e-5)


def test_accuracies_are_the_harness_s_and_adapters_count(tiny: Base) -> None:
    """`accuracy_frac` is acc_bytes and `sum_accuracy_frac` is acc. Red: the harness scores the base for every row."""
    adapters = {f"a{seed}": some_adapter(tiny, 0.3, seed) for seed in range(3)}
    probes = read_probes(FOLDER / "grid_terms.jsonl")
    found = evaluate_adapters(tiny, adapters, {}, probes={"grid": probes}, tasks=own("grid_terms", "grid_text"))
    theirs = {(s.model, s.metric): s.value for s in found.tasks}
    assert {s.task for s in found.tasks} == {"grid_terms", "grid_text"}
    assert {m for _, m in theirs} == {"acc", "acc_norm", "acc_bytes", "bits_per_byte"}
    assert len({theirs[row, "bits_per_byte"] for row in ("base", *adapters)}) == 4
    for score in found.probes:
        assert score.accuracy_frac == pytest.approx(theirs[score.model, "acc_bytes"])
        assert score.sum_accuracy_frac == pytest.approx(theirs[score.model, "acc"])
    assert len({(s.accuracy_frac, s.sum_accuracy_frac) for s in found.probes}) > 1


def test_the_base_is_left_as_it_was(tiny: Base) -> None:
    """Scores after the harness ran are those before; the tokenizer gets no padding token."""
    probes = read_probes(FOLDER / "grid_terms.jsonl")
    before = score_probes(tiny, probes, "base", "grid")
    padding, here = tiny.tokenizer.pad_token, Path.cwd()
    score_tasks(tiny, own("grid_terms"), "base")
    assert (score_probes(tiny, probes, "base", "grid"), tiny.tokenizer.pad_token, Path.cwd()) == (before, padding, here)


def test_a_limit_is_kept_and_errors_say_what_is_wrong(tiny: Base, tmp_path: Path) -> None:
    limited = score_tasks(tiny, find_tasks(["grid_terms"], FOLDER, limit=3), "base")
    assert {s.num_samples for s in limited} == {3}
    with pytest.raises(ConfigError, match="a folder with YAML files"):
        find_tasks(["grid_terms"], tmp_path / "none")
    with pytest.raises(ConfigError, match="1 item per task or more, got 0"):
        find_tasks(["grid_terms"], FOLDER, limit=0)
    (tmp_path / "lost.yaml").write_text((FOLDER / "grid_text.yaml").read_text().replace("grid_text", "lost"))
    with pytest.raises(DataError, match=r"cannot run tasks: .*\(lost\)"):
        score_tasks(tiny, find_tasks(["lost"], tmp_path), "base")


@pytest.mark.slow
def test_a_misspelt_task_is_told_apart_from_the_harness_s_own() -> None:
    """Slow: the harness reads some thousands of files to know what it has."""
    with pytest.raises(ConfigError, match=r"got 'grid_term'.*Did you mean 'grid_terms'"):
        find_tasks(["grid_term"], FOLDER)
