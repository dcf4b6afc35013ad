@0xb7c1f0a95d3e4a21;
# ssmd market data, version 1 (`market_data:v1`).
#
# One `Record` is one Cap'n Proto message in standard stream framing (segment table, then one
# unpacked segment). A segment file is such messages one after the other: `capnp decode` reads it.
#
# Units stand in the names: _Ns are UTC nanoseconds since 1970 (Int64, 0 = none), _E4 are 1e-4
# dollars, _E2 are 1e-2 contracts. No floating point anywhere. Evolution: fields are only added.
# docs/records.md says which JSON becomes which record, to the byte.

struct Record {
  number     @0 :UInt64;   # position of the record in its journal: +1 each, never reused.
                           # A Checkpoint takes no number: it carries that of the record before it.
  recvNs     @1 :Int64;    # wall clock when the socket read that completed the frame returned
  recvTicks  @2 :UInt64;   # the same instant in CPU ticks; ClockAnchor relates the two
  exchangeNs @3 :Int64;    # when the exchange says it happened; 0 = it did not say
  sentNs     @4 :Int64;    # when the exchange queued the frame (sending_ts_ms); 0 = it did not say
  connection @5 :UInt32;   # which socket: counts up over reconnects and restarts; 0 = none
  sid        @6 :UInt32;   # subscription id on that connection; 0 = none
  seq        @7 :UInt64;   # the exchange's sequence number on that sid; 0 = none
  frame      @8 :Data;     # the exchange's bytes verbatim; null where there was no frame or keep_frames is off
  body :union {
    unparsed     @9  :Unparsed;
    trade        @10 :Trade;
    ticker       @11 :Ticker;
    book         @12 :OrderBookUpdate;
    status       @13 :MarketStatusUpdate;
    index        @14 :IndexValue;
    control      @15 :Control;
    gap          @16 :Gap;
    connection   @17 :ConnectionEvent;
    clock        @18 :ClockAnchor;
    checkpoint   @19 :Checkpoint;
    entry        @20 :Entry;
  }
}

enum Side { unknown @0; yes @1; no @2; }
enum BookSide { unknown @0; bid @1; ask @2; }   # always on the YES scale

struct Unparsed {
  # A frame that is kept but not understood. The bytes are in Record.frame, always.
  reason @0 :Reason;
  type   @1 :Text;     # the frame's "type" where it could be read, else null
  enum Reason {
    badJson      @0;   # not one JSON object, or not valid UTF-8
    noType       @1;   # no top-level "type" string
    unknownType  @2;   # a type that the protocol sheet does not list
    notDecoded   @3;   # a known type that ssmd does not decode (private channels)
    missingField @4;   # a field without which the message means nothing is absent
    badField     @5;   # a field is there with another shape, or not exact in our unit
    binary       @6;   # a WebSocket binary message
    tooComplex   @7;   # nesting, level count or record size beyond the limit
  }
}

struct Trade {
  market    @0 :Text;
  tradeId   @1 :Text;      # null if absent
  priceE4   @2 :Int32;     # YES price
  takerSide @3 :Side;
  block     @4 :Bool;      # is_block_trade
  countE2   @5 :Int64;
}

struct Ticker {
  # Conflated top of book: once a second at most, without sequence numbers. `present` has bit i set
  # where the field with ordinal i was in the frame; a field that was not there is 0.
  market             @0  :Text;
  present            @1  :UInt32;
  priceE4            @2  :Int32;   # last trade
  yesBidE4           @3  :Int32;   # 0 = no quote
  yesAskE4           @4  :Int32;   # 10000 with size 0 = no quote
  volumeE2           @5  :Int64;
  openInterestE2     @6  :Int64;
  dollarVolume       @7  :Int64;   # whole dollars
  dollarOpenInterest @8  :Int64;   # whole dollars
  yesBidSizeE2       @9  :Int64;
  yesAskSizeE2       @10 :Int64;
  lastTradeSizeE2    @11 :Int64;
}

struct Level { priceE4 @0 :Int32; countE2 @1 :Int64; }

struct OrderBookUpdate {
  # On the YES scale: bids are bids for YES, asks are 1 - the bids for NO. Level order is the wire's
  # (best last). A snapshot replaces the whole book; a delta adds deltaE2 to one level.
  market   @0 :Text;
  kind     @1 :Kind;
  side     @2 :BookSide;      # delta only
  yesScale @3 :Bool;          # the NO side came on the YES scale already (use_yes_price)
  priceE4  @4 :Int32;         # delta only
  deltaE2  @5 :Int64;         # delta only, signed
  bids     @6 :List(Level);   # snapshot only; null = the side is empty
  asks     @7 :List(Level);   # snapshot only; null = the side is empty
  requestId @8 :UInt64;       # snapshot only: id of the get_snapshot command it answers, 0 = none
  enum Kind { snapshot @0; delta @1; }
}

