"""The schema door: layout, enums, builders, what is shown, what damage looks like."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import greenlet
import pytest
from journal_writer import Journal

from ssmd import records
from ssmd.errors import DamageError, UsageError
from ssmd.journal.paths import find
from ssmd.journal.reader import Reader
from ssmd.records import (
    BookKind,
    BookSide,
    Change,
    ClockSource,
    ConnectionWhat,
    ControlType,
    GapCause,
    IndexSource,
    Kind,
    Reason,
    Side,
)

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def camel(name: str) -> str:
    head, *rest = name.lower().split("_")
    return head + "".join(word.capitalize() for word in rest)


def struct_of(kind: Kind) -> Any:
    return records.schema().Record.schema.fields["body"].schema.fields[kind.field].schema


# ---- schema and constants


@pytest.mark.parametrize(
    ("enum", "schema_enum"),
    [
        (Side, "Side"),
        (BookSide, "BookSide"),
        (Reason, "Unparsed.Reason"),
        (BookKind, "OrderBookUpdate.Kind"),
        (Change, "MarketStatusUpdate.Change"),
        (IndexSource, "IndexValue.Source"),
        (ControlType, "Control.Type"),
        (GapCause, "Gap.Cause"),
        (ConnectionWhat, "ConnectionEvent.What"),
        (ClockSource, "ClockAnchor.Source"),
    ],
)
def test_python_enums_have_the_names_and_ordinals_of_the_schema(enum: type[IntEnum], schema_enum: str) -> None:
    found = records.schema()
    for part in schema_enum.split("."):
        found = getattr(found, part)
    assert found.schema.enumerants == {camel(member.name): member.value for member in enum}


def test_kinds_are_the_members_of_the_body_union_in_their_order() -> None:
    union = records.schema().Record.schema.fields["body"].schema
    assert list(union.union_fields) == [kind.field for kind in sorted(Kind)]


def test_ticker_fields_are_the_schema_s_from_the_third_on() -> None:
    assert struct_of(Kind.TICKER).fieldnames[records.TICKER_FIRST_BIT :] == records.TICKER_FIELDS
    assert struct_of(Kind.TICKER).fieldnames[: records.TICKER_FIRST_BIT] == ("market", "present")


def test_text_and_list_fields_stand_in_the_schema_in_the_order_of_their_ordinals() -> None:
    """pycapnp lists fields by code order; the page lays texts out by ordinal. They must agree."""
    for kind in Kind:
        fields = struct_of(kind).node.struct.fields
        assert [field.ordinal.explicit for field in fields] == list(range(len(fields)))


def test_fixed_offsets_are_where_pycapnp_puts_the_fields() -> None:
    message = records.encode(
        Kind.CHECKPOINT,
        {},
        number=0x0101,
        recv_ns=0x0202,
        recv_ticks=0x0303,
        exchange_ns=0x0404,
        sent_ns=0x0505,
        connection=0x0606,
        sid=0x0707,
        seq=0x0808,
        frame=b"f",
    )
    at = {name: struct.unpack_from("<Q", message, offset)[0] for name, offset in offsets().items()}
    assert at["NUMBER"] == 0x0101
    assert at["RECV_NS"] == 0x0202
    assert at["RECV_TICKS"] == 0x0303
    assert at["EXCHANGE_NS"] == 0x0404
    assert at["SENT_NS"] == 0x0505
    assert at["CONNECTION"] == 0x0707_0000_0606  # and sid in the upper half
    assert at["SEQ"] == 0x0808
    assert struct.unpack_from("<H", message, records.RECORD_KIND)[0] == 10
    assert at["FRAME_POINTER"] & 3 == 1  # a list
    assert at["BODY_POINTER"] & 3 == 0  # a struct
    assert records.RECORD_SID == records.RECORD_CONNECTION + 4


def offsets() -> dict[str, int]:
    return {
        name.removeprefix("RECORD_"): value
        for name, value in vars(records).items()
        if name.startswith("RECORD_") and name not in ("RECORD_HEADER_BYTES",)
    }


def test_fixed_offsets_are_those_of_the_c_header() -> None:
    text = (ROOT / "csrc" / "ssmd.h").read_text()
    in_c = {name: int(value) for name, value in re.findall(r"SSMD_RECORD_(\w+) = (\d+)", text)}
    in_python = {name.removeprefix("RECORD_"): v for name, v in vars(records).items() if name.startswith("RECORD_")}
    assert in_c == in_python


def test_kinds_are_those_of_the_c_header() -> None:
    text = (ROOT / "csrc" / "ssmd.h").read_text()
    in_c = {name: int(value) for name, value in re.findall(r"SSMD_KIND_(\w+) = (\d+)", text)}
    assert in_c.pop("COUNT") == len(Kind)
    assert in_c == {kind.name: kind.value for kind in Kind}


# ---- builders


def test_a_gap_is_laid_out_word_for_word_as_cap_n_proto_says() -> None:
    """Written by hand from the encoding specification: pointers, section sizes, padding."""
    made = records.gap(
        cause=GapCause.SEQUENCE, connection=7, recv_ns=11, recv_ticks=12, sid=3, from_seq=5, to_seq=9, detail="why"
    )
    words = [
        20 << 32,  # framing: one segment of 20 words
        0 << 2 | 8 << 32 | 2 << 48,  # root: at offset 0, 8 data words, 2 pointers
        *(0, 11, 12, 0, 0),  # number, recvNs, recvTicks, exchangeNs, sentNs
        7 | 3 << 32,  # connection, sid
        0,  # seq
        7,  # the union's ordinal: gap
        0,  # frame: null
        0 << 2 | 6 << 32 | 2 << 48,  # body: right behind, 6 data words, 2 pointers
        *(0, 5, 9, 0, 0, 0),  # cause, fromSeq, toSeq, fromNs, toNs, lengthBytes
        0,  # head: null
        1 | 0 << 2 | 2 << 32 | 4 << 35,  # detail: right behind, bytes, 3 + NUL
        int.from_bytes(b"why\0\0\0\0\0", "little"),
    ]
    assert len(words) == 21
    assert made == struct.pack("<21Q", *words)


def test_a_gap_gives_back_what_it_was_made_of() -> None:
    made = records.gap(
        cause=GapCause.FRAME_TOO_LARGE,
        connection=2,
        recv_ns=100,
        recv_ticks=200,
        sid=4,
        from_seq=10,
        to_seq=12,
        from_ns=90,
        to_ns=100,
        length_bytes=5_000_000,
        head=b"{\xff",
        detail="too large",
    )
    assert records.to_json(records.read(made)) == {
        "number": 0,
        "recv_ns": 100,
        "exchange_ns": None,
        "connection": 2,
        "sid": 4,
        "seq": 0,
        "kind": "gap",
        "market": None,
        "cause": "frame_too_large",
        "from_seq": 10,
        "to_seq": 12,
        "from_ns": 90,
        "to_ns": 100,
        "length_bytes": 5_000_000,
        "head": "{\\xff",
        "detail": "too large",
        "sent_ns": None,
        "frame": None,
    }


def test_an_entry_is_laid_out_word_for_word_as_cap_n_proto_says() -> None:
    """Written by hand from the encoding specification: a list of structs has a tag, and its texts behind it."""
    made = records.entry("a.b", b"12345678", {"Key": "value"}, recv_ns=11, recv_ticks=12)
    words = [
        21 << 32,  # framing: one segment of 21 words
        0 << 2 | 8 << 32 | 2 << 48,  # root
        *(0, 11, 12, 0, 0, 0, 0),  # number, recvNs, recvTicks, exchangeNs, sentNs, connection and sid, seq
        11,  # the union's ordinal: entry
        0,  # frame: null
        0 << 2 | 0 << 32 | 3 << 48,  # body: right behind, no data, 3 pointers
        1 | 2 << 2 | 2 << 32 | 4 << 35,  # topic: behind the pointers, 3 bytes and NUL
        1 | 2 << 2 | 7 << 32 | 2 << 35,  # headers: behind it, structs, 2 words of content
        1 | 6 << 2 | 2 << 32 | 8 << 35,  # payload: last, 8 bytes
        int.from_bytes(b"a.b\0\0\0\0\0", "little"),
        1 << 2 | 0 << 32 | 2 << 48,  # the list's tag: 1 struct of 2 pointers
        1 | 1 << 2 | 2 << 32 | 4 << 35,  # name
        1 | 1 << 2 | 2 << 32 | 6 << 35,  # value
        int.from_bytes(b"Key\0\0\0\0\0", "little"),
        int.from_bytes(b"value\0\0\0", "little"),
        int.from_bytes(b"12345678", "little"),
    ]
    assert made == struct.pack("<22Q", *words)


def test_an_entry_gives_back_what_it_was_made_of() -> None:
    headers = {"Content-Type": "text/plain", "Empty": ""}
    read = records.read(records.entry("notes.of.mine", b"\xff!", headers, recv_ns=5, recv_ticks=6))
    shown = records.to_json(read)
    assert (shown["kind"], shown["recv_ns"], shown["market"], shown["frame"]) == ("entry", 5, None, None)
    assert (shown["topic"], shown["headers"], shown["payload"]) == ("notes.of.mine", headers, "\\xff!")
    assert records.headers_of(read) == headers


def test_an_entry_of_any_size_is_one_segment() -> None:
    headers = {f"Header-{i}": "é" * 1000 for i in range(100)}
    made = records.entry("t" * 1000, b"x" * 1_000_000, headers, recv_ns=1, recv_ticks=1)
    assert records.size_at(made) == len(made)
    assert records.headers_of(records.read(made)) == headers


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}])
def test_a_header_that_is_no_text_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        records.entry("t", b"", headers, recv_ns=1, recv_ticks=1)


def test_a_gap_keeps_at_most_256_bytes_of_a_frame() -> None:
    made = records.gap(cause=GapCause.FRAME_TOO_LARGE, connection=1, recv_ns=1, recv_ticks=1, head=b"x" * 300)
    assert records.read(made).body.gap.head == b"x" * 256


def test_a_connection_event_gives_back_what_it_was_made_of() -> None:
    made = records.connection_event(
        what=ConnectionWhat.CLOSED,
        connection=3,
        recv_ns=50,
        recv_ticks=60,
        reason="going away",
        code=1001,
        messages=17,
        opened_ns=40,
    )
    shown = records.to_json(records.read(made))
    assert {key: shown[key] for key in ("kind", "what", "reason", "code", "messages", "opened_ns", "url")} == {
        "kind": "connection",
        "what": "closed",
        "reason": "going away",
        "code": 1001,
        "messages": 17,
        "opened_ns": 40,
        "url": None,
    }


def test_an_opened_event_says_where_and_in_which_price_mode() -> None:
    made = records.connection_event(
        what=ConnectionWhat.OPENED, connection=1, recv_ns=1, recv_ticks=1, url="ws://localhost/x", use_yes_price=True
    )
    shown = records.to_json(records.read(made))
    assert (shown["what"], shown["url"], shown["use_yes_price"]) == ("opened", "ws://localhost/x", True)


def test_a_clock_anchor_gives_back_what_it_was_made_of() -> None:
    made = records.clock_anchor(
        recv_ns=5,
        recv_ticks=6,
        ticks=2**63,
        wall_ns=7,
        ns_per_tick_q32=2**31,
        source=ClockSource.CNTVCT,
        uncertainty_ns=8,
    )
    shown = records.to_json(records.read(made))
    body = {key: shown[key] for key in ("ticks", "wall_ns", "ns_per_tick_q32", "source", "uncertainty_ns")}
    assert body == {
        "ticks": 2**63,
        "wall_ns": 7,
        "ns_per_tick_q32": 2**31,
        "source": "cntvct",
        "uncertainty_ns": 8,
    }


def test_empty_texts_and_lists_are_null_pointers_and_take_no_room() -> None:
    bare = records.encode(Kind.BOOK, {})
    assert records.encode(Kind.BOOK, {"market": "", "bids": [], "asks": []}) == bare


def test_a_record_stays_one_segment_however_much_it_holds() -> None:
    levels = [(i, i) for i in range(20_000)]
    made = records.encode(Kind.BOOK, {"market": "M" * 5000, "bids": levels, "asks": levels}, frame=b"\xff" * 300_000)
    assert struct.unpack_from("<I", made)[0] == 0
    book = records.read(made).body.book
    assert (len(book.bids), book.bids[19_999].priceE4, book.asks[19_999].countE2) == (20_000, 19_999, 19_999)


def test_text_of_four_byte_characters_fits_the_segment() -> None:
    made = records.encode(Kind.UNPARSED, {"type": "😀" * 4000})
    assert records.read(made).body.unparsed.type == "😀" * 4000


def test_a_field_that_the_schema_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="trade has no pirce"):
        records.encode(Kind.TRADE, {"pirce": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connection", 1 << 32),
        ("connection", -1),
        ("sid", 1 << 32),
        ("recv_ns", 1 << 63),
        ("recv_ticks", -5),
        ("from_seq", -1),
        ("to_seq", 1 << 64),
        ("from_ns", -(1 << 63) - 1),
        ("length_bytes", -1),
        ("cause", 70_000),
        ("detail", 5),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_refused_before_pycapnp_sees_it(name: str, value: int) -> None:
    given = {"cause": records.GapCause.SEQUENCE, "connection": 1, "recv_ns": 1, "recv_ticks": 1, name: value}
    with pytest.raises(UsageError):
        records.gap(**given)  # type: ignore[arg-type]


def test_levels_that_do_not_fit_are_refused_before_pycapnp_sees_them() -> None:
    for level in [(1 << 31, 1), (1, 1 << 63)]:
        with pytest.raises(UsageError):
            records.encode(Kind.BOOK, {"market": "M", "bids": [level]})


def test_a_value_that_does_not_fit_ends_no_process_whose_stack_was_switched() -> None:
    """pycapnp's refusals take a backtrace, which on a greenlet's stack reads beyond its base: a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", SWITCHED_STACKS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2000"), done.stderr


