"""Documents begin with BOS if the tokenizer adds it by itself; otherwise nothing changes.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from cogen.base import Base, describe_base, leading_id, load_base
from cogen.config import Data
from cogen.data import Document, PackedStream, heldout_windows, tokenize
from cogen.data.pack import IGNORE, train_batch
from cogen.data.prepare import prepare
from cogen.evaluate.continuation import Continuation, encode_pair
from cogen.evaluate.generate import prompt_ids
from cogen.evaluate.score import score_windows
from cogen.train.range_test import _predicted

# The byte 255, which no text in UTF-8 has: the tokenizers differ in what they do alone.
WORD, BOS = "ÿ", 188
PLAIN = Data(boilerplate=False, quality=False, near_duplicates=False, leakage=False, exact_duplicates=False)
TEXTS = ("The feeder tripped at 14:02.", "Naïve café — 中文", "Wall ties hold. " * 9)


def marked(folder: Path, template: str) -> None:
    """The base in `folder` with a tokenizer that puts what `template` says around a text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.token_to_id(WORD) == BOS
    marks = [(WORD, BOS), ("<eos>", 0)]
    tokenizer.post_processor = TemplateProcessing(single=template.replace("BOS", WORD), special_tokens=marks)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


@pytest.fixture(scope="module")
def with_bos(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The tiny base, its tokenizer as Llama 3's is: BOS in front, nothing behind."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("bos") / "base")
    marked(folder, "BOS:0 $A:0")
    return load_base(str(folder), device="cpu", precision="float32")


def documents() -> list[Document]:
    return [Document(str(n), "", text, "") for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("template", "found"),
    [("BOS:0 $A:0", BOS), ("BOS:0 $A:0 <eos>:0", BOS), ("$A:0 <eos>:0", None), ("BOS:0 BOS:0 $A:0", None)],
)
def test_what_the_tokenizer_puts_in_front_is_seen(
    tiny: Base, tiny_folder: Path, tmp_path: Path, template: str, found: int | None
) -> None:
    """Red: the first token taken for a BOS whatever is behind it."""
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    marked(folder, template)
    base = load_base(str(folder), device="cpu", precision="float32")
    assert leading_id(base.tokenizer) == found
    assert base.start_id == (base.eos_id if found is None else found)
    same = describe_base(str(folder)).fingerprint.tokenizer == tiny.info.fingerprint.tokenizer
    assert same == (found is None), "texts of other tokens are not those of this base"


@pytest.mark.parametrize(
    ("template", "first"),
    [
        ("BOS:0 $A:0", [BOS]),
        ("BOS:0 $A:0 <eos>:0", [BOS]),
        ("$A:0 <eos>:0", []),
        ("BOS:0 BOS:0 $A:0", [BOS, BOS]),
    ],
)
def test_a_prompt_begins_as_the_tokenizer_says_and_does_not_end(
    tiny: Base, tiny_folder: Path, tmp_path: Path, template: str, first: list[int]
) -> None:
    """In generation, and in the scores of choices. Red: the tokenizer's EOS behind the prompt, and in the context."""
    marked(folder := Path(shutil.copytree(tiny_folder, tmp_path / "base")), template)
    tokenizer = load_base(str(folder), device="cpu", precision="float32").tokenizer
    context, choice = (tiny.tokenizer(text)["input_ids"] for text in ("The feeder", " tripped"))
    assert prompt_ids(tokenizer, "The feeder") == [*first, *context]
    assert encode_pair(tokenizer, "The feeder", " tripped") == Continuation((*first, *context), tuple(choice))


def test_nothing_changes_for_a_tokenizer_without(tiny: Base) -> None:
    assert leading_id(tiny.tokenizer) is None and tiny.start_id == tiny.eos_id
    plain = [tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert [d.tolist() for d in tokenize(documents(), tiny.tokenizer)] == [[*ids, 0] for ids in plain]


def test_every_document_begins_with_it_once(with_bos: Base, tmp_path: Path) -> None:
    """In this process and in a worker's way. Red: either `tokenize` without it."""
    plain = [with_bos.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    want = [[BOS, *ids, 0] for ids in plain]
    found = tokenize(documents(), with_bos.tokenizer)
    assert [d.tolist() for d in found] == want
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in [*documents(), *held(12)]))
    made = prepare(
        path, lambda: with_bos.tokenizer, PLAIN, 0.3, tokenizer_hash="t", cache_dir=tmp_path / "cache", base="b"
    )
    stored = [d.tolist() for d in made.train]
    assert len(stored) > 5 and all(ids[0] == BOS and BOS not in ids[1:] and ids[-1] == 0 for ids in stored)
    assert [ids for ids in want if ids in stored] == [ids for ids in stored if ids in want] != []
    lengths = [
        len(with_bos.tokenizer(d.text, add_special_tokens=False)["input_ids"]) for d in [*documents(), *held(12)]
    ]
    assert made.card.special_per_document == 2
    assert made.card.num_tokens == sum(lengths) + 2 * len(lengths)
    assert made.card.tokens_per_word * made.card.num_words == pytest.approx(sum(lengths))
    batch = train_batch(PackedStream(found, 16, 0), 0, 6)
    assert batch.tokens.tolist().count(BOS) > 0 and BOS not in batch.targets.tolist(), "it is never predicted"
    after = [int(t) for token, t in zip(batch.tokens, batch.targets, strict=True) if token == BOS and t != IGNORE]
    assert set(after) <= {ids[0] for ids in plain} and after, "the first token of a text is predicted from it"


def held(count: int) -> list[Document]:
    return [Document(f"more{n}", "", f"A wall of {n} bricks is laid in a day.", "") for n in range(count)]


def test_windows_are_predicted_from_it_and_do_not_count_it(with_bos: Base, tiny: Base) -> None:
    """The weights are the tiny base's. Red: `eos_id` in `nats_by_token`; a BOS among a window's tokens."""
    windows = heldout_windows(documents(), with_bos.tokenizer, 500, 10**6)
    plain = [tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert [w.tokens.tolist() for w in windows] == plain
    assert [w.num_bytes for w in windows] == [len(text.encode()) for text in TEXTS]
    cell = score_windows(with_bos, windows, "base", "x")
    assert (cell.num_tokens, cell.num_bytes) == (sum(map(len, plain)), sum(len(t.encode()) for t in TEXTS))
    nats = {start: sum(nats_after(tiny, start, ids) for ids in plain) for start in (BOS, 0)}
    assert cell.bits_per_byte == pytest.approx(nats[BOS] / math.log(2) / cell.num_bytes, rel=1e-5)
    without = score_windows(tiny, windows, "base", "x").bits_per_byte
    assert without == pytest.approx(nats[0] / math.log(2) / cell.num_bytes, rel=1e-5) != cell.bits_per_byte


@torch.no_grad()
def nats_after(base: Base, start: int, ids: list[int]) -> float:
    from cogen.train.isolation import use_stock_attention

    use_stock_attention(base.model)
    logits = base.model(input_ids=torch.tensor([[start, *ids[:-1]]])).logits[0].double()
    return -float(torch.log_softmax(logits, dim=1)[torch.arange(len(ids)), torch.tensor(ids)].sum())


def test_the_range_test_predicts_text_alone(with_bos: Base, tiny: Base) -> None:
    """Red: its windows with the BOS of their documents."""
    for ids, with_mark, without in (
        ([BOS, 5, 6], [5, 6], [BOS, 5, 6]),
        ([5, BOS], [5, BOS], [5, BOS]),
        ([BOS], [], [BOS]),
    ):
        assert _predicted(np.array(ids, np.int32), with_bos).tolist() == with_mark
        assert _predicted(np.array(ids, np.int32), tiny).tolist() == without
