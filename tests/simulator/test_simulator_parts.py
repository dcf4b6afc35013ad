"""The small parts: fault specifications, keys, ledger, tape, WebSocket codec, files of frames."""

from __future__ import annotations

import base64
import json
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from wsproto.frame_protocol import FrameProtocol

from ssmd.simulator.books import Book
from ssmd.simulator.exchange import Exchange
from ssmd.simulator.faults import CATALOGUE, FaultError, parse
from ssmd.simulator.keys import KeyRing, issue
from ssmd.simulator.ledger import Ledger
from ssmd.simulator.process import read_ledger
from ssmd.simulator.session import Session, Terms
from ssmd.simulator.settings import read_frames
from ssmd.simulator.tape import Player, Tape
from ssmd.simulator.websocket import text_header

NOW_US = 1_795_000_000_000_000
NOW_MS = NOW_US // 1000

# ---- faults


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seq_gap", ("seq_gap", "1", None, None, None, None, 1)),
        ("seq_gap=3@2s", ("seq_gap", "3", None, 2.0, None, None, 1)),
        ("reset@2s/5s", ("reset", "", None, 2.0, 5.0, None, None)),
        ("reset@2/5x4", ("reset", "", None, 2.0, 5.0, None, 4)),
        ("stall~250ms@1s", ("stall", "", None, 1.0, None, 0.25, 1)),
        ("http_502x3", ("http_502", "", None, None, None, None, 3)),
        ("duplicate:all@1s", ("duplicate", "1", 0, 1.0, None, None, 1)),
        ("close_frame=1012:2", ("close_frame", "1012", 2, None, None, None, 1)),
        ("empty_snapshot=KXA-26DEC31-T1.5", ("empty_snapshot", "KXA-26DEC31-T1.5", None, None, None, None, 1)),
        ("clock_skew=-30.5", ("clock_skew", "-30.5", None, None, None, None, 1)),
    ],
)
def test_a_specification_is_read(text: str, expected: tuple[object, ...]) -> None:
    f = parse(text)
    assert (f.name, f.argument, f.connection, f.at_s, f.every_s, f.lasting_s, f.count) == expected


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "seq_gap=x", "seq_gap@", "seq_gap@soon", "seq_gapx0", "reset:some", "reset@1@2", "old_format=odd"],
)
def test_a_wrong_specification_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(FaultError):
        parse(text)


def test_a_fault_strikes_once_at_its_time_on_whichever_connection_comes_first() -> None:
    fault = parse("seq_gap@3s")
    assert not fault.due(1, since_s=10.0, now_s=12.9)
    assert fault.due(1, since_s=10.0, now_s=13.0)
    fault.struck(1, 13.0)
    assert not fault.due(1, 10.0, 99.0) and not fault.due(2, 10.0, 99.0)
    assert fault.finished


def test_a_repeated_fault_keeps_its_pace() -> None:
    fault = parse("reset@2/5")
    times = []
    for tenth in range(200):
        if fault.due(1, 0.0, tenth / 10):
            fault.struck(1, tenth / 10)
            times.append(tenth / 10)
    assert times == [2.0, 7.0, 12.0, 17.0]


def test_all_means_each_connection_on_its_own() -> None:
    fault = parse("duplicate:all")
    for connection in (1, 2, 3):
        assert fault.due(connection, 0.0, 1.0)
        fault.struck(connection, 1.0)
        assert not fault.due(connection, 0.0, 2.0)


def test_a_fault_given_while_running_counts_from_then() -> None:
    fault = parse("reset@3s", armed_s=100.0)
    assert not fault.due(1, since_s=10.0, now_s=102.9)
    assert fault.due(1, since_s=10.0, now_s=103.0)


def test_the_catalogue_has_every_fault_of_the_interface() -> None:
    names = """seq_gap duplicate reorder_acks unknown_type unknown_field bad_json huge_frame fragmented old_format
        error_10 error_25 stall half_open reset close_frame http_401 http_429 http_502 empty_snapshot negative_level
        unknown_market_delta ack_late slow_write clock_skew burst"""
    assert set(CATALOGUE) == set(names.split())


def test_the_documentation_lists_every_fault_with_the_same_words(repository: Path) -> None:
    page = (repository / "docs" / "simulator.md").read_text()
    for name, kind in CATALOGUE.items():
        assert f"| `{name}` | {f'`{kind.argument}`' if kind.argument else ''} | {kind.does} |" in page


# ---- keys


def signed(ring_kind: str, tmp_path: Path, message: str, *, pkcs1v15: bool = False) -> tuple[KeyRing, str, str]:
    ring = KeyRing()
    key = issue(ring, tmp_path, ring_kind)
    private = load_pem_private_key(key.path.read_bytes(), None)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        raw = private.sign(message.encode())
    else:
        assert isinstance(private, rsa.RSAPrivateKey)
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        raw = private.sign(message.encode(), padding.PKCS1v15() if pkcs1v15 else pss, hashes.SHA256())
    return ring, key.key_id, base64.b64encode(raw).decode()


