"""Adapter folders: written, read back bit for bit, read as PEFT reads them, refused with a reason.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from cogen.adapter import Adapter, Factors, Fingerprint, factor_digest
from cogen.base import Base
from cogen.errors import AdapterError, FingerprintMismatch
from cogen.train.lora import attached

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "cogen.json"
TOKENS = (torch.arange(2 * 9).reshape(2, 9) * 37 + 5) % 512
FINGERPRINT = Fingerprint("a" * 64, "b" * 64, "c" * 64)
Q = "model.layers.0.self_attn.q_proj"
PLAIN = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}


def stock(folder: Path) -> Any:
    """The tiny base, afresh: PEFT changes what it wraps."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    out: Tensor = model(input_ids=TOKENS).logits
    return out


def noise(modules: Mapping[str, tuple[int, int]], scalings: tuple[float, ...] = (0.7, 1.5)) -> dict[str, Factors]:
    """Ranks 2 and 5 in turn, the scalings in turns of their own."""
    g = torch.Generator().manual_seed(4)
    found = {}
    for i, (name, (d_out, d_in)) in enumerate(modules.items()):
        r = (2, 5)[i % 2]
        a, b = torch.randn(r, d_in, generator=g) * 0.2, torch.randn(d_out, r, generator=g) * 0.2
        found[name] = Factors(a, b, scalings[i % len(scalings)])
    return found


