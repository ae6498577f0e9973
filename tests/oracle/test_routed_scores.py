"""Bits per byte of a routed model, against its definition computed token by token with transformers."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cogen.adapter import Adapter
from cogen.base import Base
from cogen.data import heldout_windows, read_corpus
from cogen.data.pack import Window
from cogen.evaluate.matrix import Evaluation
from cogen.evaluate.routed import score_routed
from cogen.routing.folder import RoutedModel, write_routed
from cogen.routing.gate import likeliest
from cogen.train.isolation import use_stock_attention
from cogen.train.lora import attached
from cogen.train.text_states import GATE_TOKENS, mean_state
from tests.conftest import SEEDS
from tests.routed_example import save_expert
from tests.shell import Cogen, refused


@pytest.fixture
def routed(tiny: Base, tmp_path: Path) -> RoutedModel:
    texts = {name: windows_of(tiny, name)[1] for name in ("grid", "clinical")}
    folders = {
        name: save_expert(tiny, tmp_path, name, i, tiny.tokenizer.decode(w.tokens[:GATE_TOKENS]))
        for i, (name, w) in enumerate(texts.items(), 1)
    }
    common = save_expert(tiny, tmp_path, "relay", 3, tiny.tokenizer.decode(windows_of(tiny, "education")[0].tokens))
    return write_routed(tmp_path / "routed", common, folders)


def windows_of(base: Base, name: str) -> list[Window]:
    """Windows longer and shorter than what the gate reads."""
    documents = read_corpus(str(SEEDS / f"{name}.jsonl")).documents[:6]
    short = replace(documents[0], text=documents[0].text[:150])
    return heldout_windows([short, *documents], base.tokenizer, 300, 1500)


def nats_of(base: Base, window: Window, adapter: Adapter | None) -> torch.Tensor:
    """-ln p of each token, by transformers alone."""
    use_stock_attention(base.model)
    ids = torch.tensor([[base.start_id, *window.tokens.tolist()]])
    with attached(base.model, dict(adapter.factors)) if adapter else nullcontext(), torch.inference_mode():
        logprobs = torch.log_softmax(base.model(input_ids=ids).logits[0, :-1].double(), 1)
    return -logprobs.gather(1, ids[0, 1:, None])[:, 0]


def bits_per_byte(nats: float, windows: list[Window]) -> float:
    return nats / math.log(2) / sum(w.num_bytes for w in windows)


def test_the_chosen_expert_is_scored_behind_what_the_gate_read(tiny: Base, routed: RoutedModel) -> None:
    """Red: the tokens that the gate read count for the expert; a window is scored by another's choice."""
    windows = {name: windows_of(tiny, name) for name in ("grid", "clinical", "education")}
    assert any(len(w.tokens) < GATE_TOKENS for some in windows.values() for w in some)
    assert any(len(w.tokens) > 2 * GATE_TOKENS for some in windows.values() for w in some)
    told: list[tuple[str, str, int]] = []
    found = score_routed(tiny, routed, "m", windows, progress=lambda *a: told.append(a))
    evaluation = Evaluation(cells=found.cells, routing=found.routing)
    chosen_at_all = set()
    for name, some in windows.items():
        total, chosen = 0.0, []
        for window in some:
            state, count = mean_state(tiny, [tiny.start_id, *window.tokens.tolist()])
            chosen.append(likeliest(routed.gate.chances(state, count)).expert)
            total += float(nats_of(tiny, window, routed.opened["common"])[:GATE_TOKENS].sum())
            total += float(nats_of(tiny, window, routed.opened[chosen[-1]])[GATE_TOKENS:].sum())
        assert evaluation.bits_per_byte("m", name) == pytest.approx(bits_per_byte(total, some), rel=1e-5)
        score = next(s for s in found.routing if s.domain == name)
        assert score.num_windows == {e: chosen.count(e) for e in set(chosen)}
        chosen_at_all |= set(chosen)
    assert chosen_at_all == {"grid", "clinical", "common"}  # else the test shows little
    assert {row for row, _, _ in told} == {"m"}


def test_the_posterior_weighs_each_adapter_by_what_it_predicted_before(tiny: Base, routed: RoutedModel) -> None:
    """Token by token. Red: weights know the token that they predict; the common adapter is forgotten."""
    windows = {"grid": windows_of(tiny, "grid")}
    found = Evaluation(cells=score_routed(tiny, routed, "m", windows, posterior=True).cells)
    total = 0.0
    alone = dict.fromkeys(routed.opened, 0.0)
    for window in windows["grid"]:
        nats = torch.stack([nats_of(tiny, window, adapter) for adapter in routed.opened.values()])
        for name, some in zip(routed.opened, nats, strict=True):
            alone[name] += float(some.sum())
        weights = torch.full((3,), 1 / 3, dtype=torch.float64)
        for token in nats.T:
            chance = float((weights * torch.exp(-token)).sum())
            total -= math.log(chance)
            weights = weights * torch.exp(-token) / chance
    assert found.bits_per_byte("m:posterior", "grid") == pytest.approx(bits_per_byte(total, windows["grid"]), rel=1e-5)
    for name, nats_alone in alone.items():
        known = bits_per_byte(nats_alone, windows["grid"])
        assert found.bits_per_byte(f"m:{name}", "grid") == pytest.approx(known, rel=1e-5)
    assert found.bits_per_byte("m", "grid") == pytest.approx(
        score_routed(tiny, routed, "m", windows).cells[0].bits_per_byte, rel=1e-6
    )


def test_from_the_command_line(cogen: Cogen, tiny_folder: Path, routed: RoutedModel, tmp_path: Path) -> None:
    data = ("--data", f"grid={SEEDS / 'grid.jsonl'}", "--data", f"clinical={SEEDS / 'clinical.jsonl'}")
    size = ("--max-heldout-tokens", 1500, "--sequence-length", 300, "--heldout-frac", 1)
    ask = ("evaluate", "--base", tiny_folder, *data, *size, "--adapter", f"m={routed.common.parent}")
    code, said, err = cogen(*ask, "--posterior", "--out", tmp_path / "evaluation.json")
    assert code == 0, err
    assert "sent by the gate of" in said
    found = Evaluation.load(tmp_path / "evaluation.json")
    assert found.models == ("base", "m", "m:common", "m:grid", "m:clinical", "m:posterior")
    assert [(s.model, s.domain) for s in found.routing] == [("m", "grid"), ("m", "clinical")]
    assert sum(found.routing[0].num_windows.values()) > 3
    printed = json.loads(cogen(*ask, "--json")[1])
    assert [c["model"] for c in printed["cells"]] == ["base"] * 2 + ["m"] * 2
    assert printed["cells"][2]["bits_per_byte"] == pytest.approx(found.bits_per_byte("m", "grid"), rel=1e-9)
    probes = ("--probes", f"grid={SEEDS / 'probes/grid.jsonl'}")
    refused(cogen(*ask, *probes), "--data alone for a routed model")
    plain = ("evaluate", "--base", tiny_folder, *data, "--posterior")
    refused(cogen(*plain), "a routed model for --posterior")
