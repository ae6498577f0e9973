"""Folders made by PEFT or by hand: PEFT's value, or a refusal that names the key. The oracle is PEFT's own loader.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from cogen.adapter import Adapter, Factors
from cogen.adapter.peft_fields import READ, WITHOUT_EFFECT
from cogen.errors import AdapterError, FingerprintMismatch, MergeError
from cogen.merge import merge_adapters

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
UP0, HEAD, TABLE = "model.layers.0.mlp.up_proj", "lm_head", "model.embed_tokens"
SIZES = {Q0: (24, 24), Q1: (24, 24), UP0: (40, 24), HEAD: (64, 24), TABLE: (24, 64)}
PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def llama() -> Any:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=False, **sizes)).eval()


def tensors(ranks: dict[str, int], seed: int = 0) -> dict[str, Tensor]:
    """PEFT's keys and random factors of some modules."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, r in ranks.items():
        d_out, d_in = SIZES[name]
        end = "" if name == TABLE else ".weight"
        kind = "lora_embedding_" if name == TABLE else "lora_"
        found[f"{PREFIX}{name}.{kind}A{end}"] = torch.randn(r, d_in, generator=g)
        found[f"{PREFIX}{name}.{kind}B{end}"] = torch.randn(d_out, r, generator=g)
    return found


def write(folder: Path, config: dict[str, Any], content: dict[str, Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config))
    save_file({key: tensor.clone() for key, tensor in content.items()}, folder / WEIGHTS)
    return folder


