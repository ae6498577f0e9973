"""Bits per byte against closed forms and against transformers' stock forward, one token at a time.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import cogen.train.likelihood as likelihood
from cogen.adapter import Adapter, Factors
from cogen.base import Base, load_base
from cogen.data import Document, Window, heldout_windows
from cogen.errors import DataError, FingerprintMismatch
from cogen.evaluate.score import evaluate_adapters, score_windows
from cogen.train.lora import attached

TEXTS = (
    "The feeder tripped at 14:02; a second relay held.",
    "Na\u00efve caf\u00e9 \u2014 \u4e2d\u6587 \u2192 5 \u00b0C",
    "An expansion joint lets a long wall move with the seasons without cracking it. " * 2,
)


@pytest.fixture(scope="module")
def stock(tiny_folder: Path) -> Any:
    """The tiny base once more, as transformers alone loads and runs it."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def windows_of(base: Base, texts: Sequence[str] = TEXTS, sequence_length: int = 500) -> list[Window]:
    documents = [Document(id=str(i), title="", text=t, source="") for i, t in enumerate(texts)]
    return heldout_windows(documents, base.tokenizer, sequence_length, 10**6)


@torch.no_grad()
def token_by_token(model: Any, eos: int, ids: Sequence[int]) -> float:
    """Nats of `ids` after EOS, each from a forward of its own over what is before it."""
    nats = 0.0
    for i, token in enumerate(ids):
        context = torch.tensor([[eos, *ids[:i]]])
        nats -= float(torch.log_softmax(model(input_ids=context).logits[0, -1].double(), dim=0)[token])
    return nats


@torch.no_grad()
def in_one_forward(model: Any, eos: int, ids: Sequence[int]) -> float:
    logits = model(input_ids=torch.tensor([[eos, *ids[:-1]]])).logits[0].double()
    return -float(torch.log_softmax(logits, dim=1)[torch.arange(len(ids)), torch.tensor(ids)].sum())


def some_adapter(base: Base, size: float, seed: int = 0) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    factors = {
        n: Factors(torch.randn(3, i, generator=g) * size, torch.randn(o, 3, generator=g) * size, 1.0)
        for n, (o, i) in base.info.modules.items()
    }
    return Adapter(factors, base.info.name, base.info.fingerprint)


