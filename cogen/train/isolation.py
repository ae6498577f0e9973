"""Whether documents that are packed into one row stay apart in a model, found by trying it.

Restarting attention at each document is not enough for every architecture: convolutions and state-space layers carry
their state across, and some attention takes more than queries, keys and values (soft-capping, sinks, chunks). So the
first use of a model runs tiny documents through its real modules, packed and alone, forward and backward. What is not
equal runs a document at a time, with the attention of transformers. What is no causal model is refused.

Legend: N tokens of all documents, n of one, d hidden size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from cogen.base_fetch import quiet_transformers
from cogen.distributed import process_rank
from cogen.errors import BaseModelError
from cogen.train.attention import NAME, Unpacked, watched_segments
from cogen.train.passes import alone_pass, autocast, packed_pass

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

LENGTHS = (6, 7, 1)
TOLERANCE = {4: 1e-3, 2: 0.1}  # of a norm, by bytes of the dtype; leaks are seen exactly, by gradients that must be 0
GROWING_ROPES = ("dynamic", "longrope")  # their angles depend on the longest segment of the row
_FOUND: MutableMapping[PreTrainedModel, Isolation] = WeakKeyDictionary()


@dataclass(frozen=True)
class Isolation:
    """How the documents of a batch are kept apart in a model.

    Args:
        is_packed: documents share a row; otherwise each is run alone.
        stock: the attention that transformers chose for this model.
        longest: rows with longer segments are divided all the same [tokens]; None for no limit.
        reason: why documents are not packed.
    """

    is_packed: bool
    stock: str
    longest: int | None = None
    reason: str = ""

    def packs(self, lengths: Sequence[int]) -> bool:
        """Whether segments of these lengths may share a row."""
        return self.longest is None or max(lengths) <= self.longest


def isolation_of(model: PreTrainedModel) -> Isolation:
    """How documents are kept apart in `model`: tried at its first use, and remembered with it.

    Raises:
        BaseModelError: the model is not causal, keeps a state between calls, or cannot be run or trained on text alone.
    """
    found = _FOUND.get(model)
    if found is None:
        found = _FOUND[model] = _examined(model)
        if not found.is_packed and process_rank().is_main:
            print(f"{type(model).__name__}: documents run one at a time, slower: {found.reason}", file=sys.stderr)
    return found


def use_segment_attention(model: PreTrainedModel) -> None:
    """Prepare `model` for `hidden_states`: attention that restarts at each document, or its own for one at a time.

    Raises:
        BaseModelError: as `isolation_of`.
    """
    found = isolation_of(model)
    _switch(model, NAME if found.is_packed else found.stock)


def use_stock_attention(model: PreTrainedModel) -> None:
    """Switch `model` back to the attention that transformers chose, for forwards with a cache or a mask.

    Raises:
        BaseModelError: as `isolation_of`.
    """
    _switch(model, isolation_of(model).stock)


def _switch(model: PreTrainedModel, name: str) -> None:
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


def _examined(model: PreTrainedModel) -> Isolation:
    import torch

    before = str(model.config._attn_implementation)
    stock = before if before != NAME else "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    _switch(model, stock)
    documents = _tiny_documents(model)
    with torch.enable_grad(), autocast(model), quiet_transformers():
        try:
            alone = [_Trace.of(model, partial(alone_pass, model, t), _halves(len(t))) for t in documents]
            _require_causal(model, documents[0], alone)
        except BaseModelError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever an unknown architecture raises for plain text
            raise _refused(model, f"{type(error).__name__}: {_first_line(error)}") from None
        try:
            reason = _why_not_packed(model, documents, alone)
        finally:
            _switch(model, stock)
    return Isolation(False, stock, reason=reason) if reason else Isolation(True, stock, _longest(model))


def _why_not_packed(model: PreTrainedModel, documents: Sequence[Tensor], alone: Sequence[_Trace]) -> str:
    """In which way documents in one row differ from documents alone; empty if they do not."""
    import torch

    if not _chooses_attention(model):
        return "its attention cannot be chosen by name"
    row, other = torch.cat(list(documents)), torch.cat([documents[0].roll(1), *documents[1:]])
    try:
        with watched_segments(model):
            packed = _Trace.of(model, partial(packed_pass, model, row, LENGTHS), LENGTHS)
            with torch.no_grad():
                changed = packed_pass(model, other, LENGTHS).float()
    except Unpacked as found:
        return str(found)
    except Exception as error:  # noqa: BLE001 - as above
        return f"{type(error).__name__} where documents share a row"
    if packed.crosses or packed.crosses_back:
        return "a state passes from one document to the next"
    if _differs(changed[LENGTHS[0] :], packed.hidden[LENGTHS[0] :], model):
        return "a document changes the next one"
    wanted = torch.cat([trace.hidden for trace in alone])
    if any(_differs(a, b, model) for a, b in zip(_pieces(packed.hidden), _pieces(wanted), strict=True)):
        return "documents in one row differ from documents alone"
    grads = torch.stack([trace.grads for trace in alone]).sum(0)
    return "gradients of documents in one row differ" if _differs(packed.grads, grads, model) else ""


def _require_causal(model: PreTrainedModel, first: Tensor, alone: Sequence[_Trace]) -> None:
    """Raise BaseModelError unless tokens see earlier ones only, calls are independent, and the head is one product."""
    import torch

    from cogen.train.loss import head_weight

    weight = head_weight(model)
    if any(trace.crosses_back for trace in alone):
        raise _refused(model, "tokens that see later tokens")
    again: list[Tensor] = []
    hook = model.get_decoder().register_forward_hook(lambda _m, _i, out: again.append(out.last_hidden_state[0]))
    with torch.no_grad():
        logits = model(input_ids=first[None], use_cache=False).logits[0]
    hook.remove()
    if _differs(again[0], alone[0].hidden, model):
        raise _refused(model, "results that depend on earlier calls")
    if logits.shape[-1] != len(weight) or _differs(again[0].to(weight.dtype) @ weight.T, logits, model):
        raise _refused(model, "logits that are not the product of hidden states and head")


@dataclass(frozen=True)
class _Trace:
    """A pass forward and backward.

    Args:
        hidden: `(N, d)`, float32.
        grads: of a fixed random projection of `hidden`, in the output of each linear layer summed over tokens, `(D,)`.
        crosses: whether hidden states depend on an earlier part of the row, by gradient.
        crosses_back: whether they depend on a later part.
    """

    hidden: Tensor
    grads: Tensor
    crosses: bool
    crosses_back: bool

    @classmethod
    def of(cls, model: PreTrainedModel, run: Callable[[], Tensor], lengths: Sequence[int]) -> _Trace:
        import torch

        with _probes(model) as (probes, inputs):
            hidden = run().float()
        if hidden.shape[0] != sum(lengths):
            raise _refused(model, f"{hidden.shape[0]} hidden states for {sum(lengths)} tokens")
        crosses = crosses_back = False
        total = torch.zeros((), device=hidden.device)
        for i, part in enumerate(_pieces(hidden * _directions(hidden), lengths)):
            loss, more = part.sum(), i + 1 < len(lengths)
            found = torch.autograd.grad(loss, [*inputs[:1], *probes], retain_graph=more, allow_unused=True)
            first, *grads = (
                torch.zeros_like(p) if g is None else g for g, p in zip(found, [*inputs[:1], *probes], strict=True)
            )
            total = total + torch.cat([g.float().flatten() for g in (*grads, first.sum()[None] * 0)])
            seen = [bool(x.any()) for x in _pieces(first.reshape(sum(lengths), -1), lengths)]
            crosses = crosses or any(seen[:i])
            crosses_back = crosses_back or any(seen[i + 1 :])
        return cls(hidden.detach(), total, crosses, crosses_back)


@contextmanager
def _probes(model: PreTrainedModel) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Add zeros that get gradients to the output of every linear layer `(d_out,)` and of the embeddings `(1, N, d)`."""
    import torch
    from transformers.pytorch_utils import Conv1D

    probes: list[Tensor] = []
    inputs: list[Tensor] = []
    hooks = []

    def add_to(layer: nn.Module) -> None:
        width: Any = layer.nf if isinstance(layer, Conv1D) else layer.out_features
        probe = torch.zeros(int(width), device=model.device, requires_grad=True)
        probes.append(probe)
        hooks.append(
            layer.register_forward_hook(
                lambda _m, _i, out: out + probe.to(out.dtype) if isinstance(out, torch.Tensor) else out
            )
        )

    def embed(_m: Any, _i: Any, out: Tensor) -> Tensor:
        inputs.append(torch.zeros_like(out, requires_grad=True))
        return out + inputs[-1]

    hooks.append(model.get_input_embeddings().register_forward_hook(embed))
    head = model.get_output_embeddings()
    for layer in model.get_decoder().modules():
        if isinstance(layer, (torch.nn.Linear, Conv1D)) and layer is not head:
            add_to(layer)
    try:
        yield probes, inputs
    finally:
        for hook in hooks:
            hook.remove()


