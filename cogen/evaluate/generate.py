"""Generate text with a model and the adapter that is attached to it now.

One loop serves both batches and streaming. The `generate` of transformers cannot stream without a thread (which would
continue when its reader stops), takes settings from the folder of the base (repetition penalty, top-k), which differ
between bases, and samples from the global seed. Legend: B prompts of a batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogen.base import leading_ids
from cogen.errors import ConfigError
from cogen.train.isolation import isolation_of, use_stock_attention
from cogen.train.passes import autocast

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cogen.base import Base

BATCH_PROMPTS = 16
INCOMPLETE = "\ufffd"  # decoded for a character whose bytes are not all there yet


@dataclass(frozen=True)
class Generated:
    """A reply without its stop text or EOS, and ln p of each of its tokens."""

    text: str
    token_logprobs: tuple[float, ...]


def generate(
    base: Base,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    stop: str | None = None,
    numbers: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Continue every prompt until EOS, `stop` or `max_new_tokens`.

    Args:
        temperature: 0 takes the most likely token; otherwise tokens are sampled. Samples depend on the prompt's index
            and the seed, not on the batches. `token_logprobs` are at temperature 1.
        stop: a reply ends before this text.
        numbers: the index of each prompt, where these are some of several; from 0 without it.
        progress: called after each batch with its number of prompts.
    Returns: one reply for each prompt, in order.
    Raises:
        ConfigError: a temperature below 0, `max_new_tokens` below 1, a prompt without tokens, or more tokens than the
            context of the base has.

    >>> generate(base, ["A transformer steps"], max_new_tokens=8)[0].text  # doctest: +SKIP
    """
    encoded = [_encode(base, prompt, max_new_tokens, temperature) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(encoded[i]))
    found: dict[int, Generated] = {}
    at_once = BATCH_PROMPTS if isolation_of(base.model).is_packed else 1  # other layers would read the padding
    for first in range(0, len(order), at_once):
        some = order[first : first + at_once]
        replies = _replies(
            base,
            [encoded[i] for i in some],
            max_new_tokens,
            temperature,
            [(seed, i if numbers is None else numbers[i]) for i in some],
            stop,
        )
        found.update(zip(some, replies, strict=True))
        if progress is not None:
            progress(len(some))
    return [found[i] for i in range(len(prompts))]


def stream(
    base: Base, prompt: str, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, *, stop: str | None = None
) -> Iterator[str]:
    """The reply of `generate` to this one prompt, in pieces. The reader may stop at any time.

    A piece is held back while its last character is incomplete, or while it may be the start of `stop`.

    Raises:
        ConfigError: as in `generate`.
    """
    encoded = _encode(base, prompt, max_new_tokens, temperature)
    ids: list[int] = []
    shown = ""
    for tokens, _ in _steps(base, [encoded], max_new_tokens, temperature, [(seed, 0)]):
        if tokens[0] in _ends(base):
            break
        ids.append(tokens[0])
        text, is_over = _cut(base.tokenizer.decode(ids), stop)
        whole = text if is_over else _settled(text, stop)
        if len(whole) > len(shown):
            yield whole[len(shown) :]
            shown = whole
        if is_over:
            return
    text, _ = _cut(base.tokenizer.decode(ids), stop)
    if len(text) > len(shown):
        yield text[len(shown) :]