SWITCHED_STACKS = """
import random
from greenlet import getcurrent, greenlet
from ssmd import records

refused = 0

class Inside:
    def __init__(self, depth, call):
        deep(depth, call)

def deep(depth, call):
    way = random.randrange(5) if depth else None
    if way is None: call()
    elif way == 0: list(map(lambda _: deep(depth - 1, call), [0]))
    elif way == 1: sorted([0], key=lambda _: deep(depth - 1, call))
    elif way == 2: max([0], key=lambda _: deep(depth - 1, call))
    elif way == 3: Inside(depth - 1, call)
    else: eval("deep(depth, call)", {"deep": deep, "depth": depth - 1, "call": call})

def body():
    global refused
    while True:
        getcurrent().parent.switch()
        try:
            records.encode(records.Kind.GAP, {"fromSeq": -1}, connection=1)
        except Exception:
            refused += 1

def begin():
    switched.append(greenlet(body))
    switched[-1].switch()

random.seed(1)
for _ in range(100):
    switched = []
    for _ in range(10):
        deep(random.randrange(12), begin)
    for one in switched * 2:
        deep(random.randrange(12), one.switch)
print(refused)
"""


def test_bytes_that_were_not_checked_are_not_read_on_a_greenlet() -> None:
    """Whatever they are: in a process that pycapnp has ended nobody could be told."""
    made = records.gap(cause=GapCause.OUTAGE, connection=0, recv_ns=1, recv_ticks=1)
    refused: list[str] = []

    def look() -> None:
        for reading in (lambda: records.read(made), lambda: list(records.records(made))):
            with pytest.raises(UsageError) as caught:
                reading()
            refused.append(str(caught.value))
        refused.append(str(records.read(made, checked=True).body.gap.cause))

    greenlet.greenlet(look).switch()
    assert len(refused) == 3 and all("greenlet's stack" in words for words in refused[:2])
    assert refused[2] == "outage"
    assert records.read(made).body.which() == "gap"  # here is none