def pefts(llama: Any, folder: Path) -> dict[str, Tensor]:
    """delta_W by module in float64, as PEFT loads the folder; modules whose update is 0 are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(copy.deepcopy(llama), str(folder))
    found = {}
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "scaling") and hasattr(layer, "lora_A"):
            pairs = [(layer.lora_A, layer.lora_B), (layer.lora_embedding_A, layer.lora_embedding_B)]
            a, b = next((a["default"], b["default"]) for a, b in pairs if "default" in a)
            a, b = (x.weight if hasattr(x, "weight") else x for x in (a, b))
            found[name] = layer.scaling["default"] * (b.detach().double() @ a.detach().double())
    return {name: delta for name, delta in found.items() if delta.abs().max() > 0}


def cogens(folder: Path) -> dict[str, Tensor]:
    factors = Adapter.open(folder).factors
    return {n: factors[n].scaling * (factors[n].b.double() @ factors[n].a.double()) for n in factors}


def refused(folder: Path) -> str:
    with pytest.raises(AdapterError) as error:
        Adapter.open(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(llama: Any, folder: Path) -> dict[str, Tensor]:
    expected, found = pefts(llama, folder), cogens(folder)
    assert expected.keys() == found.keys()
    for name, delta in found.items():
        torch.testing.assert_close(delta, expected[name], rtol=1e-12, atol=0)
    return found


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in keys}


ACCEPTED = {
    "plain": (PLAIN, {Q0: 4, Q1: 4}),
    "no lora_alpha": (without(PLAIN, "lora_alpha"), {Q0: 4}),
    "no r": (without(PLAIN, "r"), {Q0: 8}),
    "nothing but targets": ({"peft_type": "LORA", "target_modules": ["q_proj"]}, {Q0: 8, Q1: 8}),
    "no lora_alpha, rslora": ({**without(PLAIN, "lora_alpha"), "use_rslora": True}, {Q0: 4}),
    "no lora_alpha, ranks": ({**without(PLAIN, "lora_alpha"), "rank_pattern": {"layers.0.*": 2}}, {Q0: 2, Q1: 4}),
    "no r, alphas": ({**without(PLAIN, "r"), "alpha_pattern": {"layers.1.*": 3}}, {Q0: 8, Q1: 8}),
    "float alpha": ({**PLAIN, "lora_alpha": 2.5}, {Q0: 4}),
    "negative alpha": ({**PLAIN, "lora_alpha": -6}, {Q0: 4}),
    "first pattern wins": ({**PLAIN, "alpha_pattern": {"q_proj": 1, "layers.1.self_attn.q_proj": 9}}, {Q0: 4, Q1: 4}),
    "a pattern of dots": ({**PLAIN, "alpha_pattern": {"model.layers.0.self_attn.q_proj": 9}}, {Q0: 4, Q1: 4}),
    "regex targets": ({**PLAIN, "target_modules": r".*\.(q|up)_proj"}, {Q0: 4, UP0: 4}),
    "all-linear": ({**PLAIN, "target_modules": "All-Linear"}, {Q0: 4, UP0: 4}),
    "whole names": ({**PLAIN, "target_modules": [Q0, UP0]}, {Q0: 4, UP0: 4}),
    "one layer": ({**PLAIN, "layers_to_transform": 0}, {Q0: 4}),
    "layers by pattern": ({**PLAIN, "layers_to_transform": [1], "layers_pattern": "layers"}, {Q1: 4}),
    "excluded": ({**PLAIN, "target_modules": "all-linear", "exclude_modules": ["up_proj"]}, {Q0: 4}),
    "head and table": ({**PLAIN, "target_modules": ["lm_head", "embed_tokens"]}, {HEAD: 4, TABLE: 4}),
    "table, rslora": ({**PLAIN, "target_modules": ["embed_tokens"], "use_rslora": True}, {TABLE: 4}),
    "fan_in_fan_out": ({**PLAIN, "fan_in_fan_out": True}, {Q0: 4}),
    "dropout": ({**PLAIN, "lora_dropout": 0.5, "inference_mode": False}, {Q0: 4}),
    "random start": ({**PLAIN, "init_lora_weights": "gaussian"}, {Q0: 4, Q1: 4}),
    "eva": ({**PLAIN, "init_lora_weights": "eva", "eva_config": {"rho": 1.5}}, {Q0: 4, Q1: 4}),
    "orthogonal": ({**PLAIN, "init_lora_weights": "orthogonal"}, {Q0: 4, Q1: 4}),
    "no start": ({**PLAIN, "init_lora_weights": False}, {Q0: 4, Q1: 4}),
    "mica": ({**PLAIN, "init_lora_weights": "mica"}, {Q0: 4, Q1: 4}),
}


@pytest.mark.parametrize(("config", "ranks"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_accepted_has_pefts_value(llama: Any, tmp_path: Path, config: Any, ranks: Any) -> None:
    """Red: a missing alpha taken as the rank; exclude_modules not looked at."""
    found = same(llama, write(tmp_path / "a", config, tensors(ranks)))
    assert found.keys() == ranks.keys()


def test_a_missing_alpha_is_8(tmp_path: Path) -> None:
    """By hand: r 4 and no alpha is a scaling of 8 / 4."""
    folder = write(tmp_path / "a", without(PLAIN, "lora_alpha"), tensors({Q0: 4}))
    assert Adapter.open(folder).factors[Q0].scaling == 2.0


REFUSED = {
    "layer_replication": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication = [[0, 2], [1, 2]]"),
    "dora": ({"use_dora": True}, "use_dora"),
    "rslora as text": ({"use_rslora": "false"}, "use_rslora = 'false'"),
    "lora_bias": ({"lora_bias": True}, "lora_bias"),
    "bias": ({"bias": None}, "bias"),
    "parameters": ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
    "tokens": ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices"),
    "alora": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "saved": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "tying": ({"ensure_weight_tying": True}, "ensure_weight_tying"),
    "qalora": ({"use_qalora": True}, "use_qalora"),
    "kasa": ({"kasa_config": {"beta": 0.1}}, "kasa_config"),
    "arrow": ({"arrow_config": {"top_k": 2}}, "arrow_config"),
    "bdlora": ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
    "velora": ({"velora_config": {"scale": 1.0}}, "velora_config"),
    "monteclora": ({"monteclora_config": {"num_samples": 8}}, "monteclora_config"),
    "megatron": ({"megatron_config": {"x": 1}}, "megatron_config"),
    "a setting of tomorrow": ({"use_tomorrow": True}, "use_tomorrow = True"),
    "a table of tomorrow": ({"tomorrow_config": {"k": 0}}, "tomorrow_config"),
    **{f"start {s}": ({"init_lora_weights": s}, "init_lora_weights") for s in ("pissa", "olora", "corda", "loftq")},
    **{f"start {s}": ({"init_lora_weights": s}, "init_lora_weights") for s in ("lora_ga", "PiSSA_niter_4", "new", 2)},
    "another kind": ({"peft_type": "ADALORA"}, "peft_type 'ADALORA'"),
    "small letters": ({"peft_type": "lora"}, "peft_type 'lora'"),
    "another task": ({"task_type": "SEQ_CLS"}, "task_type"),
    "base as a number": ({"base_model_name_or_path": 3}, "base_model_name_or_path"),
    "rank as text": ({"r": "4"}, "r = '4'"),
    "rank as a float": ({"r": 4.0}, "r = 4.0"),
    "rank as a boolean": ({"r": True}, "r = True"),
    "alpha as text": ({"lora_alpha": "6"}, "lora_alpha = '6'"),
    "alpha as a boolean": ({"lora_alpha": True}, "lora_alpha = True"),
    "alpha null": ({"lora_alpha": None}, "lora_alpha = None"),
    "alpha beyond floats": ({"lora_alpha": 10**400}, "lora_alpha"),
    "pattern of text": ({"alpha_pattern": {"q_proj": "6"}}, "alpha_pattern"),
    "rank 0": ({"r": 0}, "rank 0"),
    "not targeted": ({"target_modules": ["v_proj"]}, "target_modules = ['v_proj']"),
    "part of a name": ({"target_modules": ["proj"]}, "target_modules"),
    "a pattern of a part": ({"target_modules": "q_proj"}, "target_modules"),
    "no targets": ({"target_modules": []}, "target_modules"),
    "null targets": ({"target_modules": None}, "target_modules"),
    "targets of numbers": ({"target_modules": [1]}, "target_modules"),
    "a broken pattern": ({"target_modules": "("}, "target_modules"),
    "excluded": ({"exclude_modules": ["q_proj"]}, "exclude_modules"),
    "excluded by pattern": ({"exclude_modules": ".*"}, "exclude_modules"),
    "another layer": ({"layers_to_transform": [1]}, "layers_to_transform"),
    "layers of text": ({"layers_to_transform": ["0"]}, "layers_to_transform"),
    "another list of layers": ({"layers_to_transform": 0, "layers_pattern": ["h"]}, "layers_to_transform"),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_names_the_key(tmp_path: Path, change: Any, told: str) -> None:
    assert told in refused(write(tmp_path / "a", {**PLAIN, **change}, tensors({Q0: 4})))


@pytest.mark.parametrize("key", ["peft_type", "target_modules"])
def test_a_missing_key_without_a_default_is_named(tmp_path: Path, key: str) -> None:
    """PEFT has no default for peft_type, and another one of target_modules for each architecture."""
    assert key in refused(write(tmp_path / "a", without(PLAIN, key), tensors({Q0: 4})))


def test_all_linear_has_neither_head_nor_table_as_in_peft(llama: Any, tmp_path: Path) -> None:
    for name in (HEAD, TABLE):
        folder = write(tmp_path / "a", {**PLAIN, "target_modules": "all-linear"}, tensors({name: 4}))
        assert pefts(llama, folder) == {}
        assert "target_modules = 'all-linear'" in refused(folder)


CANDIDATES: list[Any] = [True, 3, 0.25, "q_proj", "gaussian", ["q_proj"], [0], [[0, 1]], {"q_proj": 3}, {"top_k": 2}]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(LoraConfig)] + ["not_of_this_peft"])
def test_every_setting_of_peft_has_pefts_value_or_a_refusal(llama: Any, tmp_path: Path, name: str) -> None:
    """Values of all kinds in every field of the installed PEFT: a new field is refused by name, or without effect.

    Red: READ or WITHOUT_EFFECT with a field more, such as use_rslora read by no one.
    """
    ranks = {Q0: 4, Q1: 4}
    for value in CANDIDATES:
        folder = write(tmp_path / "a", {**PLAIN, name: value}, tensors(ranks))
        try:
            found = cogens(folder)
        except AdapterError as error:
            assert name in str(error)  # noqa: PT017
            continue
        try:
            expected = pefts(llama, folder)
        except Exception:
            continue
        assert expected.keys() == found.keys(), f"{name} = {value!r}"
        for module, delta in found.items():
            torch.testing.assert_close(delta, expected[module], rtol=1e-12, atol=0, msg=f"{name} = {value!r}")


def test_the_lists_of_settings_are_of_peft() -> None:
    """Of older versions of PEFT there is merge_weights alone."""
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    assert known >= (READ | WITHOUT_EFFECT) - {"merge_weights"}
    assert not READ & WITHOUT_EFFECT


def test_what_peft_writes_itself_is_accepted(llama: Any, tmp_path: Path) -> None:
    """All keys that PEFT writes at their defaults."""
    PeftModel(copy.deepcopy(llama), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(
        str(tmp_path / "a")
    )
    values = json.loads((tmp_path / "a" / CONFIG).read_text())
    save_file(tensors({Q0: 8, Q1: 8}), tmp_path / "a" / WEIGHTS)
    assert len(values) > 35
    same(llama, tmp_path / "a")


# --- keys of the tensors


def renamed(content: dict[str, Tensor], old: str, new: str, only: str = "") -> dict[str, Tensor]:
    return {(k.replace(old, new) if only in k else k): v for k, v in content.items()}


NAMED = tensors({Q0: 4, Q1: 4})
MIXED = {
    "two adapters": {**renamed(NAMED, ".weight", ".default.weight"), **renamed(NAMED, ".weight", ".other.weight")},
    "one with a name": {**NAMED, **renamed(NAMED, ".weight", ".other.weight")},
    "A of one, B of the other": renamed(NAMED, "lora_B.weight", "lora_B.other.weight"),
    "one module of another": renamed(NAMED, ".weight", ".other.weight", "layers.1"),
    "some without prefix": renamed(NAMED, PREFIX, "", "layers.1"),
    "both with and without": {**NAMED, **renamed(NAMED, PREFIX, "")},
    "prefix twice": renamed(NAMED, PREFIX, PREFIX + PREFIX),
    "linear and table": {**tensors({TABLE: 4}), **renamed(tensors({Q0: 4}), Q0, TABLE)},
}


@pytest.mark.parametrize("content", MIXED.values(), ids=MIXED.keys())
def test_tensors_of_two_adapters_or_spellings_are_refused_by_key(tmp_path: Path, content: dict[str, Tensor]) -> None:
    """Red: the last of two keys wins."""
    line = refused(write(tmp_path / "a", {**PLAIN, "target_modules": ["q_proj", "embed_tokens"]}, content))
    assert "the tensors of one adapter" in line
    assert any(repr(key) in line for key in content)


@pytest.mark.parametrize(("old", "new"), [(".weight", ".default.weight"), (".weight", ".my-grid.weight"), (PREFIX, "")])
def test_one_spelling_throughout_is_read(tmp_path: Path, old: str, new: str) -> None:
    """A state dict saved whole has the adapter's name in its keys; transformers takes keys without the prefix."""
    plain = cogens(write(tmp_path / "a", PLAIN, NAMED))
    other = cogens(write(tmp_path / "b", PLAIN, renamed(NAMED, old, new)))
    assert plain.keys() == other.keys() == {Q0, Q1}
    assert all(torch.equal(plain[n], other[n]) for n in plain)


