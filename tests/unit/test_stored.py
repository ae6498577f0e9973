"""Adapters that stay on disk: the same factors, read on demand, with the same errors; LoRA on embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from cogen.adapter import Adapter, Factors, layout_of
from cogen.errors import AdapterError, FingerprintMismatch
from cogen.merge import merge_adapters

TOKENS = torch.arange(14).reshape(2, 7) * 5 % 64


def small(seed: int = 0) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layers.{i}.up": Factors(
            torch.randn(2 + i, 6, generator=generator), torch.randn(5, 2 + i, generator=generator), 1.5
        )
        for i in range(3)
    }


def test_opened_is_loaded_without_holding_it(tmp_path: Path) -> None:
    """Red: offsets without the 8 bytes of the header's length."""
    Adapter(small(), "base", None, {"domain": "grid"}).save(tmp_path / "a")
    opened, loaded = Adapter.open(tmp_path / "a"), Adapter.load(tmp_path / "a")
    assert opened.digest == loaded.digest and opened.rank == loaded.rank == 4
    assert opened.manifest == loaded.manifest == {"domain": "grid"}
    assert list(opened.factors) == list(loaded.factors) and "layers.9.up" not in opened.factors
    for name, f in loaded.factors.items():
        assert torch.equal(opened.factors[name].a, f.a) and torch.equal(opened.factors[name].b, f.b)
        assert opened.factors[name] is not opened.factors[name]
    assert layout_of(opened.factors) == layout_of(loaded.factors)


def test_every_access_reads_the_disk_and_no_module_but_its_own(tmp_path: Path) -> None:
    """Red: __getitem__ caches what it read."""
    Adapter(small(), "base").save(tmp_path / "a")
    opened = Adapter.open(tmp_path / "a")
    before = opened.factors["layers.0.up"]
    path = tmp_path / "a" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # NaN at the very end: the last module's B
    path.write_bytes(content)
    assert torch.equal(opened.factors["layers.0.up"].a, before.a)
    with pytest.raises(AdapterError, match=r"NaN or infinity in layers\.2\.up"):
        opened.factors["layers.2.up"]


def test_nan_is_refused_at_once_even_without_a_manifest(tmp_path: Path) -> None:
    """Red: the digest is only taken where cogen.json has one to compare."""
    factors = small()
    factors["layers.1.up"].a[0, 0] = float("nan")
    Adapter(factors, "base").save(tmp_path / "a")
    (tmp_path / "a" / "cogen.json").unlink()
    with pytest.raises(AdapterError, match=r"NaN or infinity in layers\.1\.up"):
        Adapter.open(tmp_path / "a")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    Adapter(small(), "base").save(tmp_path / "a")
    tensors = {
        f"base_model.model.{n}.lora_{side}.weight": getattr(f, side.lower()).to(dtype)
        for n, f in small().items()
        for side in "AB"
    }
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    (tmp_path / "a" / "cogen.json").unlink()
    for name, f in Adapter.open(tmp_path / "a").factors.items():
        assert f.a.dtype == torch.float32
        assert torch.equal(f.a, small()[name].a.to(dtype).float())
    save_file({k: t.to(torch.int32) for k, t in tensors.items()}, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="floating-point factors, got I32"):
        Adapter.open(tmp_path / "a")


def llama() -> Any:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=64, num_key_value_heads=1, tie_word_embeddings=False, **sizes)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    out: Tensor = model(TOKENS).logits
    return out


def by_peft(folder: Path, seed: int, **save: Any) -> Any:
    lora: Any = {"r": 3, "lora_alpha": 6, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}
    model: Any = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", **lora)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    model.save_pretrained(str(folder), **save)
    return model


def test_lora_on_embeddings_and_head_is_read_merged_and_written(tmp_path: Path) -> None:
    """Red: the embedding's factors written under the names of a linear layer."""
    models = [by_peft(tmp_path / str(i), i, save_embedding_layers=False) for i in range(2)]
    adapters = [Adapter.open(tmp_path / str(i)) for i in range(2)]
    assert adapters[0].embeddings == {"model.embed_tokens"}
    assert layout_of(adapters[0].factors)["model.embed_tokens"].shape == (24, 64)
    one = merge_adapters(adapters[:1]).adapter
    one.save(tmp_path / "one")
    wrapped = PeftModel.from_pretrained(llama(), tmp_path / "one").eval()
    assert (logits(models[0]) - logits(llama())).abs().max() > 0.05
    torch.testing.assert_close(logits(wrapped), logits(models[0]), rtol=1e-4, atol=1e-4)
    both = merge_adapters(adapters, method="mean", scale=2.0).adapter
    both.save(tmp_path / "both")
    wrapped = PeftModel.from_pretrained(llama(), tmp_path / "0", adapter_name="a0").eval()
    wrapped.load_adapter(tmp_path / "1", adapter_name="a1")
    wrapped.base_model.set_adapter(["a0", "a1"])
    sum_of_both = logits(wrapped)
    wrapped = PeftModel.from_pretrained(llama(), tmp_path / "both").eval()
    torch.testing.assert_close(logits(wrapped), sum_of_both, rtol=1e-4, atol=1e-4)


def test_whole_embedding_tables_are_refused(tmp_path: Path) -> None:
    """PEFT's default puts the base's own table in the file with the factors."""
    by_peft(tmp_path / "a", 0, save_embedding_layers=True)
    with pytest.raises(AdapterError, match=r"the base's own table .save with save_embedding_layers=False"):
        Adapter.open(tmp_path / "a")


def test_an_embedding_and_a_linear_layer_of_one_name_do_not_mix() -> None:
    f = small()["layers.0.up"]
    table, layer = Adapter({"x": f}, "", embeddings=frozenset("x")), Adapter({"x": f}, "")
    with pytest.raises(FingerprintMismatch, match="of an embedding"):
        merge_adapters([table, layer])
