"""A loop of market events, printed as fast as a socket takes them (`--rate 0`).

The tape is made once from the exchange: books start from a base, events follow, and at the end every
book is led back to its base, so that the loop can go on for ever and snapshot + deltas is always the
book. Each client has its own position. What changes from frame to frame is printed in: seq, times,
and the lap in the first eight digits of a trade id, so that no id comes twice. Volumes in tickers
repeat each lap, and tickers are not paced by the second: this is an opponent for speed, not for time.

`Player.chunk` prints ready WebSocket frames from prepared pieces (about 1 µs a frame). Where a fault or
compression needs the frame itself, `Player.events` gives the same events for the session to publish.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ssmd.simulator import render
from ssmd.simulator.books import NO, YES, Book
from ssmd.simulator.catalogue import Market
from ssmd.simulator.exchange import BookChange, BookReset, Exchange, Happening, Quote, Trade
from ssmd.simulator.session import Session, Subscription
from ssmd.simulator.websocket import text_header

CHUNK = 128
SHORTEST = 20_000
HEADERS = tuple(text_header(length) for length in range(2_048))

DELTA, TRADE, TICKER = range(3)


class Tape:
    """The events of one lap, and the books before them."""

    def __init__(self, exchange: Exchange, now_us: int) -> None:
        self.exchange = exchange
        self.base = {ticker: market.book.copy() for ticker, market in exchange.markets.items()}
        self.events: list[Happening] = []
        self.changes: dict[str, list[tuple[int, BookChange]]] = {}
        steps = max(SHORTEST, 2 * len(exchange.markets))
        for step in range(steps):
            self.events.extend(exchange.step(now_us))
            if step % 64 == 63:
                self.events.extend(exchange.quotes())
        self._lead_back(now_us)
        for position, event in enumerate(self.events):
            if isinstance(event, BookChange):
                self.changes.setdefault(event.market.ticker, []).append((position, event))

    def _lead_back(self, now_us: int) -> None:
        """Takes away what is too much, then adds what is missing: no book is crossed on the way."""
        for shrink in (True, False):
            for ticker, base in self.base.items():
                market = self.exchange.markets[ticker]
                for side in (YES, NO):
                    now, then = market.book.ladders[side], base.ladders[side]
                    for price in sorted(now.keys() | then.keys()):
                        delta = then.get(price, 0) - now.get(price, 0)
                        if delta and (delta < 0) is shrink:
                            market.book.change(side, price, delta)
                            self.events.append(BookChange(now_us, market, side, price, delta))

    def book_at(self, ticker: str, position: int) -> Book:
        """The book of a market before the event at `position`."""
        book = self.base[ticker].copy()
        for at, change in self.changes.get(ticker, ()):
            if at >= position:
                break
            book.change(change.side, change.price_e4, change.delta_e2)
        return book


@dataclass(slots=True)
class Piece:
    """A prepared frame: head, then the number (if `sub`), then tail, then the time part of its kind."""

    position: int
    head: bytes
    tail: bytes
    sub: Subscription | None
    kind: int


class Player:
    """One client's place on the tape; the session's view of the exchange."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._session: Session | None = None
        self._pieces: list[Piece] = []
        self._at = 0
        self._version = -1
        self._lap = 0
        self._position = 0
        self._closed: set[str] = set()
        self.ends = True  # whether frames carry sending_ts_ms

    def attach(self, session: Session, *, sending_ts: bool) -> None:
        self._session = session
        self.ends = sending_ts

    @property
    def lap(self) -> int:
        """How often the tape began again."""
        return self._lap

    # ---- View

    def market(self, ticker: str) -> Market | None:
        return self._tape.exchange.markets.get(ticker)

    def market_of_id(self, market_id: str) -> Market | None:
        return self._tape.exchange.by_id.get(market_id)

    def tickers(self) -> Iterable[str]:
        return self._tape.exchange.markets

    def book(self, market: Market) -> Book:
        return Book() if market.ticker in self._closed else self._tape.book_at(market.ticker, self._position)

    # ---- playing

    def close_market(self, market: Market, now_ms: int) -> None:
        """Empties a book for this client; its later events are left out."""
        assert self._session
        self._closed.add(market.ticker)
        self._session.publish(BookReset(now_ms * 1000, market), now_ms)
        self._version = -1

    def chunk(self, now_us: int) -> list[tuple[bytes, bytes]]:
        """The next frames as (WebSocket header, payload); empty when nothing on the tape is wanted."""
        pieces = self._next()
        ends = self._ends(now_us)
        lap = b'"%08x' % (self._lap & 0xFFFFFFFF)
        out = []
        for piece in pieces:
            sub = piece.sub
            if sub is None:
                payload = piece.head + ends[TICKER]
            else:
                sub.seq += 1
                if piece.kind == TRADE:
                    payload = b'%b%d,"msg":{"trade_id":%b%b%b' % (piece.head, sub.seq, lap, piece.tail, ends[TRADE])
                else:
                    payload = b"%b%d%b%b" % (piece.head, sub.seq, piece.tail, ends[DELTA])
            length = len(payload)
            out.append((HEADERS[length] if length < 2_048 else text_header(length), payload))
        return out

    def events(self, now_us: int) -> list[Happening]:
        """The next events as such, stamped with the present; for the session to publish."""
        happened = []
        for piece in self._next():
            event = self._tape.events[piece.position]
            if isinstance(event, Trade):
                event = replace(event, trade_id=f"{self._lap & 0xFFFFFFFF:08x}{event.trade_id[8:]}")
            event.ts_us = now_us
            happened.append(event)
        return happened

    def _next(self) -> list[Piece]:
        assert self._session
        if self._version != self._session.version:
            self._compile(self._session)
        if self._at >= len(self._pieces):
            self._at = 0
            self._lap += 1
        pieces = self._pieces[self._at : self._at + CHUNK]
        self._at += len(pieces)
        at_end = self._at >= len(self._pieces)
        self._position = len(self._tape.events) if at_end else self._pieces[self._at].position
        return pieces

    def _ends(self, now_us: int) -> tuple[bytes, bytes, bytes]:
        assert self._session
        fmt = self._session.format
        end = f',"sending_ts_ms":{now_us // 1000}}}\n' if self.ends else "}\n"
        return (
            (render.delta_time(now_us, fmt) + end).encode(),
            (render.trade_time(now_us, fmt) + end).encode(),
            (render.ticker_time(now_us, fmt) + end).encode(),
        )

    def _compile(self, session: Session) -> None:
        """Prepares the pieces of what the session wants; the position stays where it was."""
        subs = session.subscriptions
        pieces = []
        for position, event in enumerate(self._tape.events):
            piece = None
            match event:
                case BookChange():
                    sub = _wanted(subs.get("orderbook_delta"), event.market)
                    if sub and event.market.ticker not in self._closed:
                        piece = _delta_piece(position, event, sub, session)
                case Trade():
                    sub = _wanted(subs.get("trade"), event.market)
                    piece = _trade_piece(position, event, sub, session) if sub else None
                case Quote():
                    sub = _wanted(subs.get("ticker"), event.market)
                    piece = _ticker_piece(position, event, sub, session) if sub else None
            if piece:
                pieces.append(piece)
        self._pieces = pieces
        self._at = bisect_left(pieces, self._position, key=lambda piece: piece.position)
        self._version = session.version


def _wanted(sub: Subscription | None, market: Market) -> Subscription | None:
    return sub if sub and (sub.markets is None or market.ticker in sub.markets) else None


def _delta_piece(position: int, event: BookChange, sub: Subscription, session: Session) -> Piece:
    head = f'{{"type":"orderbook_delta","sid":{sub.sid},"seq":'
    tail = f',"msg":{render.delta(event, session.format, yes_price=sub.yes_price)}'
    return Piece(position, head.encode(), tail.encode(), sub, DELTA)


def _trade_piece(position: int, event: Trade, sub: Subscription, session: Session) -> Piece:
    head = f'{{"type":"trade","sid":{sub.sid},"seq":'
    opening = '{"trade_id":"'
    tail = render.trade(event, session.format)[len(opening) + 8 :]  # the lap stands for the first eight digits
    return Piece(position, head.encode(), tail.encode(), sub, TRADE)


def _ticker_piece(position: int, event: Quote, sub: Subscription, session: Session) -> Piece:
    head = f'{{"type":"ticker","sid":{sub.sid},"msg":{render.ticker(event, session.format)}'
    return Piece(position, head.encode(), b"", None, TICKER)
