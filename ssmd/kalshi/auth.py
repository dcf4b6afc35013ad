"""Signs requests to Kalshi: REST calls and the WebSocket handshake alike.

The signed message is `<ms><METHOD><path>`: no separators, no host, no query string. RSA keys sign with PSS, SHA-256 and
a salt of 32 bytes; Ed25519 keys sign the same bytes as RFC 8032 says. The exchange knows which from the registered key.

Not for finding keys: PEM text comes in as an argument (environment variables and files are read elsewhere).
Invariant: key material leaves this module only as a signature. No repr, format, pickle or exception shows it, and
no exception raised here has a cause, a context or a frame of this module that holds it.
Facts: Kalshi's "API keys" page and probes of June 2026.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ssmd.errors import UsageError

RSA_MIN_BITS: Final = 2048
SALT_BYTES: Final = 32

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=SALT_BYTES)
_NEW_KEY: Final = "Make a key on Kalshi's API keys page and keep the private key file that it offers."

# What a PEM text says that it is -> why it cannot be used, and what to do.
_WRONG_KINDS: Final = (
    (
        ("BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"),
        "the private key is protected by a passphrase",
        "Write it without one: openssl pkey -in KEY.pem -out PLAIN.pem, and let nobody else read that file.",
    ),
    (
        ("BEGIN PUBLIC KEY", "BEGIN RSA PUBLIC KEY", "BEGIN CERTIFICATE"),
        "the text is a public key or a certificate, not a private key",
        _NEW_KEY,
    ),
    (
        ("BEGIN OPENSSH PRIVATE KEY",),
        "the private key is in OpenSSH's own format",
        "Convert a copy of it: ssh-keygen -p -m PKCS8 -f COPY.",
    ),
    (
        ("BEGIN EC PRIVATE KEY", "BEGIN DSA PRIVATE KEY"),
        "the private key is of a type that Kalshi does not use",
        "Kalshi takes RSA (2048 bits or more) and Ed25519 keys. " + _NEW_KEY,
    ),
)


class PrivateKey:
    """A signing key that does not show itself."""

    __slots__ = ("_key",)

    def __init__(self, key: RSAPrivateKey | Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def algorithm(self) -> str:
        """What may be told: the type, and for RSA the size."""
        return f"RSA-{self._key.key_size}" if isinstance(self._key, RSAPrivateKey) else "Ed25519"

    def sign(self, message: bytes) -> bytes:
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(message, _PSS, hashes.SHA256())
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"<private key {self.algorithm}, not shown>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key is not copied or pickled")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Who we are: the key id (a UUID; an account's name, so not shown whole either) and its private key."""

    key_id: str
    key: PrivateKey

    def __post_init__(self) -> None:
        if not self.key_id or not self.key_id.isascii() or not self.key_id.isprintable() or " " in self.key_id:
            raise UsageError(
                "the key id is empty or holds characters that no header may carry",
                hint="It is the UUID that Kalshi's API keys page shows beside the key, e.g. KALSHI_API_KEY.",
            )

    def __repr__(self) -> str:
        return f"<credentials {self.key_id[:4]}…, {self.key.algorithm}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("credentials are not copied or pickled")


def load_key(pem: str | bytes) -> PrivateKey:
    """The key of a PEM text: RSA (PKCS#1, PKCS#8) or Ed25519 (PKCS#8), without passphrase.

    Line ends written as backslash and n, quotes around the text and white space before lines (what environment
    variables and YAML do to a PEM) are repaired. Raises UsageError that says what is wrong and what to do.
    """
    result = _parse(pem)
    del pem  # a traceback shows local variables to some log formatters
    if isinstance(result, PrivateKey):
        return result
    message, hint = result
    raise UsageError(message, hint=hint)


def sign(key: PrivateKey, ms: int, method: str, path: str) -> str:
    """Base64 signature of a request made at `ms` (Unix ms). A query string of `path` is left out, as the exchange does.

    Raises ValueError for a path that does not start at the root.
    """
    if not path.startswith("/"):
        raise ValueError(f"the signed path starts at the root, without host: {path!r}")
    message = f"{ms}{method.upper()}{path.partition('?')[0]}"
    return base64.b64encode(key.sign(message.encode())).decode("ascii")


def headers(credentials: Credentials, ms: int, method: str, path: str) -> dict[str, str]:
    """The three headers that sign one request."""
    return {
        "KALSHI-ACCESS-KEY": credentials.key_id,
        "KALSHI-ACCESS-TIMESTAMP": str(ms),
        "KALSHI-ACCESS-SIGNATURE": sign(credentials.key, ms, method, path),
    }


def _parse(pem: str | bytes) -> PrivateKey | tuple[str, str]:
    """The key, or what is wrong and what to do. Never raises, so that no exception carries the text."""
    try:
        text = pem.decode("ascii") if isinstance(pem, bytes) else pem
        data = _repaired(text).encode("ascii")
    except UnicodeError:
        return "the private key is not PEM text", _not_pem_hint("")
    if "-----BEGIN" not in text:
        return "the private key is not PEM text", _not_pem_hint(text)
    for markers, message, hint in _WRONG_KINDS:
        if any(marker in text for marker in markers):
            return message, hint
    try:
        key = load_pem_private_key(data, password=None)
    except UnsupportedAlgorithm:
        key = None
    except (ValueError, TypeError):
        return (
            "the private key is damaged: its PEM text cannot be decoded",
            "Copy the file again, whole, from -----BEGIN to the last -----, with its line ends.",
        )
    if isinstance(key, Ed25519PrivateKey):
        return PrivateKey(key)
    if not isinstance(key, RSAPrivateKey):
        return "the private key is of a type that Kalshi does not use", f"It takes RSA and Ed25519 keys. {_NEW_KEY}"
    if key.key_size < RSA_MIN_BITS:
        return f"the RSA key has {key.key_size} bits, fewer than {RSA_MIN_BITS}", _NEW_KEY
    return PrivateKey(key)


def _repaired(text: str) -> str:
    """PEM text with its line ends, as it was before a shell or a YAML file had it."""
    text = text.strip().strip("\"'").replace("\\r", "").replace("\\n", "\n")
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


def _not_pem_hint(text: str) -> str:
    if (
        text
        and "\n" not in text.strip()
        and len(text) < 1024
        and ("/" in text[:2] or text.strip().endswith((".pem", ".key")))
    ):
        return "It looks like a file name: give that as KALSHI_PRIVATE_KEY_PATH (in an environment file: file:PATH)."
    return "It starts with -----BEGIN PRIVATE KEY----- or -----BEGIN RSA PRIVATE KEY-----. " + _NEW_KEY


def clock_refused(words: str) -> bool:
    """Whether a sign-in was refused for this machine's clock, not for the key: that passes when the clock is set."""
    return "timestamp_expired" in words or "timestamp expired" in words


def refusal_hint(words: str) -> str:
    """What a user can do about a refused sign-in, REST or WebSocket: `words` are the body's."""
    if clock_refused(words):
        return "The clock of this machine is off by more than some seconds: set it (NTP), then start again."
    if "NOT_FOUND" in words:
        return "KALSHI_API_KEY is not known to this exchange. Demo and production have keys of their own."
    if "INCORRECT_API_KEY_SIGNATURE" in words:
        return "The private key does not belong to KALSHI_API_KEY: check KALSHI_PRIVATE_KEY or KALSHI_PRIVATE_KEY_PATH."
    return "Check KALSHI_API_KEY and the private key; demo and production have keys of their own."