def _pieces(rows: Tensor, lengths: Sequence[int] = LENGTHS) -> tuple[Tensor, ...]:
    return rows.split(list(lengths))  # type: ignore[no-untyped-call, no-any-return]


def _halves(length: int) -> tuple[int, ...]:
    return (length // 2, length - length // 2) if length > 1 else (length,)


def _directions(hidden: Tensor) -> Tensor:
    """Fixed random numbers for `hidden (N, d)` of all documents or of one; each document has its own in both."""
    import torch

    lengths = LENGTHS if len(hidden) == sum(LENGTHS) else (len(hidden),)
    drawn = [torch.randn(n, hidden.shape[1], generator=torch.Generator().manual_seed(n)) for n in lengths]
    return torch.cat(drawn).to(hidden.device)


def _tiny_documents(model: PreTrainedModel) -> list[Tensor]:
    """Token ids that differ from each other and from special tokens, each document but the last ending in EOS."""
    import torch

    config = model.config.get_text_config()
    marks = {v for k, v in config.to_dict().items() if k.endswith("token_id") and isinstance(v, int)}
    size = model.get_input_embeddings().num_embeddings
    plain = [i for i in range(size // 3, size) if i not in marks][: sum(LENGTHS)] or [0]
    row = torch.tensor([plain[i % len(plain)] for i in range(sum(LENGTHS))], device=model.device)
    documents = list(_pieces(row))
    if isinstance(end := getattr(config, "eos_token_id", None), int) and 0 <= end < size:
        for document in documents[:-1]:
            document[-1] = end
    return documents


def _chooses_attention(model: PreTrainedModel) -> bool:
    has = ("_supports_attention_backend", "_supports_sdpa")
    return all(getattr(model, name, False) for name in has) and type(model)._can_set_attn_implementation()


def _longest(model: PreTrainedModel) -> int | None:
    """Tokens up to which the rotary angles do not depend on the length of a segment."""
    config = model.config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = [ropes, *(r for r in ropes.values() if isinstance(r, dict))]
    own = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
    limits = [r.get("original_max_position_embeddings") or own for r in kinds if r.get("rope_type") in GROWING_ROPES]
    return min(limits, default=None)


def _differs(found: Tensor, wanted: Tensor, model: PreTrainedModel) -> bool:
    """Whether two results differ by more than rounding in the model's precision; NaN always differs."""
    found, wanted = found.float(), wanted.float()
    return not bool((found - wanted).norm() <= TOLERANCE.get(model.dtype.itemsize, 0.1) * wanted.norm())


def _refused(model: PreTrainedModel, got: str) -> BaseModelError:
    return BaseModelError(
        "cannot train this architecture",
        expected="a causal language model that reads each text alone",
        got=got,
        where=type(model).__name__,
        fix="Use a Llama-like base.",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
