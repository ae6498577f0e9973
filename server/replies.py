"""A reply is checked before it can touch the global model; what fails is named, and dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cogen.adapter import Factors, Fingerprint
from cogen.errors import ReplyError
from cogen.merge.factored import leading, stack
from cogen.protocol.wire import Frame

REFUSED = "It is dropped of this round."


@dataclass(frozen=True)
class ClientUpdate:
    """One client's valid reply.

    Args:
        start: the global factors that it began from; None for those of the round it enters.
    """

    domain: str
    factors: dict[str, Factors]
    num_tokens: int
    bits_per_byte_before: float | None
    bits_per_byte_after: float | None
    seconds: float
    bytes_up: int
    start: Mapping[str, Factors] | None = None
    rounds_late: int = 0

    def shown(self) -> dict[str, Any]:
        """Its numbers, for the events."""
        hidden = {"factors", "start"} | ({"rounds_late"} if self.rounds_late == 0 else set())
        return {k: v for k, v in vars(self).items() if k not in hidden}


@dataclass(frozen=True)
class Expected:
    """What the server asked of a client: domain, rank, and the global factors that it started from."""

    domain: str
    rank: int
    fingerprint: Fingerprint
    current: Mapping[str, Factors]
    max_update_norm: float
    max_tokens: int


def check_reply(frame: Frame, expected: Expected) -> ClientUpdate:
    """Turn what a client answered into a Reply.

    Checks, in this order: tables, domain, fingerprint, names, dtype, shapes and rank, finite values,
    tokens, norm of the client update.

    Raises:
        ReplyError: says what was expected and what came.
    """
    try:
        return _check(frame, expected)
    except (KeyError, ValueError, TypeError) as error:
        raise _refuse("readable tables", f"{type(error).__name__}: {error}", expected) from None


def _check(frame: Frame, expected: Expected) -> ClientUpdate:
    for kind in ("figures", "about"):
        if kind not in frame.header:
            raise _refuse(f"a table {kind!r}", "none", expected)
    about, arrays = frame.header["about"], frame.arrays
    if about.get("domain") != expected.domain:
        raise _refuse(f"domain {expected.domain!r}", repr(about.get("domain")), expected)
    got = Fingerprint(*(str(about.get(k, "")) for k in ("weights", "tokenizer", "modules")))
    if got != expected.fingerprint:
        raise _refuse("the fingerprint of the run's base", "another", expected)
    _check_arrays(arrays, expected)
    factors = {
        name: Factors(torch.from_numpy(arrays[f"{name}.a"]), torch.from_numpy(arrays[f"{name}.b"]), f.scaling)
        for name, f in expected.current.items()
    }
    figures = _check_figures(frame.header["figures"], expected)
    _check_norm(factors, expected)
    return ClientUpdate(expected.domain, factors, bytes_up=sum(a.nbytes for a in arrays.values()), **figures)


def _check_arrays(arrays: Mapping[str, Any], expected: Expected) -> None:
    wanted = {f"{n}.{side}" for n in expected.current for side in "ab"}
    if arrays.keys() != wanted:
        missing, extra = sorted(wanted - arrays.keys()), sorted(arrays.keys() - wanted)
        got = f"{len(missing)} missing" + (f" ({missing[0]})" if missing else "")
        got += f", {len(extra)} unknown" + (f" ({extra[0]})" if extra else "")
        raise _refuse(f"{len(wanted)} arrays", got, expected)
    for name, f in expected.current.items():
        d_out, d_in = f.shape
        rank = min(expected.rank, d_out, d_in)
        for side, shape in (("a", (rank, d_in)), ("b", (d_out, rank))):
            array = arrays[f"{name}.{side}"]
            if array.dtype != np.float32:
                raise _refuse(f"float32 {name}.{side}", str(array.dtype), expected)
            if array.shape != shape:
                raise _refuse(f"{name}.{side} {shape}", str(array.shape), expected)
            if not np.isfinite(array).all():
                raise _refuse(f"finite {name}.{side}", "NaN or infinity", expected)


def _check_figures(figures: Mapping[str, Any], expected: Expected) -> dict[str, Any]:
    tokens = figures.get("num_tokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens <= 0:
        raise _refuse("num_tokens above 0", repr(tokens), expected)
    if tokens > expected.max_tokens:  # tokens are weights: a client may not claim more than it was asked for
        raise _refuse(f"num_tokens up to {expected.max_tokens}", str(tokens), expected)
    values: dict[str, Any] = {"num_tokens": tokens}
    for key in ("bits_per_byte_before", "bits_per_byte_after", "seconds"):
        value = figures.get(key)
        if value is not None and not (isinstance(value, int | float) and np.isfinite(value) and value >= 0):
            raise _refuse(f"a finite {key} of 0 or more", repr(value), expected)
        values[key] = value
    values["seconds"] = float(values["seconds"] or 0.0)
    return values


def _check_norm(factors: Mapping[str, Factors], expected: Expected) -> None:
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


def _refuse(expected: str, got: str, asked: Expected) -> ReplyError:
    return ReplyError("reply refused", expected=expected, got=got, where=f"domain {asked.domain!r}", fix=REFUSED)
