"""Signatures are checked with the public keys; refusals are read as a user would, and searched for key material."""

from __future__ import annotations

import base64
import copy
import io
import pickle
import traceback
from collections.abc import Iterator
from types import TracebackType

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ssmd.errors import UsageError
from ssmd.kalshi import auth

MS = 1790363592125
WS_MESSAGE = b"1790363592125GET/trade-api/ws/v2"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


PKCS1 = pem(RSA_KEY, PrivateFormat.TraditionalOpenSSL)
PKCS8 = pem(RSA_KEY, PrivateFormat.PKCS8)
ED25519 = pem(ED_KEY, PrivateFormat.PKCS8)


def verify_rsa(signature: str, message: bytes, salt_bytes: int = 32) -> None:
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt_bytes)
    RSA_KEY.public_key().verify(base64.b64decode(signature, validate=True), message, scheme, hashes.SHA256())


@pytest.mark.parametrize("text", [PKCS1, PKCS8], ids=["PKCS#1", "PKCS#8"])
def test_rsa_keys_sign_with_pss_and_a_salt_of_32_bytes(text: str) -> None:
    signature = auth.sign(auth.load_key(text), MS, "GET", "/trade-api/ws/v2")
    assert len(base64.b64decode(signature)) == 256
    verify_rsa(signature, WS_MESSAGE)
    with pytest.raises(InvalidSignature):
        verify_rsa(signature, WS_MESSAGE, salt_bytes=222)


def test_ed25519_keys_sign_the_same_bytes_plainly() -> None:
    signature = auth.sign(auth.load_key(ED25519), MS, "GET", "/trade-api/ws/v2")
    assert len(signature) == 88
    ED_KEY.public_key().verify(base64.b64decode(signature, validate=True), WS_MESSAGE)


def test_the_query_string_is_not_signed() -> None:
    signature = auth.sign(auth.load_key(ED25519), MS, "GET", "/trade-api/v2/markets?limit=1000&cursor=x")
    ED_KEY.public_key().verify(base64.b64decode(signature), b"1790363592125GET/trade-api/v2/markets")


def test_the_method_is_signed_in_capitals() -> None:
    signature = auth.sign(auth.load_key(ED25519), MS, "delete", "/a")
    ED_KEY.public_key().verify(base64.b64decode(signature), b"1790363592125DELETE/a")


def test_a_path_with_a_host_is_our_own_error() -> None:
    with pytest.raises(ValueError, match="starts at the root"):
        auth.sign(auth.load_key(ED25519), MS, "GET", "https://host/trade-api")


def test_three_headers_carry_id_time_and_signature() -> None:
    result = auth.headers(auth.Credentials("a-key-id", auth.load_key(PKCS8)), MS, "GET", "/trade-api/ws/v2")
    assert set(result) == {"KALSHI-ACCESS-KEY", "KALSHI-ACCESS-TIMESTAMP", "KALSHI-ACCESS-SIGNATURE"}
    assert result["KALSHI-ACCESS-KEY"] == "a-key-id"
    assert result["KALSHI-ACCESS-TIMESTAMP"] == "1790363592125"
    verify_rsa(result["KALSHI-ACCESS-SIGNATURE"], WS_MESSAGE)


@pytest.mark.parametrize(
    "mangle",
    [
        lambda text: text.replace("\n", "\\n"),
        lambda text: '"' + text.replace("\n", "\\n") + '"',
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\\r\\n"),
        lambda text: "\n\n   " + text.replace("\n", "\n    "),
        lambda text: text.rstrip("\n"),
        lambda text: text.encode(),
    ],
    ids=["escaped", "quoted", "CRLF", "escaped CRLF", "indented", "no last line end", "bytes"],
)
def test_what_shells_and_yaml_do_to_a_pem_is_repaired(mangle) -> None:  # type: ignore[no-untyped-def]
    signature = auth.sign(auth.load_key(mangle(PKCS8)), MS, "GET", "/trade-api/ws/v2")
    verify_rsa(signature, WS_MESSAGE)


def encrypted(form: PrivateFormat) -> str:
    return RSA_KEY.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret")).decode()


REFUSED = {
    "empty": ("", "not PEM", "-----BEGIN"),
    "words": ("hunter2 is no key at all", "not PEM", "-----BEGIN"),
    "not ascii": ("schlüssel", "not PEM", "-----BEGIN"),
    "binary": (b"\xff\xfe\x00", "not PEM", "-----BEGIN"),
    "file name": ("/home/me/kalshi.pem", "not PEM", "KALSHI_PRIVATE_KEY_PATH"),
    "encrypted PKCS#8": (encrypted(PrivateFormat.PKCS8), "passphrase", "openssl pkey"),
    "encrypted PKCS#1": (encrypted(PrivateFormat.TraditionalOpenSSL), "passphrase", "openssl pkey"),
    "public": (
        RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "public key",
        "API keys page",
    ),
    "openssh": (
        ED_KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode(),
        "OpenSSH",
        "ssh-keygen",
    ),
    "EC, PKCS#8": (pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8), "does not use", "Ed25519"),
    "EC": (pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.TraditionalOpenSSL), "does not use", "Ed25519"),
    "1024 bits": (
        pem(rsa.generate_private_key(public_exponent=65537, key_size=1024), PrivateFormat.PKCS8),
        "1024 bits",
        "Make a key",
    ),
    "cut": (PKCS8[: len(PKCS8) // 2], "damaged", "whole"),
    "flipped": (PKCS8.replace("M", "N"), "damaged", "whole"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_refusal_says_what_is_wrong_and_what_to_do(name: str) -> None:
    text, wrong, remedy = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        auth.load_key(text)
    assert wrong in caught.value.args[0]
    assert remedy in (caught.value.hint or "")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def module_locals(trace: TracebackType | None) -> Iterator[object]:
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == auth.__file__:
            yield from trace.tb_frame.f_locals.values()
        trace = trace.tb_next


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "empty"])
def test_no_refusal_carries_the_text_anywhere(name: str) -> None:
    text = REFUSED[name][0]
    with pytest.raises(UsageError) as caught:
        auth.load_key(text)
    errors = list(chain(caught.value))
    assert errors == [caught.value]
    secret = (text if isinstance(text, str) else text.decode("latin-1"))[30:60] or "never"
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert all(secret not in str(value) for value in module_locals(caught.value.__traceback__))


def test_credentials_do_not_show_the_key_or_the_whole_id() -> None:
    credentials = auth.Credentials("0123456789-an-account", auth.load_key(PKCS8))
    for shown in (repr(credentials), str(credentials), f"{credentials}", repr(credentials.key), str([credentials])):
        assert "account" not in shown
        assert "BEGIN" not in shown
        assert "RSA-2048" in shown


@pytest.mark.parametrize("refused", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_credentials_and_keys_are_neither_pickled_nor_copied(refused) -> None:  # type: ignore[no-untyped-def]
    credentials = auth.Credentials("id", auth.load_key(ED25519))
    for secret in (credentials, credentials.key):
        with pytest.raises(TypeError, match="not copied or pickled"):
            refused(secret)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_protocol_takes_a_key(protocol: int) -> None:
    with pytest.raises(TypeError, match="not copied or pickled"):
        pickle.Pickler(io.BytesIO(), protocol).dump(auth.load_key(ED25519))


@pytest.mark.parametrize("key_id", ["", "a b", "a\r\nX-Header: 1", "schlüssel"])
def test_a_key_id_that_no_header_may_carry_is_refused(key_id: str) -> None:
    with pytest.raises(UsageError, match="key id"):
        auth.Credentials(key_id, auth.load_key(ED25519))
