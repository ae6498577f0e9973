"""The same loop on an accelerator: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogen.adapter import Factors
from cogen.base import Base, load_base
from cogen.config import Train
from cogen.data import heldout_windows, read_corpus, split_documents
from cogen.data.pack import PackedStream, tokenize, train_batch
from cogen.evaluate.score import score_windows
from cogen.train.attention import use_segment_attention
from cogen.train.loop import autocast, hidden_states
from cogen.train.lora import attached, init_factors
from cogen.train.loss import chunked_loss, head_weight
from cogen.train.single import train_adapter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SEEDS = Path(__file__).parents[2] / "seeds"


def gradients(base: Base, factors: dict[str, Factors]) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients over two packed blocks of several documents."""
    documents = tokenize(read_corpus(SEEDS / "grid.jsonl").documents, base.tokenizer)
    batch = train_batch(PackedStream(documents, 128, 0), 0, 2)
    use_segment_attention(base.model)
    with attached(base.model, factors) as live:
        with autocast(base.model):
            hidden = hidden_states(base.model, batch)
        weight = head_weight(base.model)
        targets = torch.from_numpy(batch.targets).to(hidden.device)
        loss = chunked_loss(hidden.to(weight.dtype), weight, targets, 64)
        grads = torch.autograd.grad(loss, [p for pair in live.values() for p in pair])
    return float(loss), [g.float().cpu() for g in grads]


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_gradients_are_those_of_the_cpu(tiny: Base, tiny_folder: Path, precision: str, bound: float) -> None:
    """Red: segments see each other on one side."""
    start = init_factors(tiny.info.modules, 4, 1.0, 0)
    start = {n: Factors(f.a, torch.full_like(f.b, 0.01), f.scaling) for n, f in start.items()}
    loss, wanted = gradients(tiny, start)
    on_gpu = load_base(str(tiny_folder), device="cuda", precision=precision)
    gpu_loss, found = gradients(on_gpu, start)
    assert gpu_loss == pytest.approx(loss, rel=bound)
    off = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
    assert (off / sum(float(b.square().sum()) for b in wanted)) ** 0.5 < bound


def test_training_learns_and_scores_agree(tiny: Base, tiny_folder: Path) -> None:
    """An adapter trained on the accelerator helps there and on the CPU alike."""
    on_gpu = load_base(str(tiny_folder), device="cuda", precision="bfloat16")
    settings = Train(tokens_per_round=2048, block_tokens=64, batch_blocks=4, rank=4, learning_rate=0.01)
    made = train_adapter(on_gpu, {"grid": SEEDS / "grid.jsonl"}, settings, domain="grid", heldout_frac=0.15)
    heldout = split_documents(read_corpus(SEEDS / "grid.jsonl").documents, 0.15, "grid").heldout
    windows = heldout_windows(heldout, tiny.tokenizer, 64, 600)
    bits = {}
    for where, base in (("cpu", tiny), ("gpu", on_gpu)):
        before = score_windows(base, windows, "base", "grid").bits_per_byte
        with attached(base.model, made.adapter.factors):
            bits[where] = score_windows(base, windows, "trained", "grid").bits_per_byte
        assert bits[where] < before - 0.02
    assert bits["gpu"] == pytest.approx(bits["cpu"], rel=0.02)