def small() -> dict[str, Factors]:
    return noise({"model.layers.0.self_attn.q_proj": (6, 4), "model.layers.0.mlp.up_proj": (3, 7)}, (2.0,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound adapter on disk."""
    Adapter(small(), "mine", FINGERPRINT, {"domain": "grid", "num_tokens": 7}).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path) -> str:
    """The one line with which `folder` is refused; it names the folder."""
    with pytest.raises(AdapterError) as error:
        Adapter.load(folder)
    line = str(error.value)
    assert "\n" not in line and str(folder) in line
    return line


def test_save_and_load_give_every_bit_back(tmp_path: Path) -> None:
    """Red: tensors saved as bfloat16."""
    odd = small()
    name = next(iter(odd))
    odd[name].a[0, :4] = torch.tensor([-0.0, 1e-45, 3.4e38, 1 / 3])
    adapter = Adapter(odd, "org/base", FINGERPRINT, {"domain": "grid", "num_tokens": 7, "parents": ["x"]})
    adapter.save(tmp_path / "a")
    found = Adapter.load(tmp_path / "a")
    assert factor_digest(found.factors) == factor_digest(adapter.factors)
    assert (found.base_name, found.fingerprint, found.rank) == ("org/base", FINGERPRINT, 5)
    assert found.manifest == adapter.manifest
    found.save(tmp_path / "b")
    for written in (WEIGHTS, CONFIG, MANIFEST):
        assert (tmp_path / "a" / written).read_bytes() == (tmp_path / "b" / written).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(("scaling", "rank"), [(0.1, 3), (1 / 3, 7), (2.0, 16), (0.7, 5), (5 / 49, 49), (1.1, 25)])
def test_scaling_survives_the_way_through_alpha(tmp_path: Path, scaling: float, rank: int) -> None:
    """PEFT's file holds alpha = scaling * rank; the quotient must be the same number again."""
    Adapter({"m": Factors(torch.ones(rank, 4), torch.ones(60, rank), scaling)}, "").save(tmp_path / "a")
    assert Adapter.load(tmp_path / "a").factors["m"].scaling == pytest.approx(scaling, rel=1e-15)


def test_peft_loads_it_and_gives_the_logits_of_attached(tiny: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """Ranks and scalings differ by module. Red: alpha_pattern dropped of the config."""
    adapter = Adapter(noise(tiny.info.modules), str(tiny_folder), tiny.info.fingerprint)
    adapter.save(tmp_path / "a")
    plain = stock(tiny_folder)
    with attached(plain, adapter.factors):
        expected = logits(plain)
    assert (expected - logits(plain)).abs().max() > 0.5
    wrapped = PeftModel.from_pretrained(stock(tiny_folder), tmp_path / "a").eval()
    torch.testing.assert_close(logits(wrapped), expected, rtol=1e-5, atol=1e-5)


CONFIGS = {
    "plain": PLAIN,
    "rslora": {**PLAIN, "use_rslora": True},
    "ranks": {**PLAIN, "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 7}},
    "alphas": {**PLAIN, "alpha_pattern": {"layers.0.mlp.down_proj": 3, "down_proj": 5}},
    "all": {**PLAIN, "use_rslora": True, "rank_pattern": {"down_proj": 3}, "alpha_pattern": {r".*1.*q_proj": 9}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_pefts_own_folder_is_read_as_peft_reads_it(config: Any, tiny: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """Red: alpha / r for rsLoRA too; patterns unread; patterns matched anywhere in the name."""
    model: Any = get_peft_model(stock(tiny_folder), LoraConfig(task_type="CAUSAL_LM", **config))
    g = torch.Generator().manual_seed(8)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=g) * 0.3
    model.save_pretrained(str(tmp_path / "peft"))
    model = PeftModel.from_pretrained(stock(tiny_folder), tmp_path / "peft").eval()  # PEFT sorts patterns on the way
    layers = {n: m for n, m in model.base_model.model.named_modules() if hasattr(m, "lora_A")}
    found = Adapter.load(tmp_path / "peft")
    assert set(found.factors) == set(layers)
    for name, f in found.factors.items():
        assert f.scaling == pytest.approx(layers[name].scaling["default"], rel=1e-12)
        torch.testing.assert_close(f.delta(), layers[name].get_delta_weight("default"), rtol=1e-5, atol=1e-6)
    assert found.fingerprint is None and found.manifest == {}
    tiny.info.require(found, "peft")
    expected, plain = logits(model), stock(tiny_folder)
    with attached(plain, found.factors):
        torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-4)


class Burglar:
    """Executes code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_pickled_file_is_left_unread(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Burglar(tmp_path / "trace")))
    assert "adapter_model.bin, a pickled file, which is left unread" in refused(folder)
    assert not (tmp_path / "trace").exists()
    pickle.loads((folder / "adapter_model.bin").read_bytes())
    assert (tmp_path / "trace").exists(), "the file must be one that would have done it"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("peft_type", "IA3"),
        ("alora_invocation_tokens", [3]),
        ("trainable_token_indices", [3]),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(folder: Path, key: str, value: Any) -> None:
    edit(folder / CONFIG, **{key: value})
    assert f"{key} = {value!r}" in refused(folder).replace("peft_type 'IA3'", "peft_type = 'IA3'")


def test_pefts_dora_folder_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    model: Any = get_peft_model(stock(tiny_folder), LoraConfig(task_type="CAUSAL_LM", use_dora=True, **PLAIN))
    model.save_pretrained(str(tmp_path / "dora"))
    assert "use_dora" in refused(tmp_path / "dora")
    edit(tmp_path / "dora" / CONFIG, use_dora=False)
    assert "lora_magnitude_vector" in refused(tmp_path / "dora")


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_a_start_that_rewrites_the_base_is_refused(tiny_folder: Path, tmp_path: Path, start: str) -> None:
    """These take their first B A out of the base's weights: scaling * B A is no longer what was learnt."""
    lora = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=start, **PLAIN)  # type: ignore[arg-type]
    model: Any = get_peft_model(stock(tiny_folder), lora)
    model.save_pretrained(str(tmp_path / "start"))
    moved = model.base_model.model.get_submodule(Q).base_layer.weight - stock(tiny_folder).get_submodule(Q).weight
    assert moved.abs().max() > 0.01
    assert f"init_lora_weights = {start!r}" in refused(tmp_path / "start")


def test_missing_parts(folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert f"no {CONFIG}" in refused(tmp_path / "empty")
    (folder / WEIGHTS).unlink()
    assert "got no weights" in refused(folder)


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {k: v.clone() for k, v in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(f"{KEY}A.weight"), "lora_B alone"),
        (lambda t: t.pop(f"{KEY}B.weight"), "lora_A alone"),
        (lambda t: t[f"{KEY}A.weight"].view(-1).__setitem__(3, float("nan")), "NaN or infinity in model.layers.0"),
        (lambda t: t[f"{KEY}B.weight"].view(-1).__setitem__(0, float("inf")), "NaN or infinity in model.layers.0"),
        (lambda t: t.update({f"{KEY}A.weight": torch.ones(3, 4)}), "(3, 4) and (6, 2) in model.layers.0.self_attn"),
        (lambda t: t.update({f"{KEY}A.weight": torch.ones(4)}), "(4,) and (6, 2)"),
        (lambda t: t.update({f"{KEY}A.weight": torch.ones(0, 4), f"{KEY}B.weight": torch.ones(6, 0)}), "(0, 4)"),
        (lambda t: t.update({"lm_head.weight": torch.ones(2, 2)}), "tensor 'lm_head.weight'"),
        (lambda t: t.clear(), "an empty file"),
    ],
    ids=["no-A", "no-B", "nan", "inf", "ranks", "vector", "rank-0", "foreign", "empty"],
)
def test_malformed_factors(folder: Path, change: Callable[[dict[str, Tensor]], object], told: str) -> None:
    change_tensors(folder, change)
    assert told in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 40, None], ids=["empty", "text", "zeros", "cut"])
def test_broken_safetensors(folder: Path, content: bytes | None) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-5] if content is None else content)
    assert "expected a safetensors file" in refused(folder)


