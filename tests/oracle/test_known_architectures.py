"""Each kind of known base, as a tiny random model of its config, against transformers and PEFT alone.

What is peculiar to the kinds: Qwen3 normalises queries and keys, and its heads are wider than hidden size / heads.
Gemma 3 scales its embeddings, has norms before and after each layer, and five layers in six have a sliding window and
another rotary base. Llama 3.2 stretches rotary frequencies. Gemma and Llama want BOS. "Red" names a change of the
code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from cogen.adapter import Adapter, Factors
from cogen.base import Base, describe_base, load_base
from cogen.config import Data, Train
from cogen.data import Document, heldout_windows, tokenize
from cogen.data.pack import IGNORE, Batch, train_batch
from cogen.evaluate.continuation import encode_pair, log_likelihoods
from cogen.evaluate.generate import generate, prompt_ids, stream
from cogen.evaluate.probes import Probe, probe_pairs
from cogen.evaluate.questions import few_shot_prompt
from cogen.evaluate.score import score_windows
from cogen.train.corpus import score_documents
from cogen.train.isolation import use_segment_attention
from cogen.train.loop import train_round
from cogen.train.lora import attached
from cogen.train.loss import head_weight
from cogen.train.mixture import make_stream, read_mixture
from cogen.train.range_test import _predicted
from cogen.train.schedule import plan_round
from cogen.train.start import start_factors
from cogen.train.step import hidden_states
from tests.known_models import KINDS, Kind, write_tiny

TEXTS = ("The feeder tripped at 14:02.", "Naïve café — 中文", "Wall ties hold. " * 9)
SETTINGS = Train(tokens_per_round=2048, sequence_length=64, batch_size=4, learning_rate=0.01, rank=4, warmup_frac=0.0)
UNCLEANED = Data(boilerplate=False, quality=False, near_duplicates=False, leakage=False, exact_duplicates=False)
MESSAGES = [{"role": "user", "content": "Which relay trips?"}]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def folder(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(kind, tmp_path_factory.mktemp(kind.name) / "base", template_file=kind.name == "gemma-3-270m")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(str(folder), device="cpu", precision="float32")


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    """The same model, as transformers alone loads and runs it."""
    return eager(folder)


def eager(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def first_ids(kind: Kind) -> list[int]:
    """What a text begins with, by hand: BOS of Gemma and Llama, nothing else."""
    return [kind.id(kind.bos)] if kind.bos else []


def plain_ids(base: Base, text: str) -> list[int]:
    ids: list[int] = base.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


@torch.no_grad()
def logprobs(stock: Any, ids: list[int]) -> list[float]:
    """ln p of each token after the first."""
    found = torch.log_softmax(stock(input_ids=torch.tensor([ids])).logits[0, :-1].double(), dim=1)
    return found[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()


def noise(base: Base, *, embeddings: bool = False) -> dict[str, Factors]:
    """Factors that change the outputs visibly."""
    g = torch.Generator().manual_seed(0)
    settings = SETTINGS.model_copy(update={"train_embeddings": embeddings})
    start = start_factors(base.info.modules, settings, base.info.embeddings)
    return {
        n: Factors(torch.randn(f.a.shape, generator=g) * 0.1, torch.randn(f.b.shape, generator=g) * 0.1, f.scaling)
        for n, f in start.items()
    }


def feeders(folder: Path) -> Path:
    """A corpus of six documents of 3 to 48 equal sentences, most of them longer than a block."""
    path = folder / "feeders.jsonl"
    rows = [{"id": str(n), "text": f"Feeder {n}. " + "The relay opens the breaker. " * (3 + 9 * n)} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_it_is_of_its_kind(kind: Kind, base: Base, folder: Path) -> None:
    """The peculiarities that the other tests are about are there."""
    config, layer = base.model.config, base.model.get_decoder().layers[0]
    names = {name.split(".")[-1] for name, _ in layer.named_modules()}
    assert base.info.max_tokens == json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    assert base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
    assert len(base.info.modules) == 7 * config.num_hidden_layers
    assert ("q_norm" in names) == (kind.name.startswith(("qwen", "gemma")))
    assert ("pre_feedforward_layernorm" in names) == kind.name.startswith("gemma")
    if kind.name.startswith("gemma"):
        assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention"] and config.sliding_window == 512
        assert config.rope_parameters["full_attention"]["rope_theta"] == 1000000
        assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10000
        assert float(base.model.get_input_embeddings().embed_scale) == pytest.approx(math.sqrt(32))
    elif kind.name.startswith("llama"):
        assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == ("llama3", 32.0)
        assert base.info.modules["model.layers.0.self_attn.q_proj"] == (32, 32)
    elif kind.name.startswith("qwen"):
        assert base.info.modules["model.layers.0.self_attn.q_proj"] == (64, 32)
    else:
        assert config.rope_parameters["rope_theta"] == 100000


def test_its_fingerprint_stays_and_sees_a_changed_tokenizer(kind: Kind, base: Base, tmp_path: Path) -> None:
    again = write_tiny(kind, tmp_path / "again")
    assert describe_base(str(again)).fingerprint == base.info.fingerprint
    raw = json.loads((again / "tokenizer_config.json").read_text())
    (again / "tokenizer_config.json").write_text(json.dumps({**raw, "eos_token": "<|endoftext|>"}))
    if kind.bos is None:
        assert describe_base(str(again)).fingerprint.tokenizer != base.info.fingerprint.tokenizer


@pytest.mark.parametrize("lengths", [(7, 7, 7), (1, 9, 4), (16, 3)], ids=str)
def test_packed_documents_are_as_if_alone(base: Base, stock: Any, lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.integers(7, 500, n) for n in lengths]
    batch = Batch(np.concatenate(texts), np.concatenate([np.append(t[1:], IGNORE) for t in texts]), lengths)
    use_segment_attention(base.model)
    with torch.no_grad():
        packed = hidden_states(base.model, batch).split(lengths)  # type: ignore[no-untyped-call]
        for text, hidden in zip(texts, packed, strict=True):
            expected = stock(input_ids=torch.from_numpy(text)[None]).logits[0]
            torch.testing.assert_close(hidden @ head_weight(base.model).T, expected, rtol=1e-4, atol=1e-3)


def test_bits_per_byte_are_those_of_transformers(kind: Kind, base: Base, stock: Any) -> None:
    """Predicted from BOS where there is one, else from EOS. Red: `start_id` without BOS."""
    windows = heldout_windows([Document(str(n), "", t, "") for n, t in enumerate(TEXTS)], base.tokenizer, 500, 10**6)
    cell = score_windows(base, windows, "base", "x")
    start = kind.id(kind.bos or kind.eos)
    nats = -sum(sum(logprobs(stock, [start, *plain_ids(base, text)])) for text in TEXTS)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert cell.num_bytes == num_bytes
    assert cell.bits_per_byte == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-4)


def test_it_learns(base: Base, tmp_path: Path) -> None:
    """Through the path of every command; the fast layers of the CPU follow the model's own.

    Red: fast norms without Gemma's 1 + weight, or its scaled queries.
    """
    mixture = read_mixture(base, {"feeders": feeders(tmp_path)}, SETTINGS, 0.2, UNCLEANED)
    plan = plan_round(SETTINGS, 1, 1)
    found: dict[str, list[float]] = {"off": [], "fused": [], "auto": []}
    for kernels, losses in found.items():
        settings = SETTINGS.model_copy(update={"cpu_kernels": kernels})
        blocks = make_stream(mixture, settings, plan.total_blocks)
        start = start_factors(base.info.modules, settings)
        train_round(base, start, blocks, plan, settings, on_step=lambda step, to=losses: to.append(step.loss_nats))
    assert len(found["off"]) == 8 and found["off"][0] - found["off"][-1] > 1
    assert found["fused"] == pytest.approx(found["off"], rel=2e-4)
    assert found["auto"] == pytest.approx(found["off"], rel=0.02)


@pytest.mark.parametrize("embeddings", [False, True])
def test_peft_loads_its_adapter(base: Base, folder: Path, stock: Any, tmp_path: Path, embeddings: bool) -> None:
    """The same outputs attached here, in PEFT, and merged by PEFT. Red: embeddings without Gemma's scale."""
    factors = noise(base, embeddings=embeddings)
    tables = frozenset(base.info.embeddings) if embeddings else frozenset()
    Adapter(factors, base.info.name, embeddings=tables).save(tmp_path / "adapter")
    ids = torch.tensor([[9, 40, 77, 123, 300, 45]])
    with torch.no_grad():
        before = stock(input_ids=ids).logits
        theirs: Any = PeftModel.from_pretrained(eager(folder), str(tmp_path / "adapter"))
        expected = theirs(input_ids=ids).logits
        mine = eager(folder)
        with attached(mine, factors):
            found = mine(input_ids=ids).logits
        merged = eager(folder)
        if not embeddings:  # PEFT merges into the embeddings that the head shares
            merged = theirs.merge_and_unload()
            torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-3)
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    loaded = Adapter.load(tmp_path / "adapter")
    base.info.require(loaded, "adapter")
    assert loaded.embeddings == tables and bool(tables) == embeddings


