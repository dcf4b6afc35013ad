"""One Kalshi connection as a state machine without socket, clock, randomness or thread.

What happened and when goes in; what is to be done comes out, as a list of actions. One `Session` is one connection:

    client                                session
    socket is open     -- opened ------>  SendText(subscribe) ...
    a reply, a gap ... -- receive ----->  SendText, SendPong, RecordEvent, RecordGap, Warn, Close
    time passed        -- tick -------->  retries, SendPing, Close (stall)
    other markets      -- change_plan ->  SendText(add, delete, unsubscribe)

Each channel is moved from what it holds to what the plan wants, one command at a time, so that a reply says without
doubt what is held now. Where that is not so simple (a sequence gap, a dead sid, a refusal) the channel is marked and
the same rule goes on from there. Data frames do not come here; they may arrive at any time.

Per channel there is one state, and `channel.TRANSITIONS` is all that moves it:

             SEND_SUBSCRIBE                    SEND_UPDATE
     ABSENT ---------------> SUBSCRIBING      ------------> UPDATING   (add_markets, delete_markets)
       ^ ^                       |           |   OK, FAILED    |
       | |   FAILED, DEAD        | OK        | <---------------'
       | '-----------------------+---> LIVE -+
       |                           SUBSCRIBED|   SEND_RESYNC
       |  UNSUBSCRIBED           SEND_LEAVE  |-------------> RESYNCING (get_snapshot)
       '--------------- LEAVING <------------' <--------------'
          DEAD, from every state                 SNAPSHOTS_DONE, RESTART, FAILED

Invariants. A subscription is never emptied by deletes. A book channel counts as whole again only after every market
of it was confirmed or had its snapshot since the last gap. Replies are matched by id, never by order. Only what was
received proves that the connection lives. What the exchange does against the rules is a warning, never an exception;
what our own caller does against them is a `SessionError`.
Not for recording what was lost with the socket itself: the client does, for it knows the time until the next one.
Facts: the protocol sheet, sections 1.5, 2 and 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ssmd.book import Suspect
from ssmd.kalshi import messages
from ssmd.kalshi.actions import Action, Close, RecordEvent, RecordGap, SendPing, SendPong, SendText, Warn
from ssmd.kalshi.channel import IDLE, SENT_AS, TRANSITIONS, Channel, Command, CommandKind, Gap, Input, State, tickers_of
from ssmd.kalshi.messages import CHANNELS, Reaction, error_code
from ssmd.kalshi.planner import ALL, COMMAND_BATCH, All, ConnectionPlan, Step, StepKind, after, next_step
from ssmd.records import ConnectionWhat, GapCause
from ssmd.wire import Event, EventKind

SECOND_NS: Final = 1_000_000_000
PING_PAYLOAD: Final = b"ssmd"
NAMED_AT_MOST: Final = 20  # tickers spelled out in a record or a warning; the rest is counted
STRANGERS_AT_MOST: Final = 1000  # markets that were never asked for, each a Gap record once
ORPHANS_AT_MOST: Final = 1000  # events kept for a sid whose reply has not come yet


class SessionError(RuntimeError):
    """The caller broke the rules of this module: a fault of ours."""


# ---- settings and what is shown --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the session behaves. Times in ns."""

    use_yes_price: bool = True
    command_batch: int = COMMAND_BATCH  # markets named in one subscribe, add or delete
    snapshot_batch: int = 500  # markets named in one get_snapshot
    list_acks_up_to: int = 2000  # beyond so many markets replies leave their list out: it would outgrow max_frame_bytes
    initial_tickers: bool = False  # ask for one ticker message per market at once
    command_timeout_ns: int = 10 * SECOND_NS
    ping_after_ns: int = 12 * SECOND_NS  # of silence; the exchange pings every 10 s
    stall_after_ns: int = 25 * SECOND_NS  # of silence: the connection is dead
    backoff_first_ns: int = SECOND_NS // 2
    backoff_most_ns: int = 60 * SECOND_NS
    calm_after_ns: int = 60 * SECOND_NS  # so long without trouble and back-off starts from its first step again


@dataclass(frozen=True, slots=True)
class ChannelView:
    """One channel, to show. `markets` and `wanted` None = all markets."""

    name: str
    state: State
    sid: int
    markets: int | None
    wanted: int | None
    refused: int
    suspect: int
    open_gaps: int


@dataclass(slots=True)
class _Listing:
    """A list_subscriptions that was sent; `version` of our own view at that time."""

    id: int
    version: int
    text: bytes
    deadline_ns: int
    attempt: int = 1


class _Phase(Enum):
    NEW = auto()
    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


# ---- the session -----------------------------------------------------------------------------------------------------


