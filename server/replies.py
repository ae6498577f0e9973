"""Checks of a reply before it can touch the global model; a reply that fails is dropped with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np
import torch

from cogen.adapter import Factors, Fingerprint
from cogen.adapter.factors import is_finite
from cogen.adapter.gate import GateStatistics
from cogen.config import Wire
from cogen.console import safe
from cogen.errors import ReplyError
from cogen.merge.factored import balanced, cancellation, leading, stack
from cogen.protocol.factors import GATE_ARRAYS, reply_layout, to_factors, to_gate
from cogen.protocol.messages import Figures, TrainReply
from cogen.train.text_states import STATISTICS_TOKENS

MAX_CANCELLATION = 1e4  # float32 then keeps three digits of a sum; factors from training have less than 10
MAX_HIDDEN = 65_536  # numbers of a mean state
MAX_SHOWN = 300  # characters of what a client sent, in a reason
DROPPED = "The client is dropped from this round."


@dataclass(frozen=True)
class ClientUpdate:
    """One client's valid reply.

    Args:
        norm: Frobenius norm of the update over all modules.
        start: the global factors that it trained from; None for those of the round that it enters.
        rounds_late: 0, or for a straggler the rounds since it was asked.
        gate: statistics of the domain's text, where they were asked for.
    """

    domain: str
    factors: dict[str, Factors]
    figures: Figures
    bytes_up: int
    norm: float = 0.0
    start: Mapping[str, Factors] | None = None
    rounds_late: int = 0
    gate: GateStatistics | None = None

    @property
    def num_tokens(self) -> int:
        return self.figures.num_tokens

    def event(self) -> dict[str, Any]:
        """Its numbers, for `events.jsonl`."""
        late = {"rounds_late": self.rounds_late} if self.rounds_late else {}
        return {"domain": self.domain, **self.figures.model_dump(), "bytes_up": self.bytes_up, **late}


@dataclass(frozen=True)
class Expected:
    """What the server asked of a client.

    Args:
        current: the global factors that the client started from.
        max_update_norm: bound on the Frobenius norm of the client update over all modules.
        gate: whether it was asked for statistics for a gate.
    """

    domain: str
    rank: int
    fingerprint: Fingerprint
    current: Mapping[str, Factors]
    max_update_norm: float
    max_tokens: int
    wire: Wire = "float32"
    gate: bool = False


def check_reply(reply: TrainReply, expected: Expected) -> ClientUpdate:
    """The client update of a reply.

    Checks, in this order: domain, fingerprint, names, dtype, shapes and rank, finite values, tokens, cancellation, norm of
    the update. Types and bounds of the figures were checked when the message was read. The factors of the result are
    balanced, so that it does not matter in which factors a client sent its update.

    Raises:
        ReplyError: says what was expected and what came.
    """
    if reply.domain != expected.domain:
        raise _refuse(f"domain {expected.domain!r}", repr(reply.domain), expected)
    if reply.fingerprint != expected.fingerprint:
        raise _refuse("the fingerprint of the run's base", "another", expected)
    arrays = reply.arrays
    _check_arrays(arrays, expected)
    if reply.figures.num_tokens > expected.max_tokens:  # tokens are weights: a client may not claim more than asked
        raise _refuse(f"num_tokens up to {expected.max_tokens}", str(reply.figures.num_tokens), expected)
    received = to_factors(arrays, 1.0)
    factors = {name: Factors(received[name].a, received[name].b, f.scaling) for name, f in expected.current.items()}
    _check_finite(factors, expected)
    _check_cancellation(factors, expected)
    norm = _checked_norm(factors, expected)
    factors = {name: balanced(f) for name, f in factors.items()}
    num_bytes = sum(a.nbytes for a in arrays.values())
    return ClientUpdate(expected.domain, factors, reply.figures, num_bytes, norm, gate=_checked_gate(reply, expected))


def norm_outliers(updates: Sequence[ClientUpdate], max_ratio: float) -> dict[str, ReplyError]:
    """The domains whose client update has a norm above `max_ratio` times the lower median of all, with the reason.

    Of fewer than three updates none is an outlier: nobody can say which one is the odd one.
    """
    if len(updates) < 3:
        return {}
    norms = [u.norm for u in updates]
    found = {u.domain: far_above(u, norms, max_ratio, "the round's median") for u in updates}
    return {domain: error for domain, error in found.items() if error is not None}


def far_above(update: ClientUpdate, norms: Sequence[float], max_ratio: float, what: str) -> ReplyError | None:
    """Why a client update is refused whose norm is above `max_ratio` times the lower median of `norms`; None where it is not.

    Args:
        what: the median, in words.
    """
    middle = median_low(norms)
    if update.norm <= max_ratio * middle:
        return None
    expected = f"a client update of norm up to {max_ratio:g} times {what}, {middle:.4g}"
    got, where = f"{update.norm:.4g}", f"domain {update.domain!r}"
    return ReplyError("reply refused", expected=expected, got=got, where=where, fix=DROPPED)


def _check_arrays(arrays: Mapping[str, Any], expected: Expected) -> None:
    modules = {name: (f.shape[0], f.shape[1]) for name, f in expected.current.items()}
    layout = dict(reply_layout(modules, expected.rank, expected.wire))
    if expected.gate:
        sizes = {arrays[name].shape for name in GATE_ARRAYS if name in arrays}
        shape = max((s for s in sizes if len(s) == 1 and 0 < s[0] <= MAX_HIDDEN), default=(0,))
        layout |= dict.fromkeys(GATE_ARRAYS, ("float16", shape))
    if arrays.keys() != layout.keys():
        missing, extra = sorted(layout.keys() - arrays.keys()), sorted(arrays.keys() - layout.keys())
        got = f"{len(missing)} missing" + (f" ({missing[0]})" if missing else "")
        got += f", {len(extra)} unknown" + (f" ({extra[0]})" if extra else "")
        raise _refuse(f"{len(layout)} arrays", got, expected)
    for name, (dtype, shape) in layout.items():
        array = arrays[name]
        if array.dtype != np.dtype(dtype):
            raise _refuse(f"{dtype} {name}", str(array.dtype), expected)
        if array.shape != shape:
            raise _refuse(f"{name} {shape}", str(array.shape), expected)


def _checked_gate(reply: TrainReply, expected: Expected) -> GateStatistics | None:
    """The statistics for a gate, which any text may have."""
    if (reply.gate_tokens is not None) != expected.gate:
        wanted = "statistics for a gate" if expected.gate else "no statistics for a gate"
        raise _refuse(wanted, "none" if expected.gate else "some", expected)
    if reply.gate_tokens is None:
        return None
    if reply.gate_tokens > STATISTICS_TOKENS:
        raise _refuse(f"gate_tokens up to {STATISTICS_TOKENS}", str(reply.gate_tokens), expected)
    found = to_gate(reply.arrays, reply.gate_tokens)
    if not (is_finite(found.mean) and is_finite(found.variance) and float(found.variance.min()) > 0.0):
        raise _refuse("finite means, and variances above 0", "others", expected)
    return found


def _check_finite(factors: Mapping[str, Factors], expected: Expected) -> None:
    """Also after int8 was scaled: its product may overflow."""
    for name, f in factors.items():
        for side, values in (("a", f.a), ("b", f.b)):
            if not bool(torch.isfinite(values).all()):
                raise _refuse(f"finite {name}.{side}", "NaN or infinity", expected)


def _check_cancellation(factors: Mapping[str, Factors], expected: Expected) -> None:
    """Refuse factors whose directions all but cancel: a sum with them would be made of their rounding errors."""
    for name, f in factors.items():
        if (found := cancellation(f)) > MAX_CANCELLATION:
            raise _refuse(f"directions of {name} up to {MAX_CANCELLATION:g} times their sum", f"{found:.3g}", expected)


def _checked_norm(factors: Mapping[str, Factors], expected: Expected) -> float:
    """Frobenius norm of the client update over all modules, from Gram matrices of the factors alone."""
    total = 0.0
    for name, f in factors.items():
        start, _ = leading(expected.current[name], min(f.rank, expected.current[name].rank))
        both = stack([f, start], [1.0, -1.0])
        gram = (both.b.T.double() @ both.b.double()) * (both.a.double() @ both.a.T.double())
        total += max(float(gram.sum()), 0.0)
    if total**0.5 > expected.max_update_norm:
        bound = f"a client update of norm up to {expected.max_update_norm:g}"
        raise _refuse(bound, f"{total**0.5:.4g}", expected)
    return float(total**0.5)


def _refuse(expected: str, got: str, asked: Expected) -> ReplyError:
    return ReplyError(
        "reply refused", expected=expected, got=safe(got, MAX_SHOWN), where=f"domain {asked.domain!r}", fix=DROPPED
    )
