"""The messages between a coordinator and a domain: one frozen type each, checked when they are read.

    request            reply             when
    HelloRequest       HelloReply        before a round: which domain is this, what does its policy allow
    TrainRequest       TrainReply        a round: global factors down, trained factors and figures up
    EvaluateRequest    EvaluateReply     after the rounds: models down, scores on held-out text up
    SuspendRequest     SuspendReply      a domain that failed too often is not asked again

A simulation and a real federation use the same types. `pack` makes a frame of a message (`cogen.protocol.wire`),
`unpack` is its inverse and refuses everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from cogen.adapter import Fingerprint
from cogen.errors import MessageError
from cogen.protocol.settings import WorkSettings
from cogen.protocol.wire import Frame
from cogen.records import Table
from cogen.train.schedule import Visit


def _no_dust(value: float) -> float:
    """0 for a value that no model can have: its inverse is not finite."""
    return value if value > 1e-12 else 0.0


MAX_MODELS = 256  # of a request: the adapters of so many domains
SHOWN_CHARACTERS = 80  # of a value that is refused
RunName = Annotated[str, Field(max_length=4096)]
RoundNumber = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
# Figures are added, drawn and printed: they have the bounds of what can be measured, and no more digits than a number has.
Count = Annotated[int, Field(strict=True, gt=0, le=2**53)]
Limit = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Seconds = Annotated[float, Field(strict=True, ge=0.0, le=1e8, allow_inf_nan=False)]
BitsPerByte = Annotated[float, Field(strict=True, ge=0.0, le=1e4, allow_inf_nan=False), AfterValidator(_no_dust)]


class Message(Table):
    """A message: its fields travel as JSON, its arrays as safetensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arrays: dict[str, Any] = Field(default={}, exclude=True, repr=False)
    """Name to numpy array; `to_arrays` in `cogen.protocol.factors` says which names."""

    def with_arrays(self, arrays: dict[str, Any]) -> Self:
        """The message with these arrays, which are not copied: many messages may share them."""
        return self.model_copy(update={"arrays": arrays})


class HelloRequest(Message):
    """Which domain is this, and what does it allow?"""

    kind: Literal["hello"] = "hello"
    run: RunName


class HelloReply(Message):
    """A domain and its limits; 0 is no limit."""

    kind: Literal["hello_reply"] = "hello_reply"
    domain: Annotated[str, Field(max_length=64)]
    max_rank: Limit = 0
    max_tokens_per_round: Limit = 0
    evaluates: Annotated[bool, Field(strict=True)] = True
    """Whether scores on its held-out text may be sent."""
    shares_expert: Annotated[bool, Field(strict=True)] = False
    """Whether its own adapter may be sent to other domains."""
    max_shared_experts: Limit = 0
    """How many adapters of other domains it scores; here 0 is none."""
    shares_gate: Annotated[bool, Field(strict=True)] = False
    """Whether the statistics of its text for a gate may be sent."""
    version: Annotated[str, Field(max_length=40)] = ""


class TrainRequest(Message):
    """Train one round from the global factors in `arrays`."""

    kind: Literal["train"] = "train"
    run: RunName
    round: RoundNumber
    settings: WorkSettings
    visit: Visit | None = None
    """In a relay, where in the learning rates it stands; None in a round side by side."""


class Figures(Table):
    """The numbers of one round at one domain."""

    num_tokens: Count
    """Tokens trained; the weight of the client update."""
    seconds: Seconds = 0.0
    bits_per_byte_before: BitsPerByte | None = None
    """On held-out text, before the round; None where the domain keeps it or scores none."""
    bits_per_byte_after: BitsPerByte | None = None


class TrainReply(Message):
    """The trained factors (in `arrays`) and the figures of the round; with `gate_tokens` also statistics for a gate."""

    kind: Literal["train_reply"] = "train_reply"
    domain: Annotated[str, Field(max_length=64)]
    fingerprint: Fingerprint
    figures: Figures
    gate_tokens: Count | None = None
    """Tokens of the domain's text that `gate/mean` and `gate/variance` in `arrays` were taken over."""


