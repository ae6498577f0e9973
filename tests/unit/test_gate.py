"""The gate of a routed model: statistics by their definition, chances by their formula, and no trace of who left."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogen.adapter import Adapter
from cogen.adapter.gate import GATE_NAME, GateStatistics, gate_bytes
from cogen.base import Base
from cogen.data import read_corpus
from cogen.data.pack import PackedStream, tokenize, train_batch
from cogen.errors import AdapterError
from cogen.routing.gate import Gate, likeliest
from cogen.train.isolation import use_stock_attention
from cogen.train.lora import attached, detached, init_factors
from cogen.train.text_states import GATE_TOKENS, gate_statistics, mean_state, statistics_of
from tests.conftest import SEEDS


def states_by_transformers(base: Base, ids: list[int]) -> Tensor:
    """Of all tokens but the first, as transformers computes them."""
    use_stock_attention(base.model)
    with torch.inference_mode():
        return base.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, 1:].double()


def stream_of(base: Base) -> PackedStream:
    documents = read_corpus(str(SEEDS / "grid.jsonl")).documents
    return PackedStream(tokenize(documents, base.tokenizer), 64, seed=3)


def test_statistics_are_those_of_all_tokens_but_the_first_of_each_piece(tiny: Base) -> None:
    """Red: the first token counts; a sum of squares is not centred; blocks are read twice."""
    stream = stream_of(tiny)
    found = gate_statistics(tiny, stream, 40, 640)
    pieces = [p.tolist() for i in range(0, 40, 4) for p in stream.segments(i)]
    states = torch.cat([states_by_transformers(tiny, p) for p in pieces if len(p) > 1])
    torch.testing.assert_close(found.mean, states.mean(0).float(), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(found.variance, states.var(0, correction=0).float(), atol=2e-3, rtol=5e-3)
    assert found.num_tokens == 640
    for part in (found.mean, found.variance):
        assert torch.equal(part, part.half().float())


def test_blocks_are_read_from_all_of_the_text(tiny: Base) -> None:
    """Red: the first blocks are read, which are of few documents."""
    stream, read = stream_of(tiny), []
    numbers = iter(range(1, 99))
    gate_statistics(tiny, stream, 40, 256, lambda done: read.append((done, next(numbers))))
    assert [done for done, _ in read] == [1, 2, 3, 4]
    spread = statistics_of(tiny, (train_batch(stream, i, 1) for i in (0, 10, 20, 30)))
    assert torch.equal(gate_statistics(tiny, stream, 40, 256).mean, spread.mean)


def test_the_gate_reads_the_start_of_a_text_with_the_base_alone(tiny: Base) -> None:
    """Red: what is attached now is not switched off, or stays off; more than the first tokens is read."""
    ids = [tiny.start_id, *range(1, 301)]
    state, count = mean_state(tiny, ids)
    assert count == GATE_TOKENS
    torch.testing.assert_close(
        state.double(), states_by_transformers(tiny, ids[: GATE_TOKENS + 1]).mean(0), atol=1e-5, rtol=1e-5
    )
    factors = init_factors(tiny.info.modules, 4, 2.0, 0)
    for f in factors.values():
        f.b.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    with attached(tiny.model, factors):
        changed, _ = mean_state(tiny, ids)
        with detached(tiny.model):
            alone, _ = mean_state(tiny, ids)
        again, _ = mean_state(tiny, ids)
    assert torch.equal(alone, state)
    assert torch.equal(again, changed)
    assert not torch.allclose(changed, state, atol=1e-3)


def made_up(seed: int, size: int = 6) -> GateStatistics:
    numbers = torch.Generator().manual_seed(seed)
    mean, spread = (torch.randn(size, generator=numbers) for _ in range(2))
    return GateStatistics(mean.half().float(), (spread.square() + 0.1).half().float(), 100 + seed)


def test_chances_are_those_of_the_formula() -> None:
    """Red: the variance is one domain's; short texts are as sure as long ones."""
    known = {name: made_up(i) for i, name in enumerate("abc")}
    x = torch.randn(6, generator=torch.Generator().manual_seed(9))
    variance = [sum(float(s.variance[j]) for s in known.values()) / 3 for j in range(6)]
    for count, sharpness in ((16, 30.0), (64, 60.0), (500, 60.0)):
        weights = {
            name: math.exp(-sharpness * sum((float(x[j]) - float(s.mean[j])) ** 2 / variance[j] for j in range(6)) / 6)
            for name, s in known.items()
        }
        found = Gate.of(known).chances(x, count)
        for name, weight in weights.items():
            assert found[name] == pytest.approx(weight / sum(weights.values()), rel=1e-5, abs=1e-12)
        assert likeliest(found).expert == max(weights, key=weights.__getitem__)


def test_a_gate_without_a_domain_is_the_gate_that_never_had_it() -> None:
    known = {name: made_up(i) for i, name in enumerate("abcd")}
    never = {name: s for name, s in known.items() if name != "b"}
    x = torch.zeros(6)
    assert Gate.of(never).chances(x, 64) == Gate.of(dict(list(known.items())[:1] + list(known.items())[2:])).chances(
        x, 64
    )
    assert "b" not in Gate.of(never).names


def test_statistics_of_several_bases_make_no_gate() -> None:
    with pytest.raises(AdapterError, match="statistics of one length, got 6 and 7"):
        Gate.of({"a": made_up(0), "b": made_up(1, 7)})


def test_an_adapter_folder_keeps_its_statistics(tiny: Base, tmp_path: Path) -> None:
    """Red: they are not read back, or an altered file passes."""
    factors = init_factors(tiny.info.modules, 2, 2.0, 0)
    adapter = Adapter(factors, "tiny", tiny.info.fingerprint, {"domain": "grid"}, gate=made_up(0))
    adapter.save(tmp_path / "a")
    found = Adapter.load(tmp_path / "a")
    assert found.gate is not None
    assert torch.equal(found.gate.mean, made_up(0).mean)
    assert torch.equal(found.gate.variance, made_up(0).variance)
    assert found.gate.num_tokens == 100
    replace(found, gate=None).save(tmp_path / "b")
    assert Adapter.load(tmp_path / "b").gate is None
    assert not (tmp_path / "b" / GATE_NAME).exists()
    (tmp_path / "a" / GATE_NAME).write_bytes(gate_bytes(made_up(5)))
    with pytest.raises(AdapterError, match=GATE_NAME):
        Adapter.load(tmp_path / "a")
    (tmp_path / "a" / GATE_NAME).unlink()
    with pytest.raises(AdapterError, match="got none"):
        Adapter.load(tmp_path / "a")


@pytest.mark.parametrize("bad", ["mean", "variance", "shape", "name"])
def test_statistics_that_no_text_has_are_refused(tiny: Base, tmp_path: Path, bad: str) -> None:
    from safetensors.torch import save

    Adapter(init_factors(tiny.info.modules, 2, 2.0, 0), "tiny", gate=made_up(0)).save(tmp_path / "a")
    tensors = {"mean": torch.zeros(6), "variance": torch.ones(6)}
    if bad == "mean":
        tensors["mean"][2] = math.nan
    elif bad == "variance":
        tensors["variance"][2] = 0.0
    elif bad == "shape":
        tensors["variance"] = torch.ones(7)
    else:
        tensors["more"] = torch.ones(6)
    (tmp_path / "a" / GATE_NAME).write_bytes(save(tensors, metadata={"format": "1"}))
    with pytest.raises(AdapterError, match=GATE_NAME):
        Adapter.load(tmp_path / "a")