class Session:
    """One connection: make a new one for each socket.

    All times are ns of one clock (UTC if the Gap records shall make sense); `clock_stepped` says when it is set forward
    or back. Every method that returns actions wants them carried out in order, before the next call.
    """

    def __init__(self, plan: ConnectionPlan, *, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._ping_after_ns = min(self._settings.ping_after_ns, self._settings.stall_after_ns // 2)
        self._phase = _Phase.NEW
        self._live = False
        self._now_ns = 0
        self._received_ns = 0
        self._pinged = False
        self._out: list[Action] = []
        self._channels: dict[str, Channel] = {}
        self._sids: dict[int, Channel] = {}
        self._commands: dict[int, Command] = {}
        self._listing: _Listing | None = None
        self._list_due = False
        self._version = 0  # of the sids that we hold
        self._last_id = 0
        self._last_token = 0
        self._tokens: dict[int, Gap] = {}
        self._orphans: dict[int, list[Event]] = {}
        self._strangers: set[tuple[int, str]] = set()
        self._set_plan(plan)

    # ---- to look at -------------------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Every subscription of the plan was confirmed or refused at least once on this open connection."""
        return self._live and self._phase is _Phase.OPEN

    @property
    def channels(self) -> tuple[ChannelView, ...]:
        return tuple(
            ChannelView(
                name=channel.name,
                state=channel.state,
                sid=channel.sid,
                markets=None if isinstance(channel.held, All) else channel.markets,
                wanted=None if isinstance(channel.want, All) else len(tickers_of(channel.want)),
                refused=len(channel.refused),
                suspect=channel.markets if channel.suspect_all else len(channel.suspects),
                open_gaps=len(channel.gaps),
            )
            for channel in self._channels.values()
        )

    @property
    def open_gaps(self) -> tuple[int, ...]:
        """Numbers of Gap records that ended with the connection unresolved, and that the next connection mends."""
        return tuple(gap.number for channel in self._channels.values() for gap in channel.gaps if gap.number)

    @property
    def next_deadline_ns(self) -> int | None:
        """When `tick` has something to do at the latest; None = never."""
        if self._phase is not _Phase.OPEN:
            return None
        quiet_ns = self._settings.stall_after_ns if self._pinged else self._ping_after_ns
        deadlines = [self._received_ns + quiet_ns]
        deadlines += [command.deadline_ns for command in self._commands.values()]
        deadlines += [c.wake_ns for c in self._channels.values() if c.wake_ns and c.state in IDLE]
        if self._listing is not None:
            deadlines.append(self._listing.deadline_ns)
        return min(deadlines)

    # ---- what happened ----------------------------------------------------------------------------------------------

    def opened(self, now_ns: int) -> list[Action]:
        """The WebSocket is open: subscribes to everything in the plan."""
        if self._phase is not _Phase.NEW:
            raise SessionError("opened twice: a session serves one connection")
        self._phase = _Phase.OPEN
        self._now_ns = self._received_ns = now_ns
        for channel in tuple(self._channels.values()):
            self._go(channel)
        return self._done()

    def received_data(self, now_ns: int) -> None:
        """Bytes came from the exchange, whatever they were: it lives."""
        if now_ns > self._received_ns:
            self._received_ns = now_ns
            self._pinged = False

    def not_reading(self, now_ns: int) -> None:
        """We do not read the socket (the ring is full): silence and missing replies prove nothing until now."""
        self.received_data(now_ns)
        for command in self._commands.values():
            command.deadline_ns = max(command.deadline_ns, now_ns + self._settings.command_timeout_ns)
        if self._listing is not None:
            self._listing.deadline_ns = max(self._listing.deadline_ns, now_ns + self._settings.command_timeout_ns)

    def clock_stepped(self, step_ns: int) -> None:
        """The clock that all times are of was set forward or back by so much: what was waited for so far still counts.

        Without it a step forward looks like silence, and after a step back a dead connection looks alive.
        """
        self._now_ns += step_ns
        self._received_ns += step_ns
        for command in self._commands.values():
            command.deadline_ns += step_ns
        if self._listing is not None:
            self._listing.deadline_ns += step_ns
        for channel in self._channels.values():
            channel.wake_ns += step_ns if channel.wake_ns else 0
            channel.calm_since_ns += step_ns if channel.calm_since_ns else 0

    def receive(self, event: Event, now_ns: int) -> list[Action]:
        """The decoder handed something back."""
        if not self._at(now_ns):
            return []
        self.received_data(now_ns)
        match event.kind:
            case EventKind.PING:
                self._out.append(SendPong(event.data))
            case EventKind.PONG:
                pass
            case EventKind.CLOSE:
                self._their_close(event.data)
            case EventKind.REPLY:
                self._reply(event)
            case EventKind.SNAPSHOT:
                self._snapshot(event.id, event.data.decode("utf-8", "replace"), event.number)
            case EventKind.GAP | EventKind.UNDECODED:
                self._loss(event)
            case EventKind.REPEAT:
                self._warn(
                    f"repeat:{event.sid}",
                    f"sid {event.sid}: number {event.seq} came although {event.first} was next: a repeat, kept",
                )
            case EventKind.DRIFT:
                name = event.data.decode("utf-8", "replace")
                self._warn(f"drift:{name}", f"the exchange sends something new: {name}; its bytes are kept")
        return self._done()

    def tick(self, now_ns: int) -> list[Action]:
        """Time passed. May be called at any time; does nothing before `next_deadline_ns`."""
        if not self._at(now_ns):
            return []
        silence_ns = self._now_ns - self._received_ns
        if silence_ns >= self._settings.stall_after_ns:
            self._close(1001, f"stall: nothing was received for {silence_ns / SECOND_NS:.1f} s", stalled=True)
            return self._done()
        if silence_ns >= self._ping_after_ns and not self._pinged:
            self._pinged = True
            self._out.append(SendPing(PING_PAYLOAD))
        for command in [c for c in self._commands.values() if c.deadline_ns <= self._now_ns]:
            self._overdue(command)
        if self._listing is not None and self._listing.deadline_ns <= self._now_ns:
            self._listing_overdue(self._listing)
        for channel in [c for c in self._channels.values() if c.wake_ns]:
            self._go(channel)
        return self._done()

    def change_plan(self, plan: ConnectionPlan, now_ns: int) -> list[Action]:
        """Other markets from now on: adds and deletes in place."""
        changed = self._set_plan(plan)
        if self._phase is _Phase.NEW or not self._at(now_ns):
            return []
        for channel in changed:
            self._go(channel)
        return self._done()

    def suspect(self, found: Suspect, now_ns: int) -> list[Action]:
        """The book of one market cannot be right: asks for a new snapshot, unless one came since."""
        if not self._at(now_ns):
            return []
        channel, market = self._sids.get(found.sid), found.market
        if channel is None or not channel.book:
            self._warn(f"suspect:{market}", f"{found}: on sid {found.sid}, which is no subscription to books")
        elif market not in tickers_of(channel.held):
            self._stranger(found)
        elif found.number > channel.fresh.get(market, 0) and market not in channel.suspects and not channel.suspect_all:
            gap = self._gap(GapCause.BOOK_STATE, str(found), sid=found.sid, from_ns=found.recv_ns)
            self._mark(channel, gap, market)
        return self._done()

    def _stranger(self, found: Suspect) -> None:
        """Deltas of a market that was not asked for: recorded once. There is no book of it that could be mended."""
        key = (found.sid, found.market)
        if key not in self._strangers and len(self._strangers) < STRANGERS_AT_MOST:
            self._strangers.add(key)
            what = f"{found}; it is not subscribed to"
            self._gap(GapCause.BOOK_STATE, what, sid=found.sid, from_ns=found.recv_ns)
            self._warn(f"suspect:{found.market}", what)

    def recorded(self, token: int, number: int) -> list[Action]:
        """The Gap record that was asked for with `token` has this number."""
        gap = self._tokens.pop(token, None)
        if gap is not None:
            gap.number = number
            if gap.resolved is not None:
                self._out.append(_with_number(gap.resolved, number))
        return self._done()

    def closed(self, now_ns: int) -> None:
        """The socket is gone. `open_gaps` stays readable; everything else does nothing from now on."""
        self._at(now_ns)
        self._phase = _Phase.CLOSED

    # ---- the plan ---------------------------------------------------------------------------------------------------

    def _set_plan(self, plan: ConnectionPlan) -> list[Channel]:
        """Takes over what is wanted; returns the channels for which that changed."""
        changed: list[Channel] = []
        for name, markets in plan.channels.items():
            if name not in CHANNELS:
                raise SessionError(f"{name!r} is not a channel")
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = Channel(name, batch=self._settings.command_batch)
            want = ALL if isinstance(markets, All) else frozenset(markets)
            if channel.want != want:
                channel.want, channel.refused_whole = want, False
                changed.append(channel)
        for channel in self._channels.values():
            if channel.name not in plan.channels and channel.want is not None:
                channel.want = None
                changed.append(channel)
        for channel in changed:
            channel.settled = False
            channel.kept.clear()
            channel.refused &= tickers_of(channel.want)
        return changed

    def _go(self, channel: Channel) -> None:
        """Sends the next command of a channel that waits for nothing, or finds that there is none."""
        if self._phase is not _Phase.OPEN or channel.state not in IDLE:
            return
        if channel.wake_ns > self._now_ns and channel.want is not None:
            return
        channel.wake_ns = 0
        step = next_step(channel.held, channel.wanted(), channel.batch)
        if channel.state is State.LIVE:
            if channel.leave or (step is not None and step.kind in (StepKind.UNSUBSCRIBE, StepKind.SUBSCRIBE)):
                self._send(channel, CommandKind.LEAVE, Step(StepKind.UNSUBSCRIBE))
                return
            if channel.suspect_all:
                channel.suspects, channel.suspect_all = dict.fromkeys(sorted(tickers_of(channel.held))), False
            if channel.suspects:
                self._send_resync(channel)
                return
        if step is not None:
            self._send(channel, CommandKind.SUBSCRIBE if step.kind is StepKind.SUBSCRIBE else CommandKind.UPDATE, step)
            return
        channel.settled = True
        if channel.state is State.LIVE:
            channel.calm_since_ns = channel.calm_since_ns or self._now_ns
        elif channel.want is None:
            self._channels.pop(channel.name, None)

    # ---- sending ----------------------------------------------------------------------------------------------------

    def _send(self, channel: Channel, kind: CommandKind, step: Step) -> Command:
        self._last_id += 1
        channel.settled = False
        self._move(channel, SENT_AS[kind])
        command = Command(
            self._last_id,
            kind,
            channel,
            self._text(self._last_id, channel, kind, step),
            self._now_ns + self._settings.command_timeout_ns,
            step,
        )
        self._commands[command.id] = command
        self._out.append(SendText(command.text))
        return command

    def _send_resync(self, channel: Channel) -> None:
        size = min(self._settings.snapshot_batch, channel.batch)
        tickers = tuple(ticker for ticker, _ in zip(channel.suspects, range(size), strict=False))
        command = self._send(channel, CommandKind.RESYNC, Step(StepKind.ADD, tickers))
        command.awaiting.update(tickers)

    def _text(self, command_id: int, channel: Channel, kind: CommandKind, step: Step) -> bytes:
        if kind is CommandKind.LEAVE:
            return messages.unsubscribe(command_id, [channel.sid])
        tickers = None if isinstance(step.markets, All) or not step.markets else step.markets
        if kind is CommandKind.SUBSCRIBE:
            channel.lists_acks = len(tickers_of(channel.want)) <= self._settings.list_acks_up_to
            return messages.subscribe(
                command_id,
                channel.name,
                tickers,
                use_yes_price=self._settings.use_yes_price,
                send_initial_snapshot=self._settings.initial_tickers and tickers is not None,
                skip_ticker_ack=not channel.lists_acks,
            )
        if kind is CommandKind.RESYNC:
            return messages.get_snapshot(command_id, channel.sid, tickers or ())
        build = messages.delete_markets if step.kind is StepKind.DELETE else messages.add_markets
        return build(command_id, channel.name, channel.sid, tickers or ())

    def _overdue(self, command: Command) -> None:
        """No reply in time: once more the same, then a new connection, or for a resync a new subscription."""
        seconds = self._settings.command_timeout_ns / SECOND_NS
        what = f"{command.kind.value} of {command.channel.name} (id {command.id})"
        if command.kind is CommandKind.RESYNC:
            self._end(command)
            self._resync_failed(command, f"{len(command.awaiting)} snapshots did not come within {seconds:g} s")
        elif command.attempt == 1:
            command.attempt = 2
            command.deadline_ns = self._now_ns + self._settings.command_timeout_ns
            self._warn(f"late:{command.channel.name}", f"no reply to {what} within {seconds:g} s: sent once more")
            self._out.append(SendText(command.text))
        else:
            self._close(1001, f"no reply to {what}, sent twice, within {2 * seconds:g} s")

    # ---- replies ----------------------------------------------------------------------------------------------------

    def _reply(self, event: Event) -> None:
        reply = messages.parse_reply(event.data)
        if isinstance(reply, messages.Unknown):
            self._warn(f"reply:{reply.type}", f"a reply of an unknown kind: {event.data[:200]!r}")
            return
        if isinstance(reply, messages.Ok) and self._listing is not None and reply.id == self._listing.id:
            self._listed(reply)
            return
        if isinstance(reply, messages.Error):
            self._error(reply, event)
            return
        command = self._command_of(reply)
        if command is None:
            self._unmatched(reply)
        elif isinstance(reply, messages.Subscribed):
            self._subscribed(command, reply.sid, reply.channel)
        elif isinstance(reply, messages.Ok):
            self._ok(command, reply)
        else:
            self._unsubscribed(command)

    def _command_of(self, reply: messages.Subscribed | messages.Ok | messages.Unsubscribed) -> Command | None:
        """By id; a reply without id by the channel or sid that it names."""
        if reply.id:
            return self._commands.get(reply.id)
        name = reply.channel if isinstance(reply, messages.Subscribed) else ""
        for command in self._commands.values():
            if command.channel.name == name or (reply.sid and command.channel.sid == reply.sid):
                return command
        return None

    def _unmatched(self, reply: messages.Subscribed | messages.Ok | messages.Unsubscribed) -> None:
        """The second answer to a command that was sent twice, or nonsense; an end of a sid is true in any case."""
        channel = self._sids.get(reply.sid)
        if isinstance(reply, messages.Unsubscribed) and channel is not None:
            self._dead(channel, GapCause.CHANNEL_ERROR, "the exchange ended the subscription")
        elif not 0 < reply.id <= self._last_id:
            self._warn("reply:unmatched", f"a reply to nothing that was sent: {reply}")

    def _subscribed(self, command: Command, sid: int, name: str) -> None:
        channel = command.channel
        if sid == 0 or (name and name != channel.name):
            self._warn(f"reply:{channel.name}", f"subscribe to {channel.name} was answered with {name!r}, sid {sid}")
        elif self._move(channel, Input.SUBSCRIBED):
            self._end(command)
            channel.held = after(None, command.step)
            self._confirmed(channel, sid)

    def _ok(self, command: Command, reply: messages.Ok) -> None:
        channel = command.channel
        if command.kind is CommandKind.SUBSCRIBE and reply.sid == 0:
            self._warn(f"reply:{channel.name}", f"subscribe to {channel.name} was answered with ok, but without sid")
        elif self._move(channel, Input.OK) and command.kind is not CommandKind.RESYNC:
            self._end(command)
            channel.held = after(channel.held, command.step)
            self._compare(command, reply.tickers)
            self._confirmed(channel, channel.sid or reply.sid)

    def _confirmed(self, channel: Channel, sid: int) -> None:
        """What the channel holds has changed as asked."""
        channel.told = False
        channel.batch = min(channel.batch * 2, self._settings.command_batch)
        if channel.sid != sid:
            channel.sid = sid
            self._sids[sid] = channel
            self._version += 1
            self._list_due = True
            for event in self._orphans.pop(sid, []):
                if event.kind is EventKind.REPLY:
                    self._reply(event)
                else:
                    self._loss(event)
        self._go(channel)

    def _compare(self, command: Command, listed: tuple[str, ...] | None) -> None:
        """Our view of a subscription against the list in the reply, where it has one."""
        channel, asked = command.channel, tickers_of(command.step.markets)
        if listed is None or not channel.lists_acks or isinstance(channel.held, All):
            return
        held, there = tickers_of(channel.held), frozenset(listed)
        if command.step.kind is StepKind.DELETE:
            if not there:
                channel.leave = True
                self._warn(f"emptied:{channel.name}", f"{channel.name}: no market is left, which can mean all: leaving")
                return
            channel.kept |= there & asked
        elif lost := asked - there:
            if refused := lost & channel.doubtful:
                channel.refused |= refused
                self._refused(channel, "the exchange confirmed, but does not list", refused)
            channel.doubtful |= lost
            held -= lost
            self._warn(f"missing:{channel.name}", f"{channel.name}: not in the reply's list: {_some(lost)}")
        if strange := there - held - asked:
            self._warn(f"strange:{channel.name}", f"{channel.name}: in the list, but not asked for: {_some(strange)}")
        if gone := held - there - asked:
            self._warn(f"gone:{channel.name}", f"{channel.name}: no longer in the list: {_some(gone)}")
        channel.held = held | there

    def _unsubscribed(self, command: Command) -> None:
        channel = command.channel
        if command.kind is not CommandKind.LEAVE:
            self._dead(channel, GapCause.CHANNEL_ERROR, "the exchange ended the subscription")
        elif self._move(channel, Input.UNSUBSCRIBED):
            self._end(command)
            self._forget(channel)
            self._go(channel)

    # ---- errors -----------------------------------------------------------------------------------------------------

    def _error(self, error: messages.Error, event: Event) -> None:
        code = error_code(error.code)
        if self._listing is not None and error.id == self._listing.id:
            if not code.retry:  # else it is sent again when it is overdue
                self._listing = None
            self._warn("list", f"list_subscriptions was refused: {error}")
            return
        command = self._commands.get(error.id) if error.id else None
        channel = self._sids.get(error.sid)
        if command is None and channel is not None and not error.id:
            command = next((c for c in self._commands.values() if c.channel is channel), None)
        if command is not None and channel is None:
            channel = command.channel
        if channel is not None and code.reaction is Reaction.RESUBSCRIBE and (code.terminal or command is not None):
            cause = GapCause.BUFFER_OVERFLOW if error.code == messages.BUFFER_OVERFLOW else GapCause.CHANNEL_ERROR
            self._dead(channel, cause, f"{channel.name}: error {error}")
        elif command is not None:
            self._failed(command, error)
        elif code.terminal and error.sid and self._subscribing:
            self._orphan(error.sid, event)
        elif code.terminal or not 0 < error.id <= self._last_id:  # else the second answer to a command sent twice
            self._warn(f"error:{error.code}", f"error {error} (id {error.id}, sid {error.sid}): nobody's")

    def _failed(self, command: Command, error: messages.Error) -> None:
        """An error that leaves the subscription as it was."""
        channel, reaction = command.channel, error_code(error.code).reaction
        asked = tickers_of(command.step.markets)
        named = asked.intersection(error.tickers)
        if command.attempt == 2:
            command.attempt = 3  # two were sent, so another answer comes, and it may be a better one
            return
        final = reaction is Reaction.REFUSE or (error.code == messages.MARKET_LIMIT and len(asked) <= 1)
        if command.kind is CommandKind.LEAVE:
            if final:
                self._close(1001, f"unsubscribe from {channel.name} was refused: {error}")
            else:  # it is sent again when it is overdue
                self._warn(f"retry:{channel.name}", f"unsubscribe from {channel.name}: error {error}")
            return
        self._end(command)
        if command.kind is CommandKind.RESYNC and (final or reaction is Reaction.SPLIT):
            self._resync_failed(command, f"error {error}")
            return
        self._move(channel, Input.FAILED)
        if reaction is Reaction.SPLIT and (named or len(asked) <= 1):
            self._refuse(command, error, named or asked)
        elif final:
            self._refuse(command, error, named)
        else:
            channel.batch = max(len(asked) // 2, 1) if reaction in (Reaction.SPLIT, Reaction.SMALLER) else channel.batch
            if reaction is not Reaction.SPLIT:
                self._warn(
                    f"retry:{channel.name}", f"{command.kind.value} of {channel.name}: error {error}: again later"
                )
                self._back_off(channel)
        self._go(channel)

    def _refuse(self, command: Command, error: messages.Error, names: frozenset[str]) -> None:
        """Goes on without what the exchange does not give: `names`, or without names all that is not there yet."""
        channel = command.channel
        if command.step.kind is StepKind.DELETE:
            kept = names or tickers_of(channel.held) - tickers_of(channel.wanted())
            channel.kept |= kept
            self._warn(f"kept:{channel.name}", f"{channel.name}: error {error}: still subscribed to {_some(kept)}")
            return
        if not names and command.kind is CommandKind.SUBSCRIBE:
            channel.refused_whole = True
            names = tickers_of(channel.want)
        else:
            names = names or tickers_of(channel.wanted()) - tickers_of(channel.held)
            channel.refused |= names
        hint = ": the key may lack the permission" if error.code == messages.AUTHENTICATION_REQUIRED else ""
        self._refused(channel, f"error {error}{hint}", names)

    def _refused(self, channel: Channel, why: str, names: frozenset[str]) -> None:
        what = f"{channel.name}: {why}: not recorded: {_some(names) if names else 'the whole channel'}"
        self._gap(GapCause.REFUSED, what, sid=channel.sid)
        self._warn(f"refused:{channel.name}:{why}", what)

    # ---- losses and repair ------------------------------------------------------------------------------------------

    def _loss(self, event: Event) -> None:
        """Numbers are missing on a sid, or a frame of it could not be decoded."""
        channel = self._sids.get(event.sid)
        if channel is None:
            self._orphan(event.sid, event)
        elif event.kind is EventKind.GAP:
            self._lost(channel, f"numbers {event.first} to {event.last} are missing")
            if channel.book:
                self._mark(channel, Gap(event.number))
        else:
            what = f"a frame of type {event.data.decode('utf-8', 'replace')} could not be decoded"
            self._lost(channel, what)
            if channel.book:
                gap = self._gap(GapCause.UNDECODED, what, sid=event.sid, from_seq=event.seq, to_seq=event.seq)
                self._mark(channel, gap)

    def _lost(self, channel: Channel, what: str) -> None:
        then = "asking for its books again" if channel.book else "that cannot be repaired here"
        self._warn(f"gap:{channel.name}", f"{channel.name} (sid {channel.sid}): {what}: {then}")

    @property
    def _subscribing(self) -> bool:
        return any(channel.state is State.SUBSCRIBING for channel in self._channels.values())

    def _orphan(self, sid: int, event: Event) -> None:
        """What concerns a sid may come before the reply that says whose it is: kept until then."""
        if not self._subscribing:
            self._warn(f"gap:{sid}", f"a loss on sid {sid}, which is not ours: cannot be repaired")
        elif sum(map(len, self._orphans.values())) < ORPHANS_AT_MOST:
            self._orphans.setdefault(sid, []).append(event)

    def _mark(self, channel: Channel, gap: Gap, market: str | None = None) -> None:
        """Books of a channel (one, or all that it holds) need a snapshot.

        A channel that falls from one gap into the next waits ever longer before it asks again.
        """
        channel.gaps.append(gap)
        channel.settled = False
        anew = market is None and channel.state is State.RESYNCING
        if channel.clean or anew:
            self._trouble(channel)
            channel.restarts += 1
            if channel.restarts > 2:
                channel.wake_ns = self._now_ns + self._pause_ns(channel.restarts - 2)
        if market is None:
            channel.suspect_all = True
        else:
            channel.suspects[market] = None
        if anew:
            for command in [c for c in self._commands.values() if c.channel is channel]:
                self._end(command)
            self._move(channel, Input.RESTART)
        self._go(channel)

    def _snapshot(self, command_id: int, market: str, number: int) -> None:
        command = self._commands.get(command_id)
        if command is None or market not in command.awaiting:
            return  # of a resync that was started anew
        channel = command.channel
        command.awaiting.discard(market)
        channel.suspects.pop(market, None)
        channel.fresh[market] = number
        command.deadline_ns = self._now_ns + self._settings.command_timeout_ns
        if command.awaiting:
            self._move(channel, Input.SNAPSHOT)
        elif self._move(channel, Input.SNAPSHOTS_DONE):
            self._end(command)
            channel.resync_failures = 0
            channel.batch = min(channel.batch * 2, self._settings.command_batch)
            self._go(channel)

    def _resync_failed(self, command: Command, why: str) -> None:
        """Once more for the books that are left; the second time the whole subscription is made anew."""
        channel = command.channel
        self._move(channel, Input.FAILED)
        channel.resync_failures += 1
        channel.leave = channel.resync_failures >= 2
        then = "subscribing anew" if channel.leave else "asking once more"
        self._warn(f"resync:{channel.name}", f"resync of {channel.name}: {why}: {then}")
        self._go(channel)

    def _dead(self, channel: Channel, cause: GapCause, detail: str) -> None:
        """A sid sends nothing any more: records it and subscribes again after a pause."""
        sid, leaving = channel.sid, channel.state is State.LEAVING
        if not self._move(channel, Input.DEAD):
            return
        for command in [c for c in self._commands.values() if c.channel is channel]:
            self._end(command)
        self._forget(channel)
        if channel.want is not None and not leaving:
            channel.gaps.append(self._gap(cause, detail, sid=sid))
            self._warn(f"dead:{channel.name}", f"{detail}; subscribing again")
            self._back_off(channel)
        self._go(channel)

    def _forget(self, channel: Channel) -> None:
        """The channel holds nothing: no sid, no books, no doubts about them."""
        if self._sids.pop(channel.sid, None) is not None:
            self._version += 1
            self._list_due = True
        channel.sid, channel.held, channel.settled = 0, None, False
        channel.suspects, channel.suspect_all, channel.leave, channel.resync_failures = {}, False, False, 0
        channel.kept.clear()
        channel.fresh.clear()

    def _gap(
        self, cause: GapCause, detail: str, *, sid: int = 0, from_seq: int = 0, to_seq: int = 0, from_ns: int = 0
    ) -> Gap:
        self._last_token += 1
        gap = self._tokens[self._last_token] = Gap()
        self._out.append(
            RecordGap(self._last_token, cause, detail, sid, from_seq, to_seq, from_ns=from_ns or self._now_ns)
        )
        return gap

    # ---- pauses -----------------------------------------------------------------------------------------------------

    def _trouble(self, channel: Channel) -> None:
        calm_ns = self._now_ns - channel.calm_since_ns if channel.calm_since_ns else 0
        if calm_ns >= self._settings.calm_after_ns:
            channel.failures = channel.restarts = 0
        channel.calm_since_ns = 0

    def _back_off(self, channel: Channel) -> None:
        self._trouble(channel)
        channel.failures += 1
        channel.wake_ns = self._now_ns + self._pause_ns(channel.failures)

    def _pause_ns(self, times: int) -> int:
        return min(self._settings.backoff_first_ns << min(times - 1, 32), self._settings.backoff_most_ns)

    # ---- plan against truth -----------------------------------------------------------------------------------------

    def _list(self) -> None:
        self._list_due = False
        self._last_id += 1
        text = messages.list_subscriptions(self._last_id)
        deadline_ns = self._now_ns + self._settings.command_timeout_ns
        self._listing = _Listing(self._last_id, self._version, text, deadline_ns)
        self._out.append(SendText(text))

    def _listed(self, reply: messages.Ok) -> None:
        """Compares what the exchange says that we hold with what we think, and repairs what differs."""
        assert self._listing is not None
        outdated = self._listing.version != self._version
        self._listing = None
        if outdated:
            self._list_due = True
            return
        if reply.subscriptions is None:
            self._warn("list", "the reply to list_subscriptions is of an unknown shape")
            return
        theirs = dict(reply.subscriptions)
        for channel in list(self._sids.values()):
            if theirs.get(channel.name) != channel.sid and channel.state is not State.LEAVING:
                self._dead(
                    channel, GapCause.CHANNEL_ERROR, f"{channel.name}: the exchange does not list sid {channel.sid}"
                )
        for name, sid in theirs.items():
            self._stray(name, sid)

    def _stray(self, name: str, sid: int) -> None:
        """A subscription that the exchange lists. One that we neither hold nor want is ended."""
        channel = self._channels.get(name) or Channel(name)
        if channel.sid == sid or channel.wanted() or not self._move(channel, Input.FOUND):
            return
        self._warn(f"stray:{name}", f"the exchange lists {name} (sid {sid}), which is not wanted: leaving it")
        self._channels[name] = self._sids[sid] = channel
        channel.sid, channel.held = sid, ALL
        self._go(channel)

    def _listing_overdue(self, listing: _Listing) -> None:
        if listing.attempt == 1:
            listing.attempt = 2
            listing.deadline_ns = self._now_ns + self._settings.command_timeout_ns
            self._out.append(SendText(listing.text))
        else:
            self._listing = None
            self._warn("list", "list_subscriptions was not answered: what the exchange holds was not compared")

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _their_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1000
        said = payload[2:].decode("utf-8", "replace")
        self._close(code, f"closed by the exchange: {code} {said}".rstrip())

    def _close(self, code: int, reason: str, *, stalled: bool = False) -> None:
        self._phase = _Phase.CLOSING
        self._commands.clear()
        self._listing = None
        self._out.append(Close(code, reason, stalled))

    # ---- small things -----------------------------------------------------------------------------------------------

    def _at(self, now_ns: int) -> bool:
        """Moves the clock; says whether there is anything to do on this connection."""
        if self._phase is _Phase.NEW:
            raise SessionError("not opened yet")
        self._now_ns = max(self._now_ns, now_ns)
        return self._phase is _Phase.OPEN

    def _move(self, channel: Channel, cause: Input) -> bool:
        """The only place where a state changes. False: the exchange did what does not fit, and nothing changed."""
        state = TRANSITIONS[channel.state].get(cause)
        if state is None:
            self._warn(
                f"unexpected:{channel.name}:{channel.state.name}:{cause.name}",
                f"{channel.name}: {cause.name} does not fit {channel.state.name}: ignored",
            )
            return False
        channel.state = state
        return True

    def _end(self, command: Command) -> None:
        self._commands.pop(command.id, None)

    def _warn(self, key: str, message: str) -> None:
        self._out.append(Warn(key, message))

    def _done(self) -> list[Action]:
        """The actions of one call. First what follows from the state of all channels together."""
        if self._phase is _Phase.OPEN:
            settled = all(channel.settled for channel in self._channels.values())
            self._live = self._live or settled
            if self._live:
                for channel in self._channels.values():
                    if channel.settled and channel.sid:
                        self._tell(channel)
            if settled and self._list_due and self._listing is None and not self._commands:
                self._list()
        actions, self._out = self._out, []
        return actions

    def _tell(self, channel: Channel) -> None:
        """A channel that is in step and whole: says so, once, and that its gaps are mended."""
        whole = "all markets" if isinstance(channel.held, All) else ""
        if not channel.told:
            channel.told = True
            self._out.append(
                RecordEvent(ConnectionWhat.SUBSCRIBED, channel.sid, channel.name, channel.markets, reason=whole)
            )
        for gap in channel.gaps:
            event = RecordEvent(ConnectionWhat.RESYNCED, channel.sid, channel.name, channel.markets, reason=whole)
            if gap.number:
                self._out.append(_with_number(event, gap.number))
            else:
                gap.resolved = event
        channel.gaps.clear()


def _with_number(event: RecordEvent, number: int) -> RecordEvent:
    return RecordEvent(event.what, event.sid, event.channel, event.markets, number, event.reason)


def _some(tickers: Iterable[str]) -> str:
    """Some tickers, and how many more."""
    ordered = sorted(tickers)
    more = len(ordered) - NAMED_AT_MOST
    return ", ".join(ordered[:NAMED_AT_MOST]) + (f" and {more:,} more" if more > 0 else "")