class EvaluateRequest(Message):
    """Score the base and the models in `arrays` on held-out text.

    A domain's own adapter may be named without its arrays: the domain has it.
    """

    kind: Literal["evaluate"] = "evaluate"
    run: RunName
    round: RoundNumber
    settings: WorkSettings
    models: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=MAX_MODELS)]
    """Names of the models; each one's arrays are named `<model>/<module>.a` and `.b`, and `expert:<domain>` may have none."""


class Score(Table):
    """How well one model predicts a domain's held-out text."""

    bits_per_byte: BitsPerByte
    num_bytes: Count
    num_tokens: Count


class EvaluateReply(Message):
    """Scores by name of the model."""

    kind: Literal["evaluate_reply"] = "evaluate_reply"
    domain: Annotated[str, Field(max_length=64)]
    scores: dict[str, Score]


class SuspendRequest(Message):
    """The domain failed `num_failures` rounds in a row and is not asked again in this start of the run."""

    kind: Literal["suspend"] = "suspend"
    run: RunName
    round: RoundNumber
    num_failures: RoundNumber


class SuspendReply(Message):
    """The domain has noted it."""

    kind: Literal["suspend_reply"] = "suspend_reply"
    domain: Annotated[str, Field(max_length=64)]


class FailureReply(Message):
    """A trainer process could not answer; it stays between the programs of one machine."""

    kind: Literal["failure"] = "failure"
    error: str


WorkRequest = TrainRequest | EvaluateRequest
Request = HelloRequest | TrainRequest | EvaluateRequest | SuspendRequest
Reply = HelloReply | TrainReply | EvaluateReply | SuspendReply
AnyMessage = TypeVar("AnyMessage", bound=Message)

FLOWER_TYPES: Mapping[type[Message], str] = {
    HelloRequest: "query.hello",
    TrainRequest: "train",
    EvaluateRequest: "evaluate",
    SuspendRequest: "query.suspend",
}
_ANY: TypeAdapter[Message] = TypeAdapter(
    Annotated[Request | Reply | FailureReply, Field(discriminator="kind")],
)


def pack(message: Message) -> Frame:
    """The message as a frame."""
    return Frame(message.model_dump(mode="json", exclude_none=True), message.arrays)


def unpack(frame: Frame, kind: type[AnyMessage]) -> AnyMessage:
    """The message of type `kind` that a frame holds.

    Raises:
        MessageError: another type, or a field that is missing, unknown or out of bounds.
    """
    message = _unpack(frame, (kind,))
    assert isinstance(message, kind)
    return message


def unpack_request(frame: Frame) -> Request:
    """The request that a frame holds. Raises MessageError as `unpack` does."""
    return cast(Request, _unpack(frame, get_args(Request)))


def unpack_reply(frame: Frame) -> Reply | FailureReply:
    """The reply that a frame holds. Raises MessageError as `unpack` does."""
    return cast(Reply | FailureReply, _unpack(frame, (*get_args(Reply), FailureReply)))


def _unpack(frame: Frame, kinds: tuple[type[Message], ...]) -> Message:
    names = " or ".join(kind.model_fields["kind"].default for kind in kinds)
    try:
        message = _ANY.validate_python({**frame.header, "arrays": dict(frame.arrays)})
    except ValidationError as error:
        raise _refused(names, error) from None
    if not isinstance(message, kinds):
        raise MessageError("message refused", expected=names, got=str(frame.header.get("kind")), fix=_FIX)
    return message


_FIX = "The coordinator and the domain need the same version of cogen."


def _refused(names: str, error: ValidationError) -> MessageError:
    """The first thing that is wrong, as one line; a value that came from the other side is cut."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:  # no kind, or an unknown one
        got = repr(first["input"].get("kind"))
        return MessageError("message refused", expected=names, got=got[:SHOWN_CHARACTERS], fix=_FIX)
    place = ".".join(str(part) for part in first["loc"][1:])
    got = "nothing" if first["type"] == "missing" else repr(first["input"])
    return MessageError("message refused", expected=f"{place}: {first['msg']}", got=got[:SHOWN_CHARACTERS], fix=_FIX)