def test_a_uniform_model(tiny: Base) -> None:
    """All logits equal: log2(V) bits a token. Red: EOS among the predicted tokens; nats taken for bits."""
    model = copy.deepcopy(tiny.model)
    head = torch.nn.Linear(32, 512, bias=False)
    torch.nn.init.zeros_(head.weight)
    model.set_output_embeddings(head)
    assert model.get_input_embeddings().weight.abs().max() > 0
    windows = windows_of(tiny)
    cell = score_windows(replace(tiny, model=model), windows, "uniform", "grid")
    tokens = sum(len(tiny.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TEXTS)
    num_bytes = sum(len(t.encode()) for t in TEXTS)
    assert num_bytes > sum(len(t) for t in TEXTS)
    assert (cell.model, cell.domain, cell.num_tokens, cell.num_bytes) == ("uniform", "grid", tokens, num_bytes)
    assert cell.bits_per_byte == pytest.approx(math.log2(512) * tokens / num_bytes, rel=1e-6)


def test_one_token_at_a_time(tiny: Base, stock: Any) -> None:
    """Red: the first token dropped; predicted without EOS before it; characters instead of bytes."""
    nats = sum(
        token_by_token(stock, tiny.eos_id, tiny.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in TEXTS
    )
    expected = nats / math.log(2) / sum(len(t.encode()) for t in TEXTS)
    assert score_windows(tiny, windows_of(tiny), "base", "grid").bits_per_byte == pytest.approx(expected, rel=1e-5)


def test_a_document_longer_than_a_window(tiny: Base, stock: Any) -> None:
    """It is scored whole, each window from EOS. Red: only the first window counts."""
    text = TEXTS[1] * 3 + TEXTS[0] * 3
    windows = windows_of(tiny, [text], sequence_length=16)
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(windows) > 5 and np.concatenate([w.tokens for w in windows]).tolist() == ids
    nats = sum(in_one_forward(stock, tiny.eos_id, w.tokens.tolist()) for w in windows)
    cell = score_windows(tiny, windows, "base", "grid")
    assert (cell.num_tokens, cell.num_bytes) == (len(ids), len(text.encode()))
    assert cell.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
    whole = score_windows(tiny, windows_of(tiny, [text], sequence_length=10**4), "base", "grid")
    assert whole.bits_per_byte != pytest.approx(cell.bits_per_byte, rel=1e-3)


def test_a_window_longer_than_the_context_and_the_batch(tiny: Base, stock: Any) -> None:
    """2100 tokens at once, where the base was made for 1024 and a batch holds 2048."""
    rng = np.random.default_rng(0)
    window = Window(rng.integers(1, 512, 2100).astype(np.int32), 4000)
    assert stock.config.max_position_embeddings == 1024 and len(window.tokens) > likelihood.BATCH_TOKENS
    nats = in_one_forward(stock, tiny.eos_id, window.tokens.tolist())
    seen: list[int] = []
    cell = score_windows(tiny, [window], "base", "grid", seen.append)
    assert seen == [2100]
    assert cell.bits_per_byte == pytest.approx(nats / math.log(2) / 4000, rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10**6])
def test_how_windows_are_grouped_does_not_matter(
    tiny: Base, monkeypatch: pytest.MonkeyPatch, batch_tokens: int
) -> None:
    """Red: windows of a batch see each other; the last batch is dropped."""
    windows = windows_of(tiny, sequence_length=24)
    expected = score_windows(tiny, windows, "base", "grid")
    seen: list[int] = []
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", batch_tokens)
    found = score_windows(tiny, windows[::-1], "base", "grid", seen.append)
    assert sum(seen) == expected.num_tokens
    assert len(seen) == (len(windows) if batch_tokens == 1 else 1 if batch_tokens == 10**6 else len(seen))
    assert max(seen) <= max(batch_tokens, 24)
    assert found.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert (found.num_bytes, found.num_tokens) == (expected.num_bytes, expected.num_tokens)


def test_rows_columns_and_their_order(tiny: Base) -> None:
    """The base first, then the adapters as given; each cell as scored by itself. Red: an adapter stays on."""
    adapters = {"second": some_adapter(tiny, 0.2), "first": some_adapter(tiny, 0.3, seed=1)}
    windows = {"grid": windows_of(tiny, TEXTS[:1]), "clinical": windows_of(tiny, TEXTS[1:])}
    told: list[tuple[str, str, int]] = []
    found = evaluate_adapters(tiny, adapters, windows, progress=lambda *a: told.append(a))
    assert [(c.model, c.domain) for c in found.cells] == [
        (row, domain) for row in ("base", "second", "first") for domain in ("grid", "clinical")
    ]
    assert [t[:2] for t in told] == [(c.model, c.domain) for c in found.cells]
    assert [t[2] for t in told] == [c.num_tokens for c in found.cells]
    for domain, some in windows.items():
        assert found.bits_per_byte("base", domain) == score_windows(tiny, some, "base", domain).bits_per_byte
        for row, adapter in adapters.items():
            with attached(tiny.model, adapter.factors):
                assert found.bits_per_byte(row, domain) == score_windows(tiny, some, row, domain).bits_per_byte
    assert len({c.bits_per_byte for c in found.cells}) == 6


def test_an_adapter_of_another_base_is_refused_before_anything_is_scored(tiny: Base) -> None:
    other = replace(some_adapter(tiny, 0.1), fingerprint=replace(tiny.info.fingerprint, weights="f" * 64))
    told: list[Any] = []
    with pytest.raises(FingerprintMismatch, match=r"got ffffffffffff \(theirs\)"):
        evaluate_adapters(
            tiny,
            {"mine": some_adapter(tiny, 0.1), "theirs": other},
            {"grid": windows_of(tiny)},
            progress=lambda *a: told.append(a),
        )
    assert told == []


def test_nothing_to_score(tiny: Base) -> None:
    with pytest.raises(DataError, match=r"cannot score: .* got none \(grid\)"):
        score_windows(tiny, [], "base", "grid")


def test_bases_of_two_precisions_in_one_process(tiny: Base, tiny_folder: Path) -> None:
    """Red: precision left to accelerate, which allows one to a process."""
    windows = heldout_windows([Document("a", "", TEXTS[2], "")], tiny.tokenizer, 64, 500)
    half = load_base(str(tiny_folder), device="cpu", precision="bfloat16")
    bits = [score_windows(base, windows, "base", "x").bits_per_byte for base in (tiny, half, tiny)]
    assert bits[0] == bits[2] != bits[1] == pytest.approx(bits[0], rel=0.02)
