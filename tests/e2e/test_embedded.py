"""The embedded base, for real: `make test-slow`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cogen.adapter import Adapter
from cogen.base import load_base
from cogen.base_fetch import cache_folder
from cogen.config import Train
from cogen.data import heldout_windows, read_corpus, split_documents
from cogen.evaluate.score import evaluate_adapters
from cogen.merge import merge_adapters
from cogen.train.lora import attached
from cogen.train.single import train_adapter


@pytest.fixture
def users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own cache: 92 MB are not fetched again for a test."""
    monkeypatch.delenv("COGEN_CACHE")
    assert os.fspath(cache_folder())


@pytest.mark.slow
def test_the_embedded_base_learns_and_its_merge_loads_in_peft(users_cache: None, tmp_path: Path) -> None:
    """4096 tokens make its held-out text shorter; PEFT reads the merge."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = load_base("smollm2-135m")
    seed = Path(__file__).parents[2] / "seeds/grid.jsonl"
    settings = Train(tokens_per_round=4096, batch_size=2, learning_rate=5e-4)
    expert = train_adapter(base, {"grid": seed}, settings, domain="grid", heldout_frac=0.15).adapter
    merged = merge_adapters([expert, expert]).adapter
    merged.save(tmp_path / "merged")
    heldout = split_documents(read_corpus(seed).documents, 0.15, "grid").heldout
    windows = {"grid": heldout_windows(heldout, base.tokenizer, 512, 512)}
    scores = evaluate_adapters(base, {"merged": merged}, windows)
    before, after = scores.bits_per_byte("base", "grid"), scores.bits_per_byte("merged", "grid")
    assert before is not None
    assert after is not None
    assert after < before - 0.02
    ids = torch.arange(100, 140)[None]
    stock = AutoModelForCausalLM.from_pretrained(base.info.folder, dtype=base.model.dtype)
    theirs = PeftModel.from_pretrained(stock, str(tmp_path / "merged"))(input_ids=ids).logits
    base.model.set_attn_implementation("sdpa")
    with torch.no_grad(), attached(base.model, Adapter.load(tmp_path / "merged").factors):
        ours = base.model(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3)