struct MarketStatusUpdate {
  # Markets also open and close by the clock, with no message: derive that from openNs and closeNs.
  market            @0 :Text;   # null for messages about an event
  event             @1 :Text;   # event ticker where given
  change            @2 :Change;
  hasSettlement     @3 :Bool;
  multivariate      @4 :Bool;   # came as multivariate_market_lifecycle
  settlementValueE4 @5 :Int32;
  openNs            @6 :Int64;
  closeNs           @7 :Int64;
  determinedNs      @8 :Int64;
  settledNs         @9 :Int64;
  result            @10 :Text;  # "yes", "no", "scalar", ...; null if absent
  changeName        @11 :Text;  # event_type as sent, only where change = unknown
  enum Change {
    unknown @0; created @1; activated @2; deactivated @3; closeDateUpdated @4; determined @5;
    settled @6; priceLevelStructureUpdated @7; metadataUpdated @8; eventCreated @9; eventFeeUpdated @10;
  }
}

struct IndexValue {
  # cfbenchmarks_value, cfbenchmarks_value_5hz, pyth_value. Values in 1e-8 dollars.
  index      @0 :Text;
  source     @1 :Source;
  hasValue   @2 :Bool;
  hasAverage @3 :Bool;
  valueE8    @4 :Int64;
  averageE8  @5 :Int64;    # avg_60s_data.value
  receivedNs @6 :Int64;    # received_at
  enum Source { cfbenchmarks @0; cfbenchmarks5hz @1; pyth @2; }
}

struct Control {
  # A reply to a command, or an error.
  type    @0 :Type;
  code    @1 :UInt32;     # error only
  id      @2 :UInt64;     # the command's id, 0 = none
  sid     @3 :UInt32;     # subscribed: msg.sid; the others: the top-level sid, 0 = none
  channel @4 :Text;       # subscribed only
  message @5 :Text;       # error only
  enum Type { subscribed @0; ok @1; unsubscribed @2; error @3; }
}

struct Gap {
  # What was missed. Written as soon as it is known; the end that is not known yet is 0.
  cause   @0 :Cause;
  fromSeq @1 :UInt64;   # first missing number, 0 = no sequence numbers are known to be missing
  toSeq   @2 :UInt64;   # last missing number
  fromNs  @3 :Int64;    # last instant at which all was well
  toNs    @4 :Int64;    # first instant at which it was well again, 0 = not yet
  lengthBytes @5 :UInt64;   # frameTooLarge: length the frame announced
  head    @6 :Data;     # frameTooLarge: its first bytes, at most 256
  detail  @7 :Text;
  enum Cause {
    sequence       @0;  # numbers were skipped on a sid
    disconnect     @1;  # a socket was lost: everything it carried is unseen until the next one is subscribed
    stall          @2;  # the socket gave nothing, not even pings
    outage         @3;  # the recorder itself was not running (killed, power cut)
    channelError   @4;  # error 10: the sid is dead
    bufferOverflow @5;  # error 25: the sid is dead
    frameTooLarge  @6;
    undecoded      @7;  # a frame of a book could not be decoded: its bytes are there, the book is suspect
    bookState      @8;  # a delta that cannot be applied: below zero, or for a market without snapshot
    damage         @9;  # stored bytes were lost: the file was cut back to its last good checkpoint
    refused        @10; # the exchange refused a subscription: this was never seen
  }
}

struct ConnectionEvent {
  what       @0 :What;
  reason     @1 :Text;     # a word or a sentence; null if there is nothing to say
  code       @2 :UInt32;   # WebSocket close code or HTTP status, 0 = none
  messages   @3 :UInt64;   # closed: frames received on it
  openedNs   @4 :Int64;    # closed: when it was opened
  gapNumber  @5 :UInt64;   # resynced: number of the Gap record that this resolves
  url        @6 :Text;     # opened
  useYesPrice @7 :Bool;    # opened: mode asked for on order books
  channel    @8 :Text;     # subscribed, resynced
  markets    @9 :UInt32;   # subscribed, resynced: how many markets
  enum What {
    started    @0;   # a run of the recorder began
    opened     @1;
    subscribed @2;   # every subscription of the plan is confirmed on this connection
    resynced   @3;
    closed     @4;
    stopped    @5;   # a run ended as asked: the last record of a clean journal
    refused    @6;   # the attempt to open failed
  }
}

struct ClockAnchor {
  ticks          @0 :UInt64;   # CPU ticks ...
  wallNs         @1 :Int64;    # ... at this UTC instant
  nsPerTickQ32   @2 :UInt64;   # rate: nanoseconds per tick, as a 32.32 fixed-point number
  source         @3 :Source;
  uncertaintyNs  @4 :UInt64;   # width of the reading
  enum Source { tsc @0; cntvct @1; monotonic @2; }
}

struct Checkpoint {
  # Written by the flusher into the file (never into the ring) before each sync.
  crc32c        @0 :UInt32;   # CRC-32C of all bytes of this segment from the end of the previous
                              # checkpoint (or the start of the segment) to the end of this very
                              # record, these four bytes counted as zero
  maxConnection @1 :UInt32;   # highest connection number so far in the journal
  bytes         @2 :UInt64;   # how many bytes the CRC covers, this record included
  offset        @3 :UInt64;   # where this record starts in its segment file
  records       @4 :UInt64;   # numbered records in this segment so far
  final         @5 :Bool;     # last record of a sealed segment
}

struct Entry {
  # Something that a program put into the journal: not received, not market data. `ssmd run` begins with one,
  # topic "environment", payload the environment as YAML (with references to secrets, never secrets).
  topic   @0 :Text;            # words joined by dots
  headers @1 :List(Header);    # null = none
  payload @2 :Data;
  struct Header { name @0 :Text; value @1 :Text; }
}