def replies(stock: Any, ids: list[int], stops: set[int], num: int) -> list[int]:
    """The greedy continuation, one forward a token, without a cache."""
    new: list[int] = []
    while len(new) < num:
        logits: Tensor = stock(input_ids=torch.tensor([[*ids, *new]])).logits[0, -1]
        if (chosen := int(logits.argmax())) in stops:
            break
        new.append(chosen)
    return new


@torch.no_grad()
def test_replies_are_those_of_transformers(kind: Kind, base: Base, stock: Any) -> None:
    """Batches with padding on the left, and a stream; the settings in its folder (sampling, top-k) play no part."""
    prompts = ["The feeder", "A", "Which device opens a faulted circuit?"]
    stops = {kind.id(token) for token in kind.stops}
    expected = [replies(stock, [*first_ids(kind), *plain_ids(base, p)], stops, 10) for p in prompts]
    found = generate(base, prompts, 10)
    assert [reply.text for reply in found] == [base.tokenizer.decode(ids) for ids in expected]
    assert [len(reply.token_logprobs) for reply in found] == [len(ids) for ids in expected]
    assert "".join(stream(base, prompts[2], 10)) == found[2].text


def test_a_reply_stops_at_each_of_its_ends(kind: Kind, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: the tokenizer's EOS alone, which in Gemma is not the end of a turn."""
    import cogen.evaluate.generate as module

    said = plain_ids(base, "It trips.")
    for token in {*kind.stops, kind.eos}:
        steps = [([i], [-1.0]) for i in (*said, kind.id(token), *said)]
        monkeypatch.setattr(module, "_steps", lambda *_, steps=steps: iter(steps))
        assert generate(base, ["Then"], 50)[0].text == base.tokenizer.decode(said)
        assert "".join(stream(base, "Then", 50)) == base.tokenizer.decode(said)


def test_bos_comes_once_everywhere(kind: Kind, base: Base, stock: Any, tmp_path: Path) -> None:
    """Each place that makes tokens of text, with the right tokens put together by hand.

    Red: the template's prompt tokenised with special tokens, which gives Gemma and Llama two BOS.
    """
    first, eos = first_ids(kind), kind.id(kind.eos)
    plain = [plain_ids(base, text) for text in TEXTS]
    documents = [Document(str(n), "", text, "") for n, text in enumerate(TEXTS)]
    # training, in this process
    assert [ids.tolist() for ids in tokenize(documents, base.tokenizer)] == [[*first, *ids, eos] for ids in plain]
    # the windows of scores, validation, the perplexity filter, search and diagnosis: predicted from BOS, not counted
    windows = heldout_windows(documents, base.tokenizer, 500, 10**6)
    assert [w.tokens.tolist() for w in windows] == plain and base.start_id == [*first, eos][0]
    bits = score_documents(base, documents)
    nats = [-sum(logprobs(stock, [base.start_id, *ids])) for ids in plain]
    expected = [n / math.log(2) / len(text.encode()) for n, text in zip(nats, TEXTS, strict=True)]
    assert bits == pytest.approx(expected, rel=1e-4)
    # the range test
    assert _predicted(np.array([*first, 30, 31], np.int32), base).tolist() == [30, 31]
    # probes and cloze probes
    context, choice = "The feeder tripped because the", " relay"
    whole = plain_ids(base, context + choice)
    pair = encode_pair(base.tokenizer, context, choice)
    assert [*pair.context, *pair.tokens] == [*first, *whole] and len(pair.tokens) >= 1
    assert pair.context[: len(first)] == tuple(first)
    assert probe_pairs([Probe("a", context, ("relay", "fuse"), 0, "")], base.tokenizer)[0] == pair
    (nat,) = log_likelihoods(base, [pair])
    assert nat == pytest.approx(sum(logprobs(stock, [*first, *whole])[-len(pair.tokens) :]), rel=1e-4)
    # questions, generation and chat without a template
    for prompt in (few_shot_prompt("What trips?"), "The feeder"):
        assert prompt_ids(base.tokenizer, prompt) == [*first, *plain_ids(base, prompt)]
    # chat with a template, and a prompt that has BOS written out
    prompt = base.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    by_transformers = base.tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    assert prompt_ids(base.tokenizer, prompt) == list(by_transformers)
    assert by_transformers[: len(first) + 1].count(base.start_id) <= 1
    if kind.bos:
        assert prompt_ids(base.tokenizer, f"{kind.bos}The feeder") == [*first, *plain_ids(base, "The feeder")]
        # written out in a document it is text
        assert tokenize([Document("a", "", f"x {kind.bos}", "")], base.tokenizer)[0].tolist().count(first[0]) == 1


def test_every_block_begins_with_bos(kind: Kind, base: Base, tmp_path: Path) -> None:
    """Also a block that begins inside a document; without the BOS in front, the blocks are the documents in order.

    Red: the stream cut every T tokens, so that a block without BOS is trained.
    """
    settings = SETTINGS.model_copy(update={"sequence_length": 32})
    mixture = read_mixture(base, {"feeders": feeders(tmp_path)}, settings, 0.2, UNCLEANED)
    stream_of = make_stream(mixture, settings, 8)
    blocks = [stream_of.segments(n) for n in range(400)]
    train = [ids.tolist() for ids in mixture.corpora["feeders"].train]
    eos, bos = kind.id(kind.eos), first_ids(kind)
    assert all(ids[0] == (bos or ids)[0] and ids[-1] == eos for ids in train)
    read: list[int] = []
    for block in blocks:
        sizes = sum(len(piece) for piece in block)
        assert sizes == 32 if not bos else sizes in (31, 32)
        for n, piece in enumerate(block):
            ids = piece.tolist()
            inside = n == 0 and read and read[-1] != eos
            if bos and ids != [eos]:
                assert ids[0] == bos[0] and ids.count(bos[0]) == 1
            read += ids[1:] if bos and inside and ids != [eos] else ids
    documents, at = [], 0
    while len(documents) < 2 * len(train):
        end = read.index(eos, at) + 1
        documents.append(read[at:end])
        at = end
    for epoch in (documents[: len(train)], documents[len(train) :]):
        assert sorted(epoch) == sorted(train)
    batch = train_batch(stream_of, 0, 8)
    assert not bos or bos[0] not in batch.targets.tolist()
