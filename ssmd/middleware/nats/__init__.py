"""The bus on NATS JetStream (nats-py): `NatsTransport`, and a Journal that is a stream: `NatsJournal`. docs/bus.md."""

from ssmd.middleware.nats.journal import NatsJournal
from ssmd.middleware.nats.transport import NatsTransport

__all__ = ["NatsJournal", "NatsTransport"]
