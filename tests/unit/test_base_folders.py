"""Base folders with an adapter in them, tokenizers with more tokens than the embedding, and text beyond the context.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from cogen.adapter import Adapter
from cogen.base import Base, describe_base, load_base
from cogen.data.pack import Window
from cogen.errors import BaseModelError, CogenError, ConfigError, FingerprintMismatch
from cogen.evaluate.generate import generate
from cogen.evaluate.probes import Probe, score_probes
from cogen.train.likelihood import sum_nats
from cogen.train.lora import init_factors
from tests.shell import Cogen, refused

SEEDS = Path(__file__).parents[2] / "seeds"


def text_of(error: pytest.ExceptionInfo[CogenError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def own(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


# --- an adapter in the folder


@pytest.mark.parametrize("files", [("adapter_config.json", "adapter_model.safetensors"), ("adapter_config.json",)])
def test_a_base_folder_with_an_adapter_in_it_is_refused(tiny: Base, own: Path, files: tuple[str, ...]) -> None:
    """transformers would load the adapter too, and its scores would be those of row `base`. Red: it is not looked for."""
    factors = init_factors(tiny.info.modules, 2, 1.0, 0)
    for f in factors.values():
        f.b.fill_(0.1)
    Adapter(factors, str(own)).save(own.parent / "adapter")
    for name in files:
        shutil.copy(own.parent / "adapter" / name, own / name)
    with pytest.raises(BaseModelError, match=rf"an adapter's {files[0]} in its folder") as error:
        load_base(str(own))
    assert str(own) in text_of(error) and "--adapter" in text_of(error)


def test_an_adapter_folder_is_no_base(tiny: Base, cogen: Cogen, tmp_path: Path) -> None:
    Adapter(init_factors(tiny.info.modules, 2, 1.0, 0), "").save(tmp_path / "adapter")
    for command in (("data", SEEDS / "grid.jsonl"), ("evaluate", "--data", SEEDS / "grid.jsonl"), ("generate", "x")):
        refused(cogen(*command, "--base", tmp_path / "adapter"), "adapter_config.json", "--adapter")


def test_an_adapter_laid_into_a_known_base_is_seen(tiny: Base, own: Path) -> None:
    """The fingerprint is in the cache by then."""
    describe_base(str(own))
    (own / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(BaseModelError, match=r"adapter_model\.bin"):
        describe_base(str(own))


# --- tokens beyond the embedding


def with_tokens(folder: Path, **added: Any) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if "tokens" in added:
        tokenizer.add_tokens(added["tokens"])
    if "special" in added:
        tokenizer.add_special_tokens(added["special"])
    tokenizer.save_pretrained(folder)
    return folder


def test_tokens_without_a_row_are_refused_by_name(own: Path) -> None:
    """512 rows, so that the ids 512 and 513 have none. Red: an IndexError when the first text holds one."""
    with pytest.raises(
        BaseModelError, match=r"below 512.*got 2 at 512 or above: 'transformator' = 512, .* = 513"
    ) as error:
        describe_base(str(with_tokens(own, tokens=["transformator", "Żółć"])))
    assert "resize_token_embeddings" in text_of(error)


def test_an_end_token_without_a_row_is_refused(own: Path) -> None:
    with pytest.raises(BaseModelError, match=r"'<end>' = 512"):
        describe_base(str(with_tokens(own, special={"eos_token": "<end>"})))


def test_a_padding_token_without_a_row_is_no_obstacle(own: Path) -> None:
    """A text never holds special tokens, not even one that spells it; a prompt does, and is refused."""
    base = load_base(str(with_tokens(own, special={"pad_token": "<pad>"})), device="cpu", precision="float32")
    assert base.tokenizer.convert_tokens_to_ids("<pad>") == 512
    choices = ("<pad>", "x")
    assert score_probes(base, [Probe("1", "The relay <pad>", choices, 0, "")], "base", "d").num_probes == 1
    with pytest.raises(ConfigError, match=r"tokens below 512.*got '<pad>' = 512") as error:
        generate(base, ["The relay <pad>"], 2)
    text_of(error)


def test_a_smaller_vocabulary_is_fine(own: Path, tmp_path: Path) -> None:
    """An embedding padded to 520 rows, as many bases have it."""
    model = LlamaForCausalLM.from_pretrained(own)
    model.resize_token_embeddings(520, mean_resizing=False)
    model.save_pretrained(own)
    assert describe_base(str(own)).embeddings == {"model.embed_tokens": (32, 520)}


def test_all_commands_refuse_it_in_one_line(own: Path, cogen: Cogen) -> None:
    with_tokens(own, tokens=["transformator"])
    grid = SEEDS / "grid.jsonl"
    train = ("train", "--data", grid, "--domain", "d", "--out", "a")
    for command in (train, ("data", grid), ("evaluate", "--data", grid), ("generate", "x")):
        refused(cogen(*command, "--base", own), "'transformator' = 512", "below 512")
    assert not list(Path.cwd().iterdir())


# --- beyond the context


@pytest.fixture(params=["learned", "rotary"])
def short(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path) -> Base:
    """A base with a context of 32 tokens: with learned positions there is no 33rd."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "short"))
    torch.manual_seed(0)
    small: Any = {"vocab_size": 512, "eos_token_id": 0, "bos_token_id": 0}
    if request.param == "learned":
        model: Any = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=16, n_layer=1, n_head=2, **small))
    else:
        sizes: Any = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=32, **sizes, **small))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return load_base(str(folder), device="cpu", precision="float32")