def test_a_journals_records_are_read_on_a_greenlet_too(tmp_path: Path) -> None:
    """The C walker has checked them: programs of gevent may live from `ssmd.tail`."""
    journal = Journal(tmp_path / "kalshi")
    journal.trade(7)
    journal.seal()
    found: list[int] = []

    def look() -> None:
        found.extend(record.read().body.trade.priceE4 for record in Reader(find([tmp_path])) if record.kind == "trade")
        found.extend(record.json()["price_e4"] for record in Reader(find([tmp_path])) if record.kind == "trade")

    greenlet.greenlet(look).switch()
    assert found == [4700, 4700]


def test_the_number_can_be_put_in_afterwards() -> None:
    made = records.gap(cause=GapCause.OUTAGE, connection=0, recv_ns=1, recv_ticks=1)
    assert records.read(records.with_number(made, 2**64 - 1)).number == 2**64 - 1
    assert records.with_number(made, 0) == made


# ---- reading


def test_the_header_says_the_same_as_pycapnp() -> None:
    made = records.encode(
        Kind.TRADE,
        {"market": "M"},
        number=1,
        recv_ns=-2,
        recv_ticks=3,
        exchange_ns=-4,
        sent_ns=5,
        connection=6,
        sid=7,
        seq=8,
    )
    assert records.header(b"12345678" + made, 8) == (1, -2, 3, -4, 5, 6, 7, 8, Kind.TRADE, len(made))