@pytest.mark.parametrize("name", [CONFIG, MANIFEST])
@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"null", b"\xff\xfe{}"], ids=repr)
def test_broken_json(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refused(folder)


NONSENSE: list[dict[str, Any]] = [
    {"lora_alpha": "many"},
    {"lora_alpha": None},
    {"lora_alpha": float("nan")},
    {"alpha_pattern": [1]},
    {"alpha_pattern": {"(": 1}},
    {"r": "few"},
    {"rank_pattern": 3},
]


@pytest.mark.parametrize("values", NONSENSE, ids=str)
def test_nonsense_in_the_config(folder: Path, values: Any) -> None:
    edit(folder / CONFIG, **values)
    assert next(iter(values)).replace("lora_", "") in refused(folder)


def test_a_rank_that_the_config_does_not_have_is_refused(folder: Path) -> None:
    """PEFT divides alpha by the config's rank: read by the tensors', the scaling would be another."""
    edit(folder / CONFIG, r=4)
    assert "expected rank 4 and a finite alpha in model.layers.0.mlp.up_proj, got rank 5" in refused(folder)


def test_factors_that_are_not_the_manifests_are_refused(folder: Path) -> None:
    change_tensors(folder, lambda t: t[f"{KEY}A.weight"].view(-1).view(torch.int32)[:1].bitwise_xor_(1))
    assert "expected factors with sha256" in refused(folder)


def test_a_manifest_of_another_format_is_refused(folder: Path) -> None:
    edit(folder / MANIFEST, format=2)
    assert f"cannot read {MANIFEST}: expected format 1, got format 2" in refused(folder)
    edit(folder / MANIFEST, format=1, fingerprint={"weights": "only"})
    assert MANIFEST in refused(folder)


@pytest.mark.parametrize("part", ["weights", "tokenizer", "modules"])
def test_a_mismatch_says_what_and_where(part: str) -> None:
    other = replace(FINGERPRINT, **{part: "f" * 64})
    FINGERPRINT.require(replace(FINGERPRINT), "round 2")
    with pytest.raises(FingerprintMismatch) as error:
        FINGERPRINT.require(other, "domain 'clinical'")
    mine = getattr(FINGERPRINT, part)[:12]
    assert f"expected base {part} {mine}, got ffffffffffff (domain 'clinical')" in str(error.value)


def flipped(tensor: Tensor, index: int) -> Tensor:
    """A copy with the lowest bit of one number turned over."""
    bits = tensor.clone().view(torch.int32)
    bits.view(-1)[index] ^= 1
    return bits.view(torch.float32)


def test_the_digest_feels_every_bit() -> None:
    """Red: only A hashed; rounding before hashing; the scaling or the name dropped."""
    factors = small()
    digests = {factor_digest(factors)}
    tries = 1
    for name, f in factors.items():
        changed = [replace(f, a=flipped(f.a, i)) for i in (0, f.a.numel() - 1)]
        changed += [replace(f, b=flipped(f.b, i)) for i in (0, f.b.numel() - 1)]
        changed += [replace(f, scaling=torch.nextafter(torch.tensor(2.0), torch.tensor(3.0)).item())]
        digests |= {factor_digest({**factors, name: g}) for g in changed}
        digests |= {factor_digest({("x" + n if n == name else n): g for n, g in factors.items()})}
        tries += len(changed) + 1
    assert len(digests) == tries
    zero = {"m": Factors(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)}
    minus = {"m": Factors(-torch.zeros(1, 2), torch.zeros(2, 1), 1.0)}
    assert factor_digest(zero) != factor_digest(minus)


def test_the_digest_does_not_feel_the_layout(folder: Path) -> None:
    """Order, prefix, adapter name in the keys, and memory layout are not the adapter's."""
    factors = small()
    expected = factor_digest(factors)
    assert factor_digest(dict(reversed(factors.items()))) == expected
    strided = {n: replace(f, a=f.a.T.contiguous().T, b=f.b.T.contiguous().T) for n, f in factors.items()}
    assert not next(iter(strided.values())).a.is_contiguous()
    assert factor_digest(strided) == expected
    tensors = load_file(folder / WEIGHTS)
    renamed = {k.removeprefix("base_model.model.").replace(".weight", ".default.weight"): v for k, v in tensors.items()}
    save_file(dict(reversed(renamed.items())), folder / WEIGHTS, metadata={"note": "another layout"})
    assert factor_digest(Adapter.load(folder).factors) == expected
