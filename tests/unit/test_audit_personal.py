"""Personal data in trained text: found with their places in tokens, and completed or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogen.audit.personal import PersonalValue, completed, personal_values
from cogen.audit.record import PersonalFigures
from cogen.audit.windows import AuditText
from cogen.base import Base
from cogen.data import Document, tokenize
from cogen.data.clean.personal import personal_data, personal_spans
from cogen.data.pack import PackedStream
from cogen.evaluate.continuation import Continuation
from cogen.train.isolation import use_stock_attention

TEXT = (
    "Ask José at jose.garcia@hospital.example.org, IBAN DE89 3704 0044 0532 0130 00, or tel. +44 20 7946 0018 — 中文."
)
VALUES = {
    "email": "jose.garcia@hospital.example.org",
    "iban": "DE89 3704 0044 0532 0130 00",
    "phone": "+44 20 7946 0018",
}


def test_spans_are_where_the_values_are() -> None:
    """Red: the whole match instead of its group `value`."""
    spans = personal_spans(TEXT)
    assert {kind: TEXT[start:end] for kind, start, end in spans} == VALUES
    assert [kind for kind, _, _ in spans] == ["email", "iban", "phone"]
    assert personal_data(TEXT).total() == len(spans)
    assert personal_spans("NHS number: 943 476 5919.") == [("gb_nhs", 12, 24)]
    assert personal_spans("nothing here but 12 and 13") == []


def trained(base: Base, texts: list[str], blocks: range, sequence_length: int = 256) -> AuditText:
    documents = tokenize([Document(str(i), "", text, "") for i, text in enumerate(texts)], base.tokenizer)
    return AuditText(PackedStream(documents, sequence_length, 0), blocks, [])


def test_a_value_is_taken_with_the_text_before_it(tiny: Base) -> None:
    """Red: characters counted as tokens; a value of a block that was not trained."""
    values = personal_values(tiny, trained(tiny, [TEXT], range(1)))
    assert {v.kind for v in values} == set(VALUES)
    for value in values:
        own, before = (tiny.tokenizer.decode(ids) for ids in (value.text.tokens, value.text.context))
        assert VALUES[value.kind] in own and len(own) <= len(VALUES[value.kind]) + 2
        assert before and (before + own) in TEXT and len(value.text.context) <= 50
    assert personal_values(tiny, trained(tiny, ["plain words " * 40, TEXT], range(1), 32)) == []


def test_values_that_begin_a_piece_or_cross_its_end_are_not_asked(tiny: Base) -> None:
    assert personal_values(tiny, trained(tiny, ["jane@example.org is her address"], range(1))) == []
    crossing = trained(tiny, [TEXT], range(1), 16)
    assert all(v.kind != "phone" for v in personal_values(tiny, crossing))


@torch.no_grad()
def test_completed_is_greedy_and_whole(tiny: Base) -> None:
    """The model's own continuation is completed; one token less right is not."""
    context = np.arange(5, 25, dtype=np.int32)
    ids = context.tolist()
    use_stock_attention(tiny.model)
    for _ in range(6):
        ids.append(int(tiny.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    right = np.array(ids[20:], dtype=np.int32)
    wrong = np.append(right[:-1], (right[-1] + 1) % 512).astype(np.int32)
    values = [PersonalValue("email", 0, Continuation(context, tokens)) for tokens in (right, wrong, wrong)]
    assert completed(tiny, values) == {"email": PersonalFigures(3, 1)}
    assert completed(tiny, []) == {}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_never_shown(tiny: Base, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    figures = completed(tiny, personal_values(tiny, trained(tiny, [TEXT], range(1))))
    told = repr(figures) + "".join(capsys.readouterr())
    assert kind in told and VALUES[kind] not in told