def _encode(base: Base, prompt: str, max_new_tokens: int, temperature: float) -> list[int]:
    ids = prompt_ids(base.tokenizer, prompt)
    if max_new_tokens < 1 or not 0.0 <= temperature < math.inf or not ids:
        got = f"{max_new_tokens} tokens at temperature {temperature:g} after {len(ids)} tokens"
        expected = "1 new token or more, a finite temperature >= 0 and a prompt of 1 token or more"
        raise ConfigError(
            "cannot generate text", expected=expected, got=got, fix="Change the value that is out of bounds."
        )
    fix = "Shorten the prompt, or the longest reply."
    base.info.require_context(len(ids) + max_new_tokens - 1, "prompt and reply", fix)  # the last token is not read
    if (num_rows := min((n for _, n in base.info.embeddings.values()), default=None)) and max(ids) >= num_rows:
        token = base.tokenizer.convert_ids_to_tokens(max(ids))
        got = f"{token!r} = {max(ids)}"
        expected = f"tokens below {num_rows}, the rows of the embedding of base {base.info.name}"
        raise ConfigError("cannot generate text", expected=expected, got=got, where="a prompt", fix="Take it out.")
    return ids


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a text to be continued: after BOS, if the tokenizer adds one, and with no EOS behind.

    The prompt of a chat template already begins with BOS where its model wants one. It is not doubled.
    """
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    first = leading_ids(tokenizer)
    return ids if ids[: len(first)] == first else [*first, *ids]


def gate_ids(base: Base, prompt: str) -> list[int]:
    """Token ids of a prompt as a gate reads them: after BOS or EOS, whatever the tokenizer adds."""
    ids = prompt_ids(base.tokenizer, prompt)
    return ids if ids[:1] == [base.start_id] else [base.start_id, *ids]


def _replies(
    base: Base,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[tuple[int, int]],
    stop: str | None,
) -> list[Generated]:
    """The replies of one batch."""
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for tokens, found in _steps(base, prompts, max_new_tokens, temperature, seeds):
        for row in tuple(running):
            if tokens[row] in _ends(base):
                running.remove(row)
                continue
            ids[row].append(tokens[row])
            logprobs[row].append(found[row])
            if stop is not None and stop in base.tokenizer.decode(ids[row]):
                running.remove(row)
        if not running:
            break
    return [_generated(base, row, values, stop) for row, values in zip(ids, logprobs, strict=True)]


def _generated(base: Base, ids: Sequence[int], logprobs: Sequence[float], stop: str | None) -> Generated:
    """The text before `stop`, and the log-probabilities of its tokens."""
    text, is_cut = _cut(base.tokenizer.decode(ids), stop)
    num_tokens = len(ids)
    while is_cut and num_tokens > 0 and len(base.tokenizer.decode(ids[: num_tokens - 1])) >= len(text):
        num_tokens -= 1
    return Generated(text, tuple(logprobs[:num_tokens]))


def _steps(
    base: Base,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[tuple[int, int]],
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield the next token of every prompt and its ln p, `(B,)` each. The caller checks for EOS."""
    import torch

    use_stock_attention(base.model)
    generators = [torch.Generator().manual_seed(_mixed(*seed)) for seed in seeds]
    if isolation_of(base.model).is_packed:
        following = _padded(base, prompts)
    else:
        (prompt,) = prompts
        following = _alone(base.model, torch.tensor(prompt, device=base.model.device))
    logits = next(following)
    for number in range(max_new_tokens):
        logprobs = torch.log_softmax(logits.float(), dim=1)
        chosen = _choose(logprobs, temperature, generators)
        yield chosen.tolist(), logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
        if number + 1 < max_new_tokens:
            logits = following.send(chosen)


def _padded(base: Base, prompts: Sequence[Sequence[int]]) -> Generator[Tensor, Tensor, None]:
    """Yield the logits `(B, V)` after all prompts, padded on the left; is sent the next tokens `(B,)`."""
    import torch
    from transformers import DynamicCache

    width, device = max(len(p) for p in prompts), base.model.device
    tokens = torch.tensor([[base.eos_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=base.model.config)
    while True:
        with torch.no_grad(), autocast(base.model):
            out = base.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        tokens = (yield out.logits[:, -1])[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1


def _alone(model: PreTrainedModel, tokens: Tensor) -> Generator[Tensor, Tensor, None]:
    """The same for one prompt `(n,)` in any architecture: all tokens are read again for each new one.

    Caches of states differ between architectures, and some are wrong without a word.
    """
    import torch

    while True:
        with torch.no_grad(), autocast(model):
            out = model(input_ids=tokens[None], use_cache=False)
        tokens = torch.cat([tokens, (yield out.logits[:, -1])])


def _choose(logprobs: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
    """A token `(B,)` from log-probabilities `(B, V)`. Sampling on the CPU gives the same tokens on every device."""
    import torch

    if temperature == 0.0:
        return logprobs.argmax(dim=1)
    chances = torch.softmax(logprobs / temperature, dim=1).cpu()
    drawn = [torch.multinomial(row, 1, generator=g) for row, g in zip(chances, generators, strict=True)]
    return torch.cat(drawn).to(logprobs.device)


def _mixed(seed: int, index: int) -> int:
    """A seed for one prompt."""
    import numpy as np

    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


def _ends(base: Base) -> frozenset[int]:
    """EOS of the tokenizer, and the other end tokens in the generation config of the base."""
    known = getattr(base.model.generation_config, "eos_token_id", None)
    return frozenset([base.eos_id, *(known if isinstance(known, list) else [known] if known is not None else [])])


def _cut(text: str, stop: str | None) -> tuple[str, bool]:
    """The text before `stop`, and whether the text contains `stop`."""
    if stop is None or stop not in text:
        return text, False
    return text[: text.index(stop)], True


def _settled(text: str, stop: str | None) -> str:
    """The text without an end that the next token may change."""
    while text.endswith(INCOMPLETE):
        text = text[:-1]
    held = next((n for n in range(len(stop or "") - 1, 0, -1) if text.endswith((stop or "")[:n])), 0)
    return text[: len(text) - held]
