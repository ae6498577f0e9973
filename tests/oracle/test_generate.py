"""Generated text against transformers' own `generate` and against forwards without a cache.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import cogen.evaluate.generate as module
from cogen.base import Base
from cogen.errors import ConfigError
from cogen.evaluate.generate import Generated, generate, stream
from cogen.evaluate.questions import Question, score_questions
from cogen.train.lora import attached
from tests.oracle.test_bpb import some_adapter

PROMPTS = ("The feeder tripped", "A", "Question: which device opens a faulted circuit?\nAnswer:", "Naïve café — 中文")
NUM = 12


@pytest.fixture(scope="module")
def stock(tiny_folder: Path) -> Any:
    """The tiny base once more, as transformers alone loads and runs it."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def ids_of(base: Base, prompt: str) -> list[int]:
    ids: list[int] = base.tokenizer(prompt)["input_ids"]
    return ids


def greedy(stock: Any, base: Base, prompt: str) -> list[int]:
    out = stock.generate(torch.tensor([ids_of(base, prompt)]), max_new_tokens=NUM, do_sample=False, pad_token_id=0)
    new: list[int] = out[0, len(ids_of(base, prompt)) :].tolist()
    return new[: new.index(base.eos_id)] if base.eos_id in new else new


@torch.no_grad()
def logprobs_of(stock: Any, prompt: Sequence[int], new: Sequence[int]) -> list[float]:
    logits = stock(input_ids=torch.tensor([[*prompt, *new]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, dim=1)[torch.arange(len(new)), torch.tensor(new)].tolist()


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_greedy_replies_are_those_of_transformers(
    tiny: Base, stock: Any, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Red: padding that is attended to; positions that count it; an order that is not undone."""
    monkeypatch.setattr(module, "BATCH_PROMPTS", batch)
    seen: list[int] = []
    found = generate(tiny, PROMPTS, NUM, progress=seen.append)
    assert sum(seen) == len(PROMPTS) and max(seen) == min(batch, len(PROMPTS))
    for prompt, reply in zip(PROMPTS, found, strict=True):
        new = greedy(stock, tiny, prompt)
        assert reply.text == tiny.tokenizer.decode(new)
        assert list(reply.token_logprobs) == pytest.approx(logprobs_of(stock, ids_of(tiny, prompt), new), rel=1e-4)
    assert len({reply.text for reply in found}) == len(PROMPTS)


def test_an_attached_adapter_speaks(tiny: Base) -> None:
    before = generate(tiny, PROMPTS[:1], NUM)
    with attached(tiny.model, some_adapter(tiny, 0.3).factors):
        assert generate(tiny, PROMPTS[:1], NUM) != before
    assert generate(tiny, PROMPTS[:1], NUM) == before


def test_a_reply_ends_before_its_stop(tiny: Base) -> None:
    """The stop is a piece of the greedy reply. Red: log-probabilities of what was cut off are kept."""
    (whole,) = generate(tiny, PROMPTS[:1], NUM)
    assert len(whole.token_logprobs) == NUM
    for length in (1, 2, 3):
        stop = whole.text[5 : 5 + length]
        (cut,) = generate(tiny, PROMPTS[:1], NUM, stop=stop)
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert 0 < len(cut.token_logprobs) < NUM
        assert cut.token_logprobs == pytest.approx(whole.token_logprobs[: len(cut.token_logprobs)])
        assert "".join(stream(tiny, PROMPTS[0], NUM, stop=stop)) == cut.text
    assert generate(tiny, PROMPTS[:1], NUM, stop=whole.text[:1]) == [Generated("", ())]


def test_eos_ends_a_reply(tiny: Base) -> None:
    """A token of the greedy reply is made an EOS of the base; the reply ends before it, others go on."""
    model = copy.deepcopy(tiny.model)
    taught = replace(tiny, model=model)
    reply = greedy_ids(tiny, PROMPTS[0])
    model.generation_config.eos_token_id = [0, reply[4]]
    at = reply.index(reply[4])
    found = generate(taught, PROMPTS, NUM)
    assert found[0].text == tiny.tokenizer.decode(reply[:at]) and len(found[0].token_logprobs) == at
    assert "".join(stream(taught, PROMPTS[0], NUM)) == found[0].text


def greedy_ids(base: Base, prompt: str) -> list[int]:
    steps = module._steps(base, [ids_of(base, prompt)], NUM, 0.0, [(0, 0)])
    return [tokens[0] for tokens, _ in steps]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_stream_is_the_same_reply_in_pieces(tiny: Base, temperature: float) -> None:
    for prompt in PROMPTS:
        (whole,) = generate(tiny, [prompt], NUM, temperature, seed=3)
        pieces = list(stream(tiny, prompt, NUM, temperature, seed=3))
        assert "".join(pieces) == whole.text
        assert len(pieces) > 3 and all(pieces)


def test_draws_follow_the_seed_and_not_the_batch(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red: the global generator is used."""
    same = [PROMPTS[0]] * 3
    torch.manual_seed(0)
    first = generate(tiny, same, NUM, temperature=1.0, seed=1)
    state = torch.get_rng_state()
    monkeypatch.setattr(module, "BATCH_PROMPTS", 1)
    assert [r.text for r in generate(tiny, same, NUM, temperature=1.0, seed=1)] == [r.text for r in first]
    assert torch.equal(torch.get_rng_state(), state)
    assert len({r.text for r in first}) == 3
    assert generate(tiny, same, NUM, temperature=1.0, seed=2)[0].text != first[0].text


def test_draws_have_the_model_s_chances(tiny: Base) -> None:
    """400 first tokens at temperature 2 against the softmax; and ln p is told at temperature 1."""
    replies = generate(tiny, ["The"] * 400, 1, temperature=2.0)
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([ids_of(tiny, "The")])).logits[0, -1]
    chances, plain = torch.softmax(logits / 2.0, dim=0), torch.log_softmax(logits, dim=0)
    likeliest = int(chances.argmax())
    text = tiny.tokenizer.decode([likeliest])
    share = sum(r.text == text for r in replies) / 400
    spread = float((chances[likeliest] * (1 - chances[likeliest]) / 400) ** 0.5)
    assert share == pytest.approx(float(chances[likeliest]), abs=4 * spread)
    told = next(r.token_logprobs[0] for r in replies if r.text == text)
    assert told == pytest.approx(float(plain[likeliest]), rel=1e-4)


@pytest.mark.parametrize(
    ("prompt", "num", "temperature"), [("", 5, 0.0), ("A", 0, 0.0), ("A", 5, -1.0), ("A", 5, float("nan"))]
)
def test_bad_requests(tiny: Base, prompt: str, num: int, temperature: float) -> None:
    with pytest.raises(ConfigError, match="cannot generate text"):
        generate(tiny, [prompt], num, temperature)
    with pytest.raises(ConfigError, match="cannot generate text"):
        next(stream(tiny, prompt, num, temperature))


def test_questions_are_put_to_what_is_attached(tiny: Base) -> None:
    """A model that learned nothing makes things up, and is told so."""
    questions = [Question("a", "At what frequency?", ("50 hz",)), Question("b", "Who ate it?", ())]
    seen: list[int] = []
    found = score_questions(tiny, questions, "base", "grid", seen.append)
    assert (found.wrong_frac, found.made_up_frac) == (1.0, 1.0)
    assert found.confidence_frac is not None and 0.0 < found.confidence_frac < 1.0
    assert found.overconfidence_frac == pytest.approx(found.confidence_frac)
    assert sum(seen) == 2
