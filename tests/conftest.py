"""Fixtures: a tiny Llama-like base with a tokenizer trained on the seeds, and tiny corpora."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from cogen.base import Base, load_base
from cogen.cli.app import main
from tests.shell import Cogen

SEEDS = Path(__file__).parent.parent / "seeds"
typer.main.get_command = functools.cache(typer.main.get_command)  # 0.2 s, and else for each command that a test runs
DOMAINS = ("clinical", "grid", "materials", "education", "construction")


def pytest_configure(config: pytest.Config) -> None:
    """Compiled kernels stay from one session to the next, apart from the user's; before anything imports numba."""
    if (kept := config.cache) is not None:
        os.environ.setdefault("NUMBA_CACHE_DIR", str(kept.mkdir("numba")))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own, so that they neither read nor fill the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGEN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices this small only lose by sharing (on a busy machine, tenfold), and sums keep their order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def one_precision() -> Iterator[None]:
    """`auto` is float32 in this process on any CPU: what commands print is compared with what is computed here."""
    import torch

    able = torch.cpu.get_capabilities()
    plain = {name: False if "bf16" in name else has for name, has in able.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: plain)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 2 layers and hidden size 32 on disk; non-square layers, grouped queries, tied head."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [json.loads(line)["text"] for d in DOMAINS for line in (SEEDS / f"{d}.jsonl").read_text().splitlines()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("tiny-base")
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Base:
    """The tiny base in memory, float32."""
    return load_base(str(tiny_folder), device="cpu", precision="float32")


@pytest.fixture
def config_file(tmp_path: Path, tiny_folder: Path) -> Path:
    """A config of three domains and two rounds over the seeds, seconds long."""
    domains = "".join(f'[[domains]]\nname = "{d}"\ndata = "{SEEDS / d}.jsonl"\n' for d in DOMAINS[:3])
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'[base]\nname = "{tiny_folder}"\nprecision = "float32"\n{domains}'
        "[train]\ntokens_per_round = 512\nsequence_length = 64\nbatch_size = 2\nlearning_rate = 0.01\nrank = 4\n"
        "[federation]\nnum_rounds = 2\nmin_valid_clients = 2\nmethod = 'mean'\n"
        "[evaluate]\nheldout_frac = 0.15\nmax_heldout_tokens = 512\nround_heldout_tokens = 128\n"
    )
    return path


@pytest.fixture
def cogen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cogen:
    """Run a command in an empty working folder; returns exit code, stdout, stderr."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cogen", *map(str, args)])
        code: object = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return code if isinstance(code, int) else 0, captured.out, captured.err

    return run
