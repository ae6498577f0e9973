"""LoRA on the input embeddings: its learning rate, an unchanged head, and the same outputs in PEFT.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cogen.adapter import Adapter, factor_digest
from cogen.base import Base
from cogen.config import Train
from cogen.data import read_corpus
from cogen.errors import ConfigError, FingerprintMismatch
from cogen.evaluate.score import evaluate_adapters
from cogen.train.lora import attached
from cogen.train.single import TrainedAdapter, train_adapter
from cogen.train.start import start_factors
from tests.interrupted_training import Interrupted, interrupt_after

SEEDS = Path(__file__).parents[2] / "seeds"
TABLE, Q = "model.embed_tokens", "model.layers.0.self_attn.q_proj"
SETTINGS = Train(
    tokens_per_round=4 * 64, sequence_length=64, batch_size=1, learning_rate=0.01, rank=4, train_embeddings=True,
    warmup_frac=0, min_lr_ratio=1,
)  # fmt: skip
TOKENS = (torch.arange(2 * 9).reshape(2, 9) * 37 + 5) % 512


@pytest.fixture(scope="module")
def corpora() -> dict[str, Path]:
    return {"grid": SEEDS / "grid.jsonl"}


def train(base: Base, corpora: dict[str, Path], settings: Train = SETTINGS, **options: Any) -> TrainedAdapter:
    return train_adapter(base, corpora, settings, domain="grid", heldout_frac=0.15, **options)


@pytest.fixture(scope="module")
def trained(tiny: Base, corpora: dict[str, Path]) -> TrainedAdapter:
    return train(tiny, corpora)


def test_the_base_knows_its_table(tiny: Base) -> None:
    assert dict(tiny.info.embeddings) == {TABLE: (32, 512)} and TABLE not in tiny.info.modules


def test_it_starts_at_nothing_and_learns_at_a_tenth_of_the_rate(tiny: Base, corpora: dict[str, Path]) -> None:
    """Adam's first step is the rate itself wherever there is a gradient: of A of the table, and of B elsewhere.

    Red: one group for all; both factors zero.
    """
    start = start_factors(tiny.info.modules, SETTINGS, tiny.info.embeddings)[TABLE]
    assert not start.delta().any() and start.b.std() > 0.8
    found = train(tiny, corpora, SETTINGS.model_copy(update={"tokens_per_round": 64})).adapter.factors
    assert float(found[TABLE].a.abs().max()) == pytest.approx(0.001, rel=1e-3)
    assert float(found[Q].b.abs().max()) == pytest.approx(0.01, rel=1e-3)
    assert 0 < int(found[TABLE].a.any(dim=0).sum()) <= 64, "only what was read has a gradient"


def test_peft_gives_the_same_outputs_and_leaves_the_head(
    tiny: Base, tiny_folder: Path, trained: TrainedAdapter, tmp_path: Path
) -> None:
    """Red: the tied head changed as well; the table written as a linear layer."""
    trained.adapter.save(tmp_path / "adapter")
    again = Adapter.load(tmp_path / "adapter")
    assert again.embeddings == {TABLE} and factor_digest(again.factors) == factor_digest(trained.adapter.factors)
    stock, plain = (
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager").eval()
        for _ in range(2)
    )
    with torch.no_grad():
        before = plain(input_ids=TOKENS).logits
        theirs = PeftModel.from_pretrained(stock, str(tmp_path / "adapter"))(input_ids=TOKENS).logits
        with attached(plain, trained.adapter.factors):
            mine = plain(input_ids=TOKENS).logits
        changed = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager")
        table = changed.get_input_embeddings()
        changed.lm_head.weight = torch.nn.Parameter(table.weight.clone())
        for name, f in trained.adapter.factors.items():
            changed.get_submodule(name).weight += f.delta().T if name == TABLE else f.delta()
        by_hand = changed.eval()(input_ids=TOKENS).logits
        assert torch.equal(plain(input_ids=TOKENS).logits, before)
    assert (theirs - before).abs().max() > 0.05
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine, by_hand, rtol=1e-4, atol=1e-4)


def test_it_is_scored_and_an_embedding_of_another_base_is_refused(tiny: Base, trained: TrainedAdapter) -> None:
    from cogen.data import heldout_windows

    documents = read_corpus(SEEDS / "grid.jsonl").documents[:3]
    windows = {"grid": heldout_windows(documents, tiny.tokenizer, 64, 256)}
    found = evaluate_adapters(tiny, {"mine": trained.adapter}, windows)
    assert found.bits_per_byte("mine", "grid") != found.bits_per_byte("base", "grid")
    misread = Adapter(trained.adapter.factors, "tiny", tiny.info.fingerprint)  # the table taken for a linear layer
    with pytest.raises(FingerprintMismatch, match=rf"{TABLE} absent"):
        tiny.info.require(misread, "mine")


def test_stopped_and_resumed(tiny: Base, corpora: dict[str, Path], trained: TrainedAdapter, tmp_path: Path) -> None:
    path = tmp_path / "training"
    often = SETTINGS.model_copy(update={"checkpoint_seconds": 1e-9})
    with pytest.raises(Interrupted):
        train(tiny, corpora, often, on_step=interrupt_after(2), state_path=path)
    resumed = train(tiny, corpora, often, state_path=path, resume=True)
    assert factor_digest(resumed.adapter.factors) == factor_digest(trained.adapter.factors)


def test_statistics_of_a_table_are_refused(tiny: Base, corpora: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"got train\.train_embeddings = true"):
        train(tiny, corpora, gram_tokens=64)