def test_records_of_a_buffer_come_in_order_with_their_offsets() -> None:
    one = records.encode(Kind.TRADE, {"market": "A"}, frame=b"1")
    two = records.encode(Kind.TICKER, {"market": "BB"}, frame=b"22")
    found = [
        (offset, records.kind_of(record), records.market_of(record)) for offset, record in records.records(one + two)
    ]
    assert found == [(0, "trade", "A"), (len(one), "ticker", "BB")]


def test_an_unaligned_view_is_read_like_any_other() -> None:
    made = records.encode(Kind.TRADE, {"market": "A"})
    view = memoryview(b"x" + made)[1:]
    assert records.market_of(records.read(view)) == "A"


def test_a_reader_keeps_its_bytes_when_the_buffer_is_used_again() -> None:
    buffer = bytearray(records.encode(Kind.TRADE, {"market": "AAAA"}))
    record = records.read(buffer)
    buffer[:] = bytes(len(buffer))
    assert records.market_of(record) == "AAAA"


def test_a_big_record_can_be_read_many_times() -> None:
    """pycapnp's traversal limit counts over the life of a reader."""
    made = records.encode(Kind.UNPARSED, {}, frame=b"x" * 1_000_000)
    record = records.read(made)
    assert sum(len(record.frame) for _ in range(60)) == 60_000_000


