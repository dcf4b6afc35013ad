"""A Kalshi exchange on loopback: the local environment's exchange and the tests' opponent.

It is an independent witness. It shares no parsing, book or session code with the recorder that it
tests, and imports nothing of ssmd but `ssmd.errors`; a test holds that. What it knows comes from the
protocol facts of the project, and `docs/simulator.md` says where it had to choose.

Layers, imports only downward:

    books catalogue faults      data without time
    exchange render             a market, and the text of its messages
    keys rest session tape      one client's view: pure, time and bytes come in as arguments
    websocket ledger            the doors to wsproto and to the ledger file
    server                      sockets, greenlets, clock: the shell
    __main__                    the command
    process                     for tests: starts the command as a child (standard library only)
"""