def test_a_window_of_the_whole_context_is_scored(short: Base) -> None:
    assert short.info.max_tokens == 32
    assert sum_nats(short, [Window(torch.arange(32).numpy().astype("int32"), 32)]) > 0


def test_a_reply_up_to_the_context_is_given_and_a_longer_one_refused(short: Base) -> None:
    """The last token of a reply is not read, so 33 tokens in all fit."""
    prompt = "x" * 3
    num = len(short.tokenizer(prompt)["input_ids"])
    assert generate(short, [prompt], 33 - num)
    with pytest.raises(ConfigError, match=r"at most 32 tokens.*got 33 \(prompt and reply\)") as error:
        generate(short, [prompt], 34 - num)
    text_of(error)


def test_a_long_probe_is_refused(short: Base) -> None:
    with pytest.raises(ConfigError, match="at most 32 tokens"):
        score_probes(short, [Probe("1", "x 1 y 2 " * 30, ("a", "b"), 0, "")], "base", "d")


def test_commands_refuse_more_than_the_context_in_one_line(short: Base, cogen: Cogen) -> None:
    at, grid = ("--base", short.info.folder), SEEDS / "grid.jsonl"
    said = ("at most 32 tokens",)
    refused(cogen("evaluate", *at, "--data", grid), *said, "--sequence-length")
    refused(cogen("evaluate", *at, "--data", grid, "--sequence-length", 33), *said)
    refused(cogen("generate", *at, "x", "--max-tokens", 10**9), *said)
    refused(cogen("generate", *at, "word " * 99), *said)
    train = ("train", *at, "--data", grid, "--domain", "d", "--out", "a")
    refused(cogen(*train, "--set", "train.sequence_length=33"), "at most 32, the context")
    code, out, _ = cogen("evaluate", *at, "--data", grid, "--sequence-length", 32, "--max-heldout-tokens", 64, "--json")
    assert code == 0 and json.loads(out)["cells"][0]["num_tokens"] >= 64


def test_an_adapter_of_another_name_is_doubted_and_still_scored(tiny: Base, tiny_folder: Path, cogen: Cogen) -> None:
    """Without a fingerprint only the name tells. Red: nothing said."""
    folder = tiny_folder.parent / "other-name"
    Adapter(init_factors(tiny.info.modules, 2, 1.0, 0), "org/other").save(folder)
    (folder / "cogen.json").unlink()
    options = ("--sequence-length", 32, "--max-heldout-tokens", 64, "--data", SEEDS / "grid.jsonl")
    code, _, err = cogen("evaluate", "--base", tiny_folder, "--adapter", f"a={folder}", *options)
    assert code == 0 and "warning: a: its base_model_name_or_path is 'org/other'" in err
    other = Adapter(init_factors({"model.x": (4, 4)}, 2, 1.0, 0), str(tiny_folder))
    with pytest.raises(FingerprintMismatch):
        tiny.info.require(other, "other")
