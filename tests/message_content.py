"""Reading and replacing the content of Flower's messages."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from cogen.protocol.wire import Frame, from_records, nonce_of, to_records

NONCE = bytes(range(16))


def content_of(frame: Frame, nonce: bytes = NONCE) -> RecordDict:
    """A frame as the content of a message."""
    return RecordDict({name: ConfigRecord(dict(record)) for name, record in to_records(frame, nonce).items()})


def frame_of(message: Message) -> Frame:
    """Header and arrays of a message, which must not be an error."""
    assert not message.has_error(), message.error.reason
    return from_records(message.content.config_records)


def header_of(message: Message) -> dict[str, Any]:
    return dict(frame_of(message).header)


def rewrite(message: Message, frame: Frame) -> Message:
    """Replace the content of a message; its nonce stays."""
    nonce = nonce_of(message.content.config_records)
    for name in list(message.content):
        del message.content[name]
    for name, record in content_of(frame, nonce).items():
        message.content[name] = record
    return message
