"""The start of training: target modules, ranks and alphas by pattern, rsLoRA, and the same outputs in PEFT.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cogen.adapter import Adapter, Factors, factor_digest
from cogen.base import Base
from cogen.config import Train
from cogen.errors import ConfigError
from cogen.train.lora import attached, init_factors
from cogen.train.start import start_factors

Q, UP, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"
TOKENS = (torch.arange(2 * 9).reshape(2, 9) * 37 + 5) % 512


def start(base: Base, **values: Any) -> dict[str, Factors]:
    return start_factors(base.info.modules, Train.model_validate(values))


def test_by_default_every_linear_layer_starts_as_it_did(tiny: Base) -> None:
    found = start(tiny, rank=5, seed=3)
    assert factor_digest(found) == factor_digest(init_factors(tiny.info.modules, 5, 2.0, 3))
    assert list(found) == list(tiny.info.modules)


@pytest.mark.parametrize(
    ("values", "scaling"),
    [
        ({"rank": 16}, 2.0),
        ({"rank": 16, "rslora": True}, 2.0),
        ({"rank": 4, "rslora": True}, 4.0),
        ({"rank": 9, "rslora": True, "alpha": 6.0}, 2.0),
        ({"rank": 9, "alpha": 6.0}, 6 / 9),
    ],
)
def test_scaling_by_hand(tiny: Base, values: dict[str, Any], scaling: float) -> None:
    """alpha / rank, alpha / sqrt(rank) with rsLoRA; 8 / sqrt(rank) where no alpha is given."""
    assert Train.model_validate(values).scaling == pytest.approx(scaling, rel=1e-12)
    assert {f.scaling for f in start(tiny, **values).values()} == {Train.model_validate(values).scaling}


def test_targets_are_patterns(tiny: Base) -> None:
    found = start(tiny, target_modules=["q_proj", "layers.1.mlp"])
    assert [n for n in tiny.info.modules if "q_proj" in n or "layers.1.mlp" in n] == list(found) and len(found) == 5


def test_ranks_and_alphas_by_pattern_and_the_first_that_fits_wins(tiny: Base) -> None:
    """Red: the last wins; a rank's default alpha taken from train.rank."""
    ranks = {"layers.1.mlp.down_proj": 2, "mlp": 6, "down_proj": 7}
    found = start(tiny, rank=4, rank_pattern=ranks, alpha_pattern={"up_proj": 3.0})
    assert (found[DOWN].rank, found[UP].rank, found[Q].rank) == (2, 6, 4)
    assert (found[DOWN].scaling, found[UP].scaling, found[Q].scaling) == (2.0, 0.5, 2.0)
    rooted = start(tiny, rank=4, alpha=12.0, rslora=True, rank_pattern={"mlp": 9}, alpha_pattern={"up_proj": 3.0})
    assert (rooted[DOWN].scaling, rooted[UP].scaling, rooted[Q].scaling) == (4.0, 1.0, 6.0)


@pytest.mark.parametrize("key", ["target_modules", "rank_pattern", "alpha_pattern"])
def test_a_pattern_that_picks_nothing_is_refused(tiny: Base, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"got 'qproj', which matches none \(train\.{key}\)") as refused:
        start(tiny, **{key: ["qproj"] if key == "target_modules" else {"qproj": 3}})
    assert "layers.0" in str(refused.value) and "\n" not in str(refused.value)


OPTIONS: Mapping[str, dict[str, Any]] = {
    "rslora": {"rank": 5, "rslora": True},
    "patterns": {"rank": 3, "rank_pattern": {"mlp": 7, "k_proj": 2}, "alpha_pattern": {"layers.0.*.q_proj": 11.0}},
    "both": {"rank": 3, "alpha": 7.0, "rslora": True, "rank_pattern": {"0-9.mlp": 6}},
    "targets": {"rank": 3, "target_modules": ["v_proj", "layers.1.mlp.gate_proj"]},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_peft_loads_the_folder_and_gives_the_same_outputs(
    tiny: Base, tiny_folder: Path, tmp_path: Path, name: str
) -> None:
    """Red: adapter_config.json with train.alpha in place of scaling * rank."""
    g = torch.Generator().manual_seed(0)
    factors = {
        n: Factors(f.a, torch.randn(f.b.shape, generator=g) * 0.3, f.scaling)
        for n, f in start(tiny, **OPTIONS[name]).items()
    }
    Adapter(factors, tiny.info.name).save(tmp_path / "adapter")
    stock = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager").eval()
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(stock, str(tmp_path / "adapter"))(input_ids=TOKENS).logits
        before = plain(input_ids=TOKENS).logits
        with attached(plain, factors):
            mine = plain(input_ids=TOKENS).logits
    assert (theirs - before).abs().max() > 0.1
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_rslora_keeps_the_size_of_a_step_at_any_rank() -> None:
    """B A is a sum of r terms of chance sign: its size grows by sqrt(r), which the scaling takes back."""
    g = torch.Generator().manual_seed(0)
    sizes = []
    for rank in (16, 256):
        a, b = torch.randn(rank, 300, generator=g), torch.randn(300, rank, generator=g)
        sizes.append(float((Train(rank=rank, rslora=True).scaling * b @ a).norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert Train(rank=256).scaling * math.sqrt(256) == 4 * Train(rank=16).scaling * math.sqrt(16)