@pytest.mark.parametrize("length", [0, 1, 8, 95, 96, 167])
def test_a_record_that_is_cut_short_is_damage(length: int) -> None:
    made = records.gap(cause=GapCause.OUTAGE, connection=0, recv_ns=1, recv_ticks=1, detail="why")
    assert len(made) == 168
    with pytest.raises(DamageError):
        records.read(made[:length])


def test_a_second_segment_is_damage() -> None:
    made = bytearray(records.gap(cause=GapCause.OUTAGE, connection=0, recv_ns=1, recv_ticks=1))
    made[0] = 1
    with pytest.raises(DamageError, match="2 segments"):
        records.read(made)


def test_a_wild_pointer_is_damage_and_not_the_end_of_the_process() -> None:
    made = bytearray(records.gap(cause=GapCause.OUTAGE, connection=0, recv_ns=1, recv_ticks=1, detail="why"))
    made[records.RECORD_BODY_POINTER : records.RECORD_BODY_POINTER + 8] = b"\xfc\xff\xff\x7f\xff\xff\xff\xff"
    with pytest.raises(DamageError):
        records.to_json(records.read(made))


def test_text_that_is_not_utf_8_is_damage() -> None:
    made = records.gap(cause=GapCause.OUTAGE, connection=0, recv_ns=1, recv_ticks=1, detail="why").replace(
        b"why", b"\xff\xff\xff"
    )
    with pytest.raises(DamageError):
        records.to_json(records.read(made))


