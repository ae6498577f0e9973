"""What messages of Flower's say, for tests that read them and put others in their place."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from cogen.protocol.wire import Frame, from_records, to_records


def sealed(frame: Frame) -> RecordDict:
    """The content of a message."""
    return RecordDict({name: ConfigRecord(dict(record)) for name, record in to_records(frame).items()})


def frame_of(message: Message) -> Frame:
    """Header and arrays of a message that is no error."""
    assert not message.has_error(), message.error.reason
    return from_records(message.content.config_records)


def header_of(message: Message) -> dict[str, Any]:
    return dict(frame_of(message).header)


def rewrite(message: Message, frame: Frame) -> Message:
    """The message, saying something else."""
    for name in list(message.content):
        del message.content[name]
    for name, record in sealed(frame).items():
        message.content[name] = record
    return message
