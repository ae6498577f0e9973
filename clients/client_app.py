"""The Flower ClientApp: unpack the message, let the domain's node answer, pack the reply.

`cogen.node.answer` does the work: it reads the request, asks the domain's trainer, checks the domain's policy on the way,
and in a real federation writes a receipt of all that is sent. A TrainReply holds the trained factors, the number of
tokens, held-out bits per byte before and after, and the seconds; nothing else is sent (`cogen.protocol.messages`).
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from cogen.node.answer import Refusal, answer

FAILED = 2  # Flower's code for a ClientApp that raised


class DomainApp(ClientApp):
    """Answers messages of every type, so that Flower sends no error of its own, which would have no receipt."""

    def __call__(self, message: Message, context: Context) -> Message:
        """The reply to one message of the coordinator."""
        kind, about = message.metadata.message_type, message.metadata
        records = message.content.config_records if message.has_content() else {}
        try:
            reply = answer(kind, records, about.group_id, context.node_config, about.ttl)
        except Refusal as refusal:
            return Message(Error(code=FAILED, reason=str(refusal)), reply_to=message)
        content = RecordDict({name: ConfigRecord(dict(record)) for name, record in reply.items()})
        return Message(content, reply_to=message)


app = DomainApp()