def headers(key_id: str, signature: str, ms: int = NOW_MS) -> dict[str, str]:
    return {"kalshi-access-key": key_id, "kalshi-access-timestamp": str(ms), "kalshi-access-signature": signature}


PATH = "/trade-api/ws/v2"


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_right_signature_is_let_in_within_fifteen_seconds(kind: str, tmp_path: Path) -> None:
    ring, key_id, signature = signed(kind, tmp_path, f"{NOW_MS}GET{PATH}")
    for skew_ms in (0, 15_000, -15_000):
        assert ring.refusal(headers(key_id, signature), "GET", PATH, NOW_MS + skew_ms) is None


@pytest.mark.parametrize("skew_ms", [15_001, -15_001, 300_000])
def test_a_clock_that_is_off_is_refused(skew_ms: int, tmp_path: Path) -> None:
    ring, key_id, signature = signed("ed25519", tmp_path, f"{NOW_MS}GET{PATH}")
    refusal = ring.refusal(headers(key_id, signature), "GET", PATH, NOW_MS + skew_ms)
    assert refusal
    assert refusal.body == '{"error":{"code":"header_timestamp_expired","message":"header timestamp expired"}}'


@pytest.mark.parametrize(
    "message", [f"{NOW_MS}POST{PATH}", f"{NOW_MS}GET{PATH}?a=1", f"{NOW_MS} GET {PATH}", f"{NOW_MS + 1}GET{PATH}"]
)
def test_a_signature_of_anything_else_is_refused(message: str, tmp_path: Path) -> None:
    ring, key_id, signature = signed("ed25519", tmp_path, message)
    refusal = ring.refusal(headers(key_id, signature), "GET", PATH, NOW_MS)
    assert refusal and (refusal.status, json.loads(refusal.body)) == (
        401,
        {
            "error": {
                "code": "authentication_error",
                "message": "authentication_error",
                "details": "INCORRECT_API_KEY_SIGNATURE",
            }
        },
    )


def test_pkcs1_v15_padding_is_refused(tmp_path: Path) -> None:
    ring, key_id, signature = signed("rsa", tmp_path, f"{NOW_MS}GET{PATH}", pkcs1v15=True)
    refusal = ring.refusal(headers(key_id, signature), "GET", PATH, NOW_MS)
    assert refusal and "INCORRECT_API_KEY_SIGNATURE" in refusal.body


@pytest.mark.parametrize(
    ("given", "sample"),
    [
        ({"kalshi-access-key": "k", "kalshi-access-timestamp": str(NOW_MS)}, "auth__missing_signature_header.json"),
        (headers("nobody", "AAAA"), "auth__unknown_key_id.json"),
        (headers("nobody", "AAAA", NOW_MS - 30_000), "auth__skew_minus30s.json"),
    ],
)
def test_refusals_are_those_of_the_exchange(given: dict[str, str], sample: str, shared: Path) -> None:
    refusal = KeyRing().refusal(given, "GET", PATH, NOW_MS)
    assert refusal and refusal.body == (shared / "kalshi" / "rest_samples" / sample).read_text().strip()


def test_private_keys_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    for kind in ("rsa", "ed25519"):
        assert stat.S_IMODE(issue(KeyRing(), tmp_path, kind).path.stat().st_mode) == 0o600


def test_rsa_keys_come_as_pkcs1_or_pkcs8(tmp_path: Path) -> None:
    ring = KeyRing()
    assert b"BEGIN RSA PRIVATE KEY" in issue(ring, tmp_path, "rsa").path.read_bytes()
    assert b"BEGIN PRIVATE KEY" in issue(ring, tmp_path, "rsa", pkcs8=True).path.read_bytes()


# ---- ledger and frames of a file


def test_the_ledger_gives_back_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.text(1, 5, '{"a":"\u20ac \\"quoted\\""}\n')
    ledger.raw(2, 6, b"\xff\x00 not UTF-8")
    ledger.raw(1, 7, "plain\u2028".encode())
    ledger.event(1, 8, "closed", frames=2)
    ledger.close()
    assert read_ledger(path) == [
        (1, '{"a":"\u20ac \\"quoted\\""}\n'.encode()),
        (2, b"\xff\x00 not UTF-8"),
        (1, "plain\u2028".encode()),
    ]


