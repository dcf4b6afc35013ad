"""Keys, signatures and certificates: made at run time, never stored beyond the run.

`KeyRing.refusal` is the exchange's check of the three headers (pure; the body texts are those seen on
the wire). The message is `<ms><METHOD><path without query>`; RSA keys sign with PSS, SHA-256, a salt
of 32 bytes; Ed25519 keys sign the same bytes. Not for clients: the recorder has its own code for it.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SKEW_MS = 15_000

PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer in place of what was asked for."""

    status: int
    body: str


def _refused(code: str, message: str, details: str | None = None) -> Refusal:
    error = {"code": code, "message": message}
    if details:
        error["details"] = details
    return Refusal(401, json.dumps({"error": error}, separators=(",", ":")))


NO_HEADERS = _refused("token_authentication_failure", "token authentication failure")
NO_SIGNATURE = _refused("signature_is_missing_from_headers", "signature is missing from headers")
WRONG_SIGNATURE = _refused("authentication_error", "authentication_error", "INCORRECT_API_KEY_SIGNATURE")
UNKNOWN_KEY = _refused("authentication_error", "authentication_error", "NOT_FOUND")
WRONG_TIME = _refused("header_timestamp_expired", "header timestamp expired")


class KeyRing:
    """The registered keys: key id -> public key."""

    def __init__(self) -> None:
        self._keys: dict[str, PublicKey] = {}

    def register(self, key_id: str, key: PublicKey) -> None:
        self._keys[key_id] = key

    def refusal(self, headers: Mapping[str, str], method: str, path: str, now_ms: int) -> Refusal | None:
        """Why a request is not let in; None: it is. Header names in lower case, `path` without query."""
        key_id = headers.get("kalshi-access-key")
        stamp = headers.get("kalshi-access-timestamp")
        signature = headers.get("kalshi-access-signature")
        if not key_id and not stamp and not signature:
            return NO_HEADERS
        if not signature:
            return NO_SIGNATURE
        if not key_id:
            return NO_HEADERS
        if not stamp or not stamp.isascii() or not stamp.isdigit() or abs(int(stamp) - now_ms) > SKEW_MS:
            return WRONG_TIME
        key = self._keys.get(key_id)
        if key is None:
            return UNKNOWN_KEY
        return None if _signed(key, signature, f"{stamp}{method}{path}".encode()) else WRONG_SIGNATURE


def _signed(key: PublicKey, signature: str, message: bytes) -> bool:
    try:
        raw = base64.b64decode(signature, validate=True)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(raw, message)
        else:
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
            key.verify(raw, message, pss, hashes.SHA256())
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A key that a client may use: its id, its kind, and where its private half lies."""

    key_id: str
    kind: str  # rsa or ed25519
    path: Path


def issue(ring: KeyRing, folder: Path, kind: str, *, pkcs8: bool = False) -> ClientKey:
    """Makes a key pair, registers the public half and writes the private one (mode 0600)."""
    key: PrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    layout = PrivateFormat.PKCS8 if pkcs8 or kind == "ed25519" else PrivateFormat.TraditionalOpenSSL
    key_id = str(uuid.uuid4())
    path = folder / f"{kind}-{key_id}.pem"
    write_private(path, key.private_bytes(Encoding.PEM, layout, NoEncryption()))
    ring.register(key_id, key.public_key())
    return ClientKey(key_id, kind, path)


def write_private(path: Path, content: bytes) -> None:
    """Writes a new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


@dataclass(frozen=True, slots=True)
class Certificates:
    """A certificate authority of this run and a server certificate for loopback names."""

    ca_file: Path
    chain_file: Path
    key_file: Path


def certify(folder: Path) -> Certificates:
    """Makes authority and server certificate; clients need `ca_file` to trust the server."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ssmd simulator authority")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        _builder(ca_name, ca_name, now)
        .public_key(ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    server = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), ca_name, now)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    files.ca_file.write_bytes(ca.public_bytes(Encoding.PEM))
    files.chain_file.write_bytes(server.public_bytes(Encoding.PEM))
    write_private(files.key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def _builder(subject: x509.Name, issuer: x509.Name, now: datetime.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )


def public(key: object) -> PublicKey:
    """A key that can be registered, or ValueError."""
    if isinstance(key, rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return key
    raise ValueError("neither an RSA nor an Ed25519 key")
