"""`ssmd last`: a table for people, JSON for programs, and words for whoever asked for what is not there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from journal_writer import Journal
from recording import ROOT, ssmd, wait_until
from servers import RedisServer

from ssmd.cli.last import block, contracts, dollars, main, near_names, show_age, shown, table
from ssmd.errors import RejectedError, UsageError
from ssmd.journal.follow import Follower
from ssmd.lastvalues import LastValues
from ssmd.lastvalues.service import Clocks, Service
from ssmd.middleware.redis import RedisCache

FEED = "kalshi"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """M-1 with a book, a trade and a status, M-2 with a ticker, M-3 with a book that has a gap."""
    made = Journal(tmp_path / FEED)
    made.event("started")
    made.snapshot(1, [(4600, 25000)], [(4750, 70050)])
    made.snapshot(2, [(100, 100)], [(200, 100)], "M-3", sid=9)
    made.gap("sequence", sid=9, fromSeq=3, toSeq=4)
    made.trade(1)
    made.add("status", {"market": "M-1", "change": "activated"}, connection=1, sid=4, seq=1)
    made.ticker("M-2")
    made.write(".capnp.open")
    return made


def last(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    done = capsys.readouterr()
    return code, done.out, done.err


def test_a_journal_without_any_redis_is_shown_as_a_table(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = last(capsys, "--data", str(tmp_path))
    title, first, second, third = out.splitlines()
    assert code == 0
    assert title.split() == "market bid $ contracts ask $ contracts trade $ contracts taker status age".split()
    assert first.split()[:9] == ["M-1", "?", "?", "?", "?", "0.47", "3", "-", "active"]
    assert "book not synced: nothing was recorded for" in first and "was 0.46 / 0.475" in first
    assert second.split()[:5] == ["M-2", "-", "-", "-", "-"]
    assert "the ticker shows no quote" in second
    assert third.split()[:5] == ["M-3", "?", "?", "?", "?"]
    assert "book not synced: messages were missed; was 0.01 / 0.02" in third
    assert err.startswith("ssmd last: nothing was recorded for ") and err.endswith(" (3 of 3 markets)\n")


def test_columns_stand_under_their_titles(journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = last(capsys, "--data", str(tmp_path))
    title, first, *_ = out.splitlines()
    assert title.index("trade $") + len("trade $") == first.index("0.47 ") + len("0.47")


def test_one_market_is_shown_with_all_that_is_known(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = last(capsys, "--data", str(tmp_path), "M-1")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "M-1"
    assert "book not synced: nothing was recorded for" in lines[1] and "was 0.46 / 0.475" in lines[1]
    assert "0.47 x 3  taker -  id t1" in lines[2]
    assert lines[3].split() == ["ticker", "never", "seen"]
    assert "active" in lines[4]


def test_json_is_one_object_a_line_as_the_cache_holds_it(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = last(capsys, "--data", str(tmp_path), "--json", "M-3", "M-1")
    values = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [value["market"] for value in values] == ["M-1", "M-3"]
    assert (values[0]["bid_e4"], values[0]["ask_size_e2"], values[0]["never"]) == (4600, 70050, ["ticker"])
    assert values[1]["bid_e4"] is None


def test_an_unknown_market_is_exit_1_with_near_names_and_the_others_are_shown(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = last(capsys, "--data", str(tmp_path), "--json", "m-1", "M-2", "M-11")
    assert code == 1
    assert [json.loads(line)["market"] for line in out.splitlines()] == ["M-2"]
    assert "nothing was seen of m-1\n  did you mean M-1" in err
    assert "nothing was seen of M-11\n  did you mean M-1" in err


def test_no_journal_at_all_is_exit_1_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("M-1",)):
        code, out, err = last(capsys, "--data", str(tmp_path / "none"), *arguments)
        assert (code, out) == (1, "")
        assert "there is no journal" in err
        assert "ssmd run" in err


def test_a_journal_without_markets_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / FEED)
    journal.event("started")
    journal.write(".capnp.open")
    code, _, err = last(capsys, "--data", str(tmp_path))
    assert code == 1
    assert "holds nothing about a market yet" in err


def test_a_journal_of_another_feed_is_found_where_none_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "other")
    journal.trade(1)
    journal.write(".capnp.open")
    assert last(capsys, "--data", str(tmp_path))[0] == 0
    assert last(capsys, "--data", str(tmp_path), "--feed", "kalshi")[0] == 1
    assert last(capsys, "--data", str(tmp_path), "--feed", "other")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--url", "redis://h:1", "--data", "d"),
        ("--data", "d", "--watch", "0"),
        ("--url", "http://h:1"),
        ("--url", "redis://user:pass@h:1"),
        ("--data", "d", "--feed", "../x"),
        ("-e", "no-such-environment"),
    ],
)
def test_what_cannot_be_is_refused_in_words(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        main(arguments)
    assert "pass" not in str(caught.value).replace("password", "")


HOSTILE = ("../x", "a b*>", "line\nend\x1b[2J", "x" * 1024, "Zürich 東京", "\u202egnp.exe", "back\\slash")


def test_hostile_names_are_found_and_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(tmp_path / FEED)
    for seq, name in enumerate(HOSTILE, start=1):
        journal.trade(seq, name)
    journal.write(".capnp.open")
    code, out, _ = last(capsys, "--data", str(tmp_path))
    assert code == 0
    assert len(out.splitlines()) == len(HOSTILE) + 1
    assert all(character.isprintable() or character == "\n" for character in out)
    for name in HOSTILE:
        code, out, _ = last(capsys, "--data", str(tmp_path), "--json", name)
        assert code == 0
        assert json.loads(out)["market"] == name
        assert out.isascii()
        code, _, err = last(capsys, "--data", str(tmp_path), name + "\x07")
        assert code == 1
        assert "\x07" not in err


# ---- from Redis ------------------------------------------------------------------------------------------------------


def fill(server: RedisServer, journal: Journal) -> None:
    """What the helper process does."""
    import time

    cache = RedisCache(server.url)
    service = Service(
        LastValues(FEED, journal="kalshi-1"),
        Follower([journal.root]),
        cache,
        Clocks(time.time_ns, time.monotonic),
        journal="kalshi-1",
        ttl_s=60.0,
    )
    while service.read():
        pass
    assert service.write(now=True), service.report()
    service.close()
    cache.close()


def test_redis_gives_the_same_as_the_journal(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path / "redis") as server:
        code, _, err = last(capsys, "--url", server.url)
        assert code == 1
        assert "holds no last values" in err
        assert "cache.type: redis" in err
        fill(server, journal)
        code, out, err = last(capsys, "--url", server.url)
        assert (code, err) == (0, "")
        assert [line.split()[0] for line in out.splitlines()] == ["market", "M-1", "M-2", "M-3"]
        from_redis = [json.loads(line) for line in last(capsys, "--url", server.url, "--json")[1].splitlines()]
        from_files = [json.loads(line) for line in last(capsys, "--data", str(tmp_path), "--json")[1].splitlines()]
        assert [value | {"journal": None} for value in from_redis] == from_files
        assert last(capsys, "--url", server.url, "--feed", "other")[0] == 1


def test_prices_of_a_book_are_shown_while_somebody_keeps_it(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path / "redis") as server:
        fill(server, journal)
        _, out, err = last(capsys, "--url", server.url)
        assert out.splitlines()[1].split()[:9] == ["M-1", "0.46", "250", "0.475", "700.5", "0.47", "3", "-", "active"]
        _, out, _ = last(capsys, "--url", server.url, "M-1")
        assert "bid 0.46 x 250 ask 0.475 x 700.5  from the order book" in out.splitlines()[1]
        assert err == ""


def test_values_that_nobody_keeps_up_to_date_are_told_of_and_shown_without_prices(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path / "redis") as server:
        fill(server, journal)
        server.send("DEL", "ssmd:writer:kalshi:kalshi-1")
        code, out, err = last(capsys, "--url", server.url)
        long_ago = json.dumps({"journal": "kalshi-1", "written_ns": 1})
        server.send("SET", "ssmd:writer:kalshi:kalshi-1", long_ago)
        _, later, _ = last(capsys, "--url", server.url)
        server.send("SET", "ssmd:writer:kalshi:kalshi-1", "no json")
        assert last(capsys, "--url", server.url)[:2] == (code, out)
    assert code == 0
    assert out.splitlines()[1].split()[:3] == ["M-1", "?", "?"]
    assert "book not synced: nobody keeps it up to date; was 0.46 / 0.475" in out
    assert err == "ssmd last: nobody keeps it up to date (3 of 3 markets)\n"
    assert "nobody has kept it up to date for" in later


def test_help_has_every_exit_code_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "4 Redis cannot be reached" in capsys.readouterr().out


def test_the_password_comes_from_redis_clis_variable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(tmp_path / "redis", password="s3cret") as server:
        with pytest.raises(RejectedError, match="does not let us in"):
            main(["--url", server.url])
        monkeypatch.setenv("REDISCLI_AUTH", "s3cret")
        assert last(capsys, "--url", server.url)[0] == 1


def test_watch_gives_what_changed_and_ends_at_an_interrupt(journal: Journal, tmp_path: Path) -> None:
    arguments = ["-m", "ssmd", "last", "--data", str(tmp_path), "--json", "--watch", "0.05"]
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            seen = [json.loads(process.stdout.readline())["market"] for _ in range(3)]
            journal.trade(2, "M-2")
            journal.write(".capnp.open")
            changed = json.loads(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            wait_until(lambda: process.poll() is not None, what="the end")
        finally:
            process.kill()
    assert seen == ["M-1", "M-2", "M-3"]
    assert (changed["market"], changed["trade"]["trade_id"]) == ("M-2", "t2")
    assert process.returncode == 0


def test_the_command_is_one_of_ssmd(journal: Journal, tmp_path: Path) -> None:
    done = ssmd("last", "--data", str(tmp_path), "M-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"M-1\n")


# ---- showing ---------------------------------------------------------------------------------------------------------


def value(**changes: Any) -> dict[str, Any]:
    parts = ("bid_e4", "bid_size_e2", "ask_e4", "ask_size_e2", "trouble", "book", "trade", "ticker", "status")
    return {"market": "M-1", "recv_ns": 0, "quote": None, **dict.fromkeys(parts), **changes}


NOW_NS = 1_790_000_000 * 10**9


@pytest.mark.parametrize(
    ("status", "shown_as"),
    [
        ({"status": "active", "close_ns": NOW_NS - 1}, "closed (by the clock)"),
        ({"status": "active", "close_ns": NOW_NS + 1}, "active"),
        ({"status": "initialized", "open_ns": NOW_NS - 1, "close_ns": NOW_NS + 1}, "open (by the clock)"),
        ({"status": "initialized", "open_ns": NOW_NS + 1}, "initialized"),
        ({"status": "inactive", "close_ns": NOW_NS + 1}, "inactive"),
        ({"status": "finalized", "close_ns": NOW_NS - 1}, "finalized"),
        ({"status": None, "close_ns": NOW_NS + 1}, "-"),
    ],
)
def test_markets_open_and_close_by_the_clock(status: dict[str, Any], shown_as: str) -> None:
    assert shown_as in "\n".join(table([value(status=status)], NOW_NS)).splitlines()[1]
    assert shown_as in "\n".join(block(value(status=status), NOW_NS))


def test_a_value_of_a_strange_shape_is_shown_all_the_same() -> None:
    strange = value(bid_e4="x", trade=[], ticker={"price_e4": "?"}, status={"close_ns": "never"}, recv_ns="soon")
    assert len(list(table([strange], NOW_NS))) == 2
    assert list(block(strange, NOW_NS))


@pytest.mark.parametrize(
    ("value_e4", "text"),
    [(6200, "0.62"), (7340, "0.734"), (81, "0.0081"), (10_000, "1.00"), (0, "0.00"), (-50, "-0.005"), (None, "-")],
)
def test_dollars_have_two_digits_and_more_where_they_count(value_e4: int | None, text: str) -> None:
    assert dollars(value_e4) == text


@pytest.mark.parametrize(
    ("value_e2", "text"), [(150, "1.5"), (100, "1"), (123_456_789, "1,234,567.89"), (1, "0.01"), (0, "0"), (None, "-")]
)
def test_contracts_have_no_more_digits_than_count(value_e2: int | None, text: str) -> None:
    assert contracts(value_e2) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.44, "0.4 s"), (12.3, "12 s"), (119, "119 s"), (300, "5 min"), (7300, "2 h"), (260_000, "3 d")],
)
def test_ages_are_told_in_the_unit_that_people_would_take(seconds: float, text: str) -> None:
    assert show_age(seconds) == text


def test_a_long_name_is_cut_and_control_characters_are_spelt() -> None:
    assert shown("x" * 50, 10) == "xxxxxxx..."
    assert shown("a\x1b\n\u202e\\b") == "a\\x1b\\n\\u202e\\\\b"


def test_near_names_contain_what_was_asked_for_or_are_spelt_alike() -> None:
    known = ["KXBTC-26-T1", "KXBTC-26-T2", "KXETH-26-T1", "FED"]
    assert near_names("kxbtc", known) == ["KXBTC-26-T1", "KXBTC-26-T2"]
    assert near_names("KXETH-26T1", known)[0] == "KXETH-26-T1"
    assert near_names("nothing-like-it", known) == []


def quoted(made: Journal, market: str) -> None:
    present = sum(1 << ordinal for ordinal in (2, 3, 4, 9, 10))  # price, bid, ask and their sizes
    prices = {"priceE4": 4700, "yesBidE4": 4600, "yesAskE4": 4800, "yesBidSizeE2": 100, "yesAskSizeE2": 200}
    made.add("ticker", {"market": market, "present": present, **prices}, connection=1, sid=3)


@pytest.mark.parametrize(("change", "word"), [("determined", "determined"), ("settled", "finalized")])
def test_a_tickers_quote_from_before_the_market_ended_is_not_shown_as_a_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, word: str
) -> None:
    made = Journal(tmp_path / FEED)
    made.event("started")
    for market in ("M-1", "M-2"):
        quoted(made, market)
    made.add("status", {"market": "M-1", "change": change}, connection=1, sid=4, seq=1)
    made.write(".capnp.open")
    _, out, _ = last(capsys, "--data", str(tmp_path))
    _, ended, going_on = out.splitlines()
    assert ended.split()[:5] == ["M-1", "-", "-", "-", "-"]
    assert f"the ticker's quote is from before it was {word}" in ended
    assert going_on.split()[:5] == ["M-2", "0.46", "1", "0.48", "2"]
