"""The exceptions that a user can meet. Each is one line and names what to do.

CogenError
├── ConfigError            a setting is unknown, out of bounds or missing
├── BaseModelError         a base model cannot be found, fetched or loaded
├── DataError              a corpus is missing, unreadable, empty or too small
├── AdapterError           an adapter folder is missing, pickled or malformed
│   └── FingerprintMismatch   an adapter meets a base or an adapter it was not made for
├── MergeError             adapters cannot be combined as asked
│   ├── WeightError        the weights are negative, not finite or sum to 0
│   └── RankError          the rank asked for is not one the inputs can give
├── TrainingError          training went wrong in a way that a setting can mend
├── RunError               a run folder is in the way, incomplete or not resumable
│   └── AlteredFile        a file is not as it was written
├── PolicyError            a domain refuses what its own policy forbids
└── FederationError        Flower's programs or the clients failed
    ├── EnrolmentError     an invite, a key or a base does not let a domain in; its text may go to that domain
    ├── MessageError       a message between coordinator and domain is not of the expected form
    └── ReplyError         a client's reply may not touch the global model
"""

from __future__ import annotations

import traceback
from contextlib import suppress


class CogenError(Exception):
    """A mistake that the user can mend: `<what>: expected <X>, got <Y> (<where>). <fix>`.

    Args:
        what: what failed, in a few words.
        expected: what would have been right.
        got: what was there instead.
        where: path, key, module or domain; dropped when there is none.
        fix: one sentence that says what to do.
    """

    is_shareable = False
    """Whether a domain may send this line to the coordinator. Otherwise only the type of the error is sent."""

    def __init__(self, what: str, *, expected: str, got: str, where: str = "", fix: str) -> None:
        self.where = where
        self.parts = {"what": what, "expected": expected, "got": got, "where": where, "fix": fix}
        self.reason = " ".join(f"expected {expected}, got {got}".split())
        place = f" ({where})" if where else ""
        line = f"{what}: expected {expected}, got {got}{place}. {fix}"
        super().__init__(" ".join(line.split()))


class ConfigError(CogenError):
    """A setting is unknown, out of bounds or missing."""


class BaseModelError(CogenError):
    """A base model cannot be found, fetched or loaded."""


class DataError(CogenError):
    """A corpus is missing, unreadable, empty or too small."""


class AdapterError(CogenError):
    """An adapter folder is missing, pickled or malformed."""


class FingerprintMismatch(AdapterError):
    """An adapter meets a base or another adapter that it was not made for."""


class MergeError(CogenError):
    """Adapters cannot be combined as asked."""


class WeightError(MergeError):
    """The weights are negative, not finite or sum to 0."""


class RankError(MergeError):
    """The rank asked for is not one the inputs can give."""


class TrainingError(CogenError):
    """Training went wrong in a way that a setting can mend."""


class RunError(CogenError):
    """A run folder is in the way, incomplete or not resumable."""


class AlteredFile(RunError):
    """A file is not as it was written."""


class PolicyError(CogenError):
    """A domain refuses what its own policy forbids; names neither a path nor a machine."""

    is_shareable = True


class FederationError(CogenError):
    """Flower's programs or the clients failed."""


class EnrolmentError(FederationError):
    """An invite, a key or a base does not let a domain in; its text may go to that domain."""


class MessageError(FederationError):
    """A message between coordinator and domain is not of the expected form."""


class ReplyError(FederationError):
    """A client's reply may not touch the global model."""


def log_error() -> None:
    """Write the exception that is being handled to stderr; a log whose disk is full must not become a second one."""
    with suppress(OSError):
        traceback.print_exc()
