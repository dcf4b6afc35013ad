"""The bus on NATS JetStream (nats-py): `NatsTransport`. docs/bus.md."""

from ssmd.middleware.nats.transport import NatsTransport

__all__ = ["NatsTransport"]