@pytest.mark.parametrize(
    "key", ["lora_magnitude_vector", "lora_B.bias", "lora_diag", "base_layer.lora_A.weight", "lora_A.weight.scale"]
)
def test_further_tensors_are_refused_by_key(tmp_path: Path, key: str) -> None:
    whole = f"{PREFIX}{Q0}.{key}"
    assert repr(whole) in refused(write(tmp_path / "a", PLAIN, {**NAMED, whole: torch.ones(4, 24)}))


# --- numbers

KEY_A, KEY_B = f"{PREFIX}{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_B.weight"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_has_pefts_value(llama: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    same(llama, write(tmp_path / "a", PLAIN, {k: v.to(dtype) for k, v in NAMED.items()}))


@pytest.mark.parametrize("value", [1e308, -1e308, 3.5e38, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", [KEY_A, KEY_B])
def test_what_float32_cannot_hold_is_refused_by_key(tmp_path: Path, value: float, key: str) -> None:
    content = {k: v.double() for k, v in NAMED.items()}
    content[key][1, 2] = value
    line = refused(write(tmp_path / "a", PLAIN, content))
    assert repr(key) in line and f"NaN or infinity in {Q0}" in line


def test_a_product_that_float32_cannot_hold_is_refused_by_key(tmp_path: Path) -> None:
    """By hand: 1e20 * 1e19 = 1e39. Red: factors looked at one by one."""
    content = {k: v.clone() for k, v in tensors({Q0: 4}).items()}
    content[KEY_A][0, 0], content[KEY_B][0, 0] = 1e20, 1e19
    line = refused(write(tmp_path / "a", PLAIN, content))
    assert repr(KEY_A) in line and repr(KEY_B) in line and "3.4e38" in line
    content[KEY_B][:, 0] = 0.0
    assert cogens(write(tmp_path / "b", PLAIN, content))[Q0].isfinite().all()


def test_an_alpha_that_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    line = refused(write(tmp_path / "a", {**PLAIN, "lora_alpha": 1e308}, NAMED))
    assert "3.4e38" in line


def test_minus_zero_and_the_smallest_numbers_are_kept(llama: Any, tmp_path: Path) -> None:
    content = {k: v.clone() for k, v in NAMED.items()}
    content[KEY_A][0, :3] = torch.tensor([-0.0, 1e-45, 3.4e38])
    content[KEY_B][:, 0] = 1e-3
    folder = write(tmp_path / "a", PLAIN, content)
    same(llama, folder)
    assert torch.equal(
        Adapter.open(folder).factors[Q0].a.view(torch.int32), load_file(folder / WEIGHTS)[KEY_A].view(torch.int32)
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_other_kinds_of_numbers_are_refused_by_key(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {**NAMED, KEY_B: NAMED[KEY_B].to(dtype)}
    assert repr(KEY_B) in refused(write(tmp_path / "a", PLAIN, content))


@pytest.mark.parametrize(
    "shapes", [((0, 24), (24, 0)), ((4, 0), (24, 4)), ((4, 24), (0, 4)), ((), ()), ((4, 24, 1), (24, 4))]
)
def test_empty_and_odd_shapes_are_refused(tmp_path: Path, shapes: Any) -> None:
    content = {KEY_A: torch.ones(shapes[0]), KEY_B: torch.ones(shapes[1])}
    assert Q0 in refused(write(tmp_path / "a", PLAIN, content))


# --- names of bases


def test_bases_of_equal_shapes_and_another_name_do_not_mix(tmp_path: Path) -> None:
    """Red: names are not compared where there are no fingerprints."""
    named = {
        name: Adapter.open(write(tmp_path / name[-1], {**PLAIN, "base_model_name_or_path": name}, NAMED))
        for name in ("org/base-a", "org/base-b", "org/base-a/")
    }
    a, b, again = named.values()
    with pytest.raises(FingerprintMismatch, match=r"base_model_name_or_path = 'org/base-a'.*got 'org/base-b'") as error:
        merge_adapters([a, b])
    assert "\n" not in str(error.value)
    merge_adapters([a, again])
    merge_adapters([a, Adapter.open(write(tmp_path / "none", PLAIN, NAMED))])


@pytest.mark.parametrize("method", ["mean", "task_arithmetic", "stack", "ties", "dare", "tsv_m", "iso_c"])
@pytest.mark.parametrize("scale", [1e30, 1e308])
def test_a_merge_that_float32_cannot_hold_is_refused_by_module(method: str, scale: float) -> None:
    """By hand: an update of about 1e20, times the scale. Red: NaN in the result, without a word."""
    g = torch.Generator().manual_seed(1)
    made = [
        Adapter({"m": Factors(1e10 * torch.randn(3, 6, generator=g), 1e10 * torch.randn(5, 3, generator=g), 1.0)}, "")
        for _ in range(2)
    ]
    with pytest.raises(MergeError, match=r"3\.4e38.*\(m\)"):
        merge_adapters(made, method=method, scale=scale)
    assert merge_adapters(made, method=method).adapter.factors["m"].delta().isfinite().all()


@pytest.mark.parametrize("method", ["mean", "task_arithmetic", "tsv_m"])
def test_weights_of_1e308_are_refused_or_right(method: str) -> None:
    g = torch.Generator().manual_seed(1)
    made = [
        Adapter({"m": Factors(torch.randn(3, 6, generator=g), torch.randn(5, 3, generator=g), 1.0)}, "") for _ in "ab"
    ]
    with pytest.raises(MergeError, match="a finite sum"):
        merge_adapters(made, [1e308, 1e308], method=method)
    if method == "task_arithmetic":
        with pytest.raises(MergeError, match=r"3\.4e38"):
            merge_adapters(made, [1e308, 1.0], method=method)
        return
    alone = merge_adapters(made, [1e308, 1.0], method="mean").adapter.factors["m"].delta()
    torch.testing.assert_close(alone, made[0].factors["m"].delta())
