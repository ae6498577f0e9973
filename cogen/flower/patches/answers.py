"""Patches of a Flower node's HTTP client: which answers it takes from a coordinator that may be broken, or corrupt."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cogen.flower.patches.patch import Patch, mark, takes, uses
from cogen.protocol.wire import MAX_DEPTH, MAX_OBJECTS, PIECE_BYTES

if TYPE_CHECKING:
    import httpx

RETRIED_STATUSES = {408, 425, 429}  # in addition to all from 500 on
PROTOBUF = "application/protobuf"
REFUSED_KEY = "the coordinator refuses the key of this node (401)"
# Most bytes of an answer, by its request. The node reads an answer into memory, so one without an end would fill it.
HEAD_BYTES = 65_536
ANSWER_BYTES = {"PullObjectRequest": PIECE_BYTES + HEAD_BYTES, "GetFabRequest": (10 << 20) + HEAD_BYTES}
OTHER_ANSWER_BYTES = 2 * HEAD_BYTES


def only_sound_answers(send: Callable[..., Any]) -> Callable[..., Any]:
    """Flower's method to send a request; an answer that SuperLink does not give counts as a broken connection."""
    import httpx

    def sent(self: Any, context: Any, *, stream: bool = False) -> Any:
        self._client.follow_redirects = False
        try:
            response = send(self, context, stream=True)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise httpx.RemoteProtocolError(f"an answer that cannot be read: {error}") from None
        try:
            _require_sound(response)
            return response if stream else _whole(self, context, response)
        except BaseException:
            response.close()
            raise

    return mark(sent)  # type: ignore[no-any-return]


def _require_sound(response: httpx.Response) -> None:
    """Refuse an answer whose head SuperLink does not send. It compresses none, and a little of that would fill the memory."""
    import httpx

    status, kind = response.status_code, response.headers.get("content-type", "")
    if status == httpx.codes.UNAUTHORIZED:
        print(REFUSED_KEY, file=sys.stderr, flush=True)
    if status >= 500 or status in RETRIED_STATUSES or 300 <= status < 400:
        raise httpx.RemoteProtocolError(f"an answer with the status {status}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise httpx.RemoteProtocolError("a compressed answer")
    if status == httpx.codes.OK and kind.partition(";")[0].strip().lower() != PROTOBUF:
        raise httpx.RemoteProtocolError(f"an answer of the type {kind[:80]!r}")


def _whole(client: Any, context: Any, response: httpx.Response) -> httpx.Response:
    """The answer, read; one that is larger than any to this request counts as a broken connection."""
    import httpx

    if response.is_closed:  # Flower has read the body of an error
        return response
    context.request.extensions["timeout"]["read"] = client._client.timeout.read
    most, content = ANSWER_BYTES.get(type(context.message).__name__, OTHER_ANSWER_BYTES), bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > most:
            raise httpx.RemoteProtocolError(f"an answer of more than {most} bytes")
    response.close()
    return httpx.Response(
        response.status_code, headers=response.headers, content=bytes(content), request=response.request
    )


def only_fitting_answers(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Flower's method to ask; an answer that is no protobuf, or answers another question, counts as a broken connection."""
    import httpx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    doubts: dict[tuple[str, str], int] = {}  # answers in a row that hold nothing, by kind and object

    def asked(self: Any, **request: Any) -> Any:
        try:
            answer = ask(self, **request)
            key = type(answer).__name__, getattr(request["request"], "object_id", "")
            doubts[key] = 0 if answer.ByteSize() else doubts.get(key, 0) + 1
            if key[0] in DOUBTED and 0 < doubts[key] < NUM_BELIEVED:
                raise httpx.RemoteProtocolError(f"{key[0]} holds nothing")
            doubts.pop(key, None)
            fits = FITS.get(type(answer).__name__, lambda *_: True)(request["request"], answer)
        except (ValueError, DecodeError) as error:
            raise httpx.RemoteProtocolError(f"an answer that is no protobuf: {error}") from None
        if not fits:
            raise httpx.RemoteProtocolError(f"{type(answer).__name__} does not fit its request")
        return answer

    return mark(asked)  # type: ignore[no-any-return]


def _is_message(_: Any, answer: Any) -> bool:
    """At most one message, with as many objects as one has; the node reads all of them into memory."""
    messages, trees = answer.messages_list, answer.message_object_trees
    ids = [m.metadata.message_id for m in messages]
    if len(messages) > 1 or ids != [t.object_id for t in trees] or any(len(i) != 64 for i in ids):
        return False
    level, num_objects = list(trees), 0
    for _depth in range(MAX_DEPTH):
        num_objects += len(level)
        level = [child for node in level for child in node.children]
    return not level and num_objects <= MAX_OBJECTS


def _has_hash(content: bytes, name: str) -> bool:
    return hashlib.sha256(content).hexdigest() == name


# What SuperLink's answers hold for sure. An empty body is a protobuf too, in which everything is missing.
FITS: dict[str, Callable[[Any, Any], bool]] = {
    "ActivateNodeResponse": lambda asked, answer: answer.node_id > 0,
    "PullMessagesResponse": _is_message,
    "PushMessagesResponse": lambda asked, answer: bool(answer.session_id),
    "GetRunResponse": lambda asked, answer: answer.run.run_id == asked.run_id,
    "GetFabResponse": lambda asked, answer: _has_hash(answer.fab.content, asked.hash_str),
    "PullObjectResponse": lambda asked, answer: (
        not answer.object_available or _has_hash(answer.object_content, asked.object_id)
    ),
}


# Empty answers that mean: node unknown, object unknown, object not wanted. After each the node ends or drops a message.
DOUBTED = {"SendNodeHeartbeatResponse", "PullObjectResponse", "PushObjectResponse"}
NUM_BELIEVED = 4


PROTOBUF_CLIENT = "flwr.supercore.protobuf.client:ProtobufClient"

ANSWER_PATCHES = (
    Patch(
        "supernode_sound_answers",
        changes="A SuperNode retries after 500 and every other status of a fault, a redirect, another type of content, and an "
        "answer that is compressed or larger than any to its request.",
        reason="Flower gives up on 500, 408 and 429: the reply is dropped, and the thread of heartbeats ends for good. It reads "
        "an answer without an end until the memory is full.",
        versions=">=1.41,<1.43",
        places=(f"{PROTOBUF_CLIENT}._send", PROTOBUF_CLIENT),
        fits=lambda send, client: takes(send, "self", "context", "stream") and uses(client.__init__, "_client"),
        make=lambda send, _: only_sound_answers(send),
    ),
    Patch(
        "supernode_fitting_answers",
        changes="A SuperNode retries after an answer that is no protobuf or does not fit its request, and thrice after an "
        "empty one with which it would end or drop a message.",
        reason="Flower takes an empty body for an answer: the node gets the number 0, or takes its reply for sent.",
        versions=">=1.41,<1.43",
        places=(f"{PROTOBUF_CLIENT}._unary_unary",),
        fits=lambda ask: takes(ask, "self", "path", "request", "response_type"),
        make=only_fitting_answers,
    ),
)
