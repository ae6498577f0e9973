"""The share of a base's weights that LoRA adapts, against counts by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from benchmarks.architecture_models import small_model
from cogen.base import adaptable, describe_base, linear_layers
from cogen.config import Train
from cogen.train.cost import adapted_frac
from cogen.train.lora import attached
from cogen.train.start import start_factors
from tests.conftest import SEEDS
from tests.shell import Cogen

ATTENTION = 2 * (16 * 16 + 16 * 8 + 16 * 8 + 16 * 16)
EXPERTS, ROUTERS, NORMS = 2 * 4 * (2 * 12 * 16 + 16 * 12), 2 * 4 * 16, 2 * (16 + 16 + 16 + 8) + 16


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """2 layers of 4 heads, 2 of them for keys, and 4 experts of width 12, with the tokenizer of the tiny base."""
    folder = tmp_path_factory.mktemp("olmoe")
    sizes: dict[str, Any] = {"vocab_size": 512, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4}
    torch.manual_seed(0)
    OlmoeForCausalLM(OlmoeConfig(**sizes, **heads, num_experts_per_tok=2, eos_token_id=0)).save_pretrained(folder)
    for path in tiny_folder.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def test_share_by_hand(olmoe: Path, tiny_folder: Path) -> None:
    """Red: the router or the experts not counted in the whole."""
    info = describe_base(str(olmoe))
    assert sum(o * i for o, i in info.modules.values()) == ATTENTION
    assert info.num_parameters == ATTENTION + EXPERTS + ROUTERS + NORMS
    assert dict(info.fused) == {
        "model.layers.*.mlp.experts.gate_up_proj": 2 * 4 * 2 * 12 * 16,
        "model.layers.*.mlp.experts.down_proj": 2 * 4 * 16 * 12,
    }
    dense = describe_base(str(tiny_folder))
    layers = 2 * (32 * 32 + 16 * 32 + 16 * 32 + 32 * 32 + 3 * 48 * 32)
    assert adapted_frac(dense, dense.modules) == layers / (layers + 5 * 32) and not dense.fused
    assert adapted_frac(dense, ["model.layers.0.mlp.up_proj"]) == 48 * 32 / (layers + 5 * 32)


def test_training_says_the_share_before_it_starts(cogen: Cogen, olmoe: Path, tiny_folder: Path) -> None:
    """Red: no warning, or one for a dense base or for layers that the user chose."""
    options = ["--data", SEEDS / "grid.jsonl", "--domain", "grid", "--tokens", 64, "--set", "train.sequence_length=32"]
    options += ["--set", "base.precision=float32", "--set", "train.rank=2", "--overwrite", "--out", "grid"]
    code, _, err = cogen("train", "--base", olmoe, *options)
    assert code == 0, err
    share = ATTENTION / (ATTENTION + EXPERTS + ROUTERS + NORMS)
    assert f"in 8 modules with {100 * share:.3g}% of the weights" in err
    fused = 100 * EXPERTS / (ATTENTION + EXPERTS + ROUTERS + NORMS)
    (warning,) = (line for line in err.splitlines() if "warning: LoRA adapts" in line)
    assert f"adapts only {100 * share:.3g}%" in warning and f"hold {fused:.3g}%" in warning
    assert "model.layers.*.mlp.experts.gate_up_proj" in warning
    assert json.loads(Path("grid/cogen.json").read_text())["adapted_frac"] == pytest.approx(share)
    for chosen in (["--base", olmoe, "--set", 'train.target_modules=["q_proj"]'], ["--base", tiny_folder]):
        code, _, err = cogen("train", *chosen, *options)
        assert code == 0 and "% of the weights" in err and "warning" not in err


@pytest.mark.parametrize("kind", ["qwen3_next", "deepseek_v3", "mamba2", "llama4_text", "olmoe", "gpt2"])
def test_every_layer_that_is_named_can_be_adapted(kind: str) -> None:
    """PEFT takes shared experts for fused ones, and refuses the `out_proj` of Mamba. Red: all linear layers named."""
    model = small_model(kind)
    with torch.device("meta"):
        names = adaptable(type(model)(model.config), linear_layers(model))
    assert names and not any("router" in name for name in names)
    with attached(model, start_factors(names, Train(rank=2))) as live:
        assert live.keys() == names.keys()
