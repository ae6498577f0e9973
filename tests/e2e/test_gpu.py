"""The same loop on an accelerator: `make test-gpu`.

"Red" names a change of the code under which a test should fail; no GPU has been there to see it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cogen.adapter import Factors
from cogen.base import Base, load_base
from cogen.config import Train
from cogen.data import heldout_windows, read_corpus, split_documents
from cogen.data.pack import IGNORE, PackedStream, tokenize, train_batch
from cogen.evaluate.score import score_windows
from cogen.train.attention import segment_attention
from cogen.train.isolation import use_segment_attention
from cogen.train.lora import attached, init_factors
from cogen.train.loss import chunked_loss, fused_loss, head_loss, head_weight, nll_and_gradient
from cogen.train.passes import autocast
from cogen.train.single import train_adapter
from cogen.train.step import hidden_states
from cogen.train.varlen import is_for_one_kernel
from tests.two_processes import CASES, launch, train

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


@pytest.mark.parametrize("precision", ["bfloat16", "nf4"])
def test_training_learns_and_scores_agree(tiny: Base, tiny_folder: Path, precision: str) -> None:
    """An adapter trained on the accelerator helps there and on the CPU alike, from 4 bits a little less.

    Red: factors made in the shape of packed weights.
    """
    if precision == "nf4":
        pytest.importorskip("bitsandbytes")
    on_gpu = load_base(str(tiny_folder), device="cuda", precision=precision)
    settings = Train(tokens_per_round=2048, sequence_length=64, batch_size=4, rank=4, learning_rate=0.01)
    made = train_adapter(on_gpu, {"grid": SEEDS / "grid.jsonl"}, settings, domain="grid", heldout_frac=0.15)
    heldout = split_documents(read_corpus(SEEDS / "grid.jsonl").documents, 0.15, "grid").heldout
    windows = heldout_windows(heldout, tiny.tokenizer, 64, 600)
    bits = {}
    for where, base in (("cpu", tiny), ("gpu", on_gpu)):
        before = score_windows(base, windows, "base", "grid").bits_per_byte
        with attached(base.model, made.adapter.factors):
            bits[where] = score_windows(base, windows, "trained", "grid").bits_per_byte
        assert bits[where] < before - 0.02
    assert bits["gpu"] == pytest.approx(bits["cpu"], rel=0.02 if precision == "bfloat16" else 0.05)


def test_four_bits_lose_little(tiny_folder: Path) -> None:
    """Loss and fingerprint of a 4-bit base compared with a bfloat16 one. Red: the fingerprint taken of the weights in memory."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    half, packed = (load_base(str(tiny_folder), device="cuda", precision=p) for p in ("bfloat16", "nf4"))
    assert isinstance(packed.model.get_submodule("model.layers.0.mlp.up_proj"), bitsandbytes.nn.Linear4bit)
    assert packed.info.fingerprint == half.info.fingerprint and packed.precision == "nf4"
    start = init_factors(half.info.modules, 4, 1.0, 0)
    assert gradients(packed, start)[0] == pytest.approx(gradients(half, start)[0], rel=0.03)


@pytest.mark.parametrize("lengths", [(128, 128), (5, 190, 1, 60), (256,)], ids=str)
@pytest.mark.parametrize("num_key_heads", [4, 2])
def test_attention_in_one_kernel(lengths: tuple[int, ...], num_key_heads: int) -> None:
    """Outputs and gradients compared with a float32 call for each segment. Red: attention over the whole row."""
    shapes = [(1, heads, sum(lengths), 64) for heads in (4, num_key_heads, num_key_heads)]
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(s, generator=generator).bfloat16().float().cuda().requires_grad_() for s in shapes]
    half = [x.detach().bfloat16().requires_grad_() for x in exact]
    if not is_for_one_kernel(half[0]):
        pytest.skip("this GPU or torch has no kernel for it")
    outer = torch.randn(1, sum(lengths), 4, 64, generator=generator).cuda()
    results = []
    for inputs in (exact, half):
        out, _ = segment_attention(torch.nn.Identity(), *inputs, attention_mask=None, segment_lengths=lengths)
        results.append([out, *torch.autograd.grad(out, inputs, outer.to(out.dtype))])
    for wanted, found in zip(*results, strict=True):
        assert wanted.shape == found.shape
        assert float((found.float() - wanted).norm() / wanted.norm()) < 0.02


def test_the_fused_loss_is_the_chunked_one() -> None:
    """On 1,000 tokens, 49,152 words. Red: the kernel's mean, divided by all tokens."""
    pytest.importorskip("liger_kernel")
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(49_152, 576, generator=generator) * 0.05).bfloat16().cuda()
    targets = torch.randint(0, 49_152, (1000,), generator=generator).cuda()
    targets[::7] = IGNORE
    hidden = torch.randn(1000, 576, generator=generator).bfloat16().cuda().requires_grad_()
    assert head_loss(hidden.device, Train(), nll_and_gradient) is fused_loss
    losses = [fused_loss(hidden, weight, targets), chunked_loss(hidden, weight, targets, 256)]
    grads = [torch.autograd.grad(loss, hidden)[0].float() for loss in losses]
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=2e-3)
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 0.02


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_two_gpus_are_one(tiny_folder: Path, tmp_path: Path) -> None:
    """Red: both processes on the first device, which NCCL refuses."""
    for code, _, err in launch("tests.two_processes", tiny_folder, tmp_path, "own"):
        assert code == 0, err
    said = [json.loads((tmp_path / f"said-{i}.json").read_text()) for i in range(2)]
    base = load_base(str(tiny_folder), device="cuda", precision="float32")
    for case, settings in CASES.items():
        assert said[0][case] == said[1][case]
        assert said[0][case]["loss_nats"] == pytest.approx(train(base, settings).result.loss_nats, rel=1e-4)