def test_frames_of_a_file_are_strings_verbatim_or_objects_in_their_own_order(tmp_path: Path) -> None:
    path = tmp_path / "frames.jsonl"
    path.write_text(
        '{"type":"b", "a":1.50}\n\n"{ \\"x\\": 1 }\\n"\n{"frame":{"z":1,"a":"\u20ac"},"env":"x"}\n{"frame":"raw"}\n'
    )
    assert read_frames(path) == ('{"type":"b","a":1.5}\n', '{ "x": 1 }\n', '{"z":1,"a":"\u20ac"}\n', "raw\n")


# ---- WebSocket


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 300, 65_535, 65_536, 200_000])
def test_our_frame_header_is_wsprotos(length: int) -> None:
    expected = FrameProtocol(client=False, extensions=[]).send_data("x" * length, fin=True)
    assert text_header(length) + b"x" * length == bytes(expected)


# ---- tape


def player(**terms: Any) -> tuple[Player, Session, Tape]:
    exchange = Exchange(8, seed=2, now_us=NOW_US, lifecycle=False)
    tape = Tape(exchange, NOW_US)
    player = Player(tape)
    session = Session(player, Terms(**terms))
    player.attach(session, sending_ts=True)
    return player, session, tape


def subscribe(session: Session, channels: list[str], tickers: list[str] | None = None) -> list[dict[str, Any]]:
    params: dict[str, object] = {"channels": channels} | ({"market_tickers": tickers} if tickers else {})
    session.receive(json.dumps({"id": 1, "cmd": "subscribe", "params": params}), NOW_MS)
    while session.pump(NOW_MS):
        pass
    return [json.loads(text) for text in session.take()]


def apply(books: dict[str, Book], frame: dict[str, Any]) -> None:
    """A snapshot or delta of our own reading onto plain books."""
    message = frame["msg"]
    if frame["type"] == "orderbook_snapshot":
        book = books[message["market_ticker"]] = Book()
        for side, name in enumerate(("yes", "no")):
            for price, size in message.get(f"{name}_dollars_fp", ()):
                book.change(side, round(float(price) * 10_000), round(float(size) * 100))
    elif frame["type"] == "orderbook_delta":
        books[message["market_ticker"]].change(
            ("yes", "no").index(message["side"]),
            round(float(message["price_dollars"]) * 10_000),
            round(float(message["delta_fp"]) * 100),
        )


def test_the_tape_leads_every_book_back_to_where_it_began() -> None:
    tape = Tape(Exchange(8, seed=2, now_us=NOW_US, lifecycle=False), NOW_US)
    for ticker, base in tape.base.items():
        assert tape.book_at(ticker, len(tape.events)).ladders == base.ladders


def test_snapshots_and_two_laps_of_deltas_never_break_a_book_and_numbers_have_no_hole() -> None:
    play, session, tape = player()
    books: dict[str, Book] = {}
    frames = subscribe(session, ["orderbook_delta", "trade", "ticker"], list(tape.base))
    for frame in frames:
        apply(books, frame)
    while play.lap < 2:
        for header, payload in play.chunk(NOW_US):
            assert header == text_header(len(payload))
            frames.append(json.loads(payload))
            apply(books, frames[-1])
            assert payload.endswith(b'"sending_ts_ms":%d}\n' % NOW_MS)
    for kinds in (("orderbook_snapshot", "orderbook_delta"), ("trade",)):
        numbers = [frame["seq"] for frame in frames if frame["type"] in kinds]
        assert all(b == a + 1 for a, b in pairwise(numbers)) and numbers[0] == 1
    ids = [frame["msg"]["trade_id"] for frame in frames if frame["type"] == "trade"]
    assert len(ids) == len(set(ids)) > 0


def test_a_snapshot_in_the_middle_of_the_tape_is_the_book_there() -> None:
    play, session, tape = player()
    books: dict[str, Book] = {}
    ticker = max(tape.changes, key=lambda name: len(tape.changes[name]))
    for frame in subscribe(session, ["orderbook_delta"], [ticker]):
        apply(books, frame)
    for _ in range(5):
        for _, payload in play.chunk(NOW_US):
            apply(books, json.loads(payload))
    update = {"sid": 1, "action": "get_snapshot", "market_tickers": [ticker]}
    session.receive(json.dumps({"id": 2, "cmd": "update_subscription", "params": update}), NOW_MS)
    again: dict[str, Book] = {}
    apply(again, json.loads(session.take()[0]))
    assert again[ticker].ladders == books[ticker].ladders


def test_chunks_and_published_events_are_the_same_frames() -> None:
    fast, session_a, tape = player()
    subscribe(session_a, ["orderbook_delta", "trade", "ticker"], list(tape.base))
    slow, session_b, _ = player()
    subscribe(session_b, ["orderbook_delta", "trade", "ticker"], list(tape.base))
    for _ in range(20):
        for event in slow.events(NOW_US):
            session_b.publish(event, NOW_MS)
        assert [payload.decode() for _, payload in fast.chunk(NOW_US)] == session_b.take()