def test_a_kind_that_this_schema_lacks_is_named_as_such() -> None:
    made = bytearray(records.gap(cause=GapCause.OUTAGE, connection=0, recv_ns=1, recv_ticks=1))
    made[records.RECORD_KIND] = 99
    with pytest.raises(DamageError, match="does not know"):
        records.kind_of(records.read(made))


def test_any_flipped_byte_of_a_record_is_read_or_refused_but_never_fatal() -> None:
    made = records.encode(
        Kind.BOOK, {"market": "MARKET", "bids": [(1, 2), (3, 4)], "asks": [(5, 6)]}, frame=b'{"type":"x"}'
    )
    for at in range(len(made)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(made)
            damaged[at] ^= flip
            try:
                records.to_json(records.read(damaged))
            except DamageError:
                continue


# ---- other readers


def capnp_decode(data: bytes) -> str:
    tool = shutil.which("capnp")
    if tool is None:
        pytest.skip(
            "the stock capnp tool is not installed (Debian package capnproto): its view of a segment was not checked"
        )
    command = [tool, "decode", "--short", str(records.schema_path()), "Record"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode()


def test_the_stock_capnp_tool_decodes_a_segment() -> None:
    segment = records.encode(
        Kind.TRADE,
        {"market": "KXA-1", "tradeId": "t", "priceE4": 9840, "takerSide": Side.NO, "countE2": 14878},
        number=1,
        recv_ns=2,
        recv_ticks=3,
        connection=4,
        sid=5,
        seq=6,
        frame=b"{}",
    ) + records.encode(Kind.BOOK, {"market": "KXA-1", "bids": [(100, 8000)]}, number=2)
    assert capnp_decode(segment).splitlines() == [
        "(number = 1, recvNs = 2, recvTicks = 3, exchangeNs = 0, sentNs = 0, connection = 4, sid = 5, seq = 6, "
        'frame = "{}", body = (trade = (market = "KXA-1", tradeId = "t", priceE4 = 9840, takerSide = no, '
        "block = false, countE2 = 14878)))",
        "(number = 2, recvNs = 0, recvTicks = 0, exchangeNs = 0, sentNs = 0, connection = 0, sid = 0, seq = 0, "
        'body = (book = (market = "KXA-1", kind = snapshot, side = unknown, yesScale = false, priceE4 = 0, '
        "deltaE2 = 0, bids = [(priceE4 = 100, countE2 = 8000)], requestId = 0)))",
    ]


def test_the_stock_capnp_tool_decodes_the_golden_segment() -> None:
    lines = capnp_decode((GOLDEN / "market_data_v1.capnp").read_bytes()).splitlines()
    expected = (GOLDEN / "market_data_v1.jsonl").read_text().splitlines()
    assert [int(re.findall(r"number = (\d+)", line)[0]) for line in lines] == [
        json.loads(line)["number"] for line in expected
    ]


def test_the_golden_segment_of_version_1_still_says_what_was_written_by_hand() -> None:
    """tests/golden/market_data_v1.capnp never changes: a later schema must still read it."""
    found = [records.to_json(r) for _, r in records.records((GOLDEN / "market_data_v1.capnp").read_bytes())]
    expected = [json.loads(line) for line in (GOLDEN / "market_data_v1.jsonl").read_text().splitlines()]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        # A later schema may show more; what version 1 showed must be there, in the same order.
        assert {key: one[key] for key in other} == other


def test_only_the_schema_door_imports_pycapnp() -> None:
    doors = [
        p.name for p in (ROOT / "ssmd").rglob("*.py") if re.search(r"^\s*(import|from) capnp\b", p.read_text(), re.M)
    ]
    assert doors == ["records.py"]
