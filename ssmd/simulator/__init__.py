"""A Kalshi exchange on loopback: the local environment's exchange and the tests' opponent.

It is an independent witness. It shares no parsing, book or session code with the recorder that it
tests, and imports nothing of ssmd but `ssmd.errors`; a test holds that. What it knows comes from the
protocol facts of the project, and `docs/simulator.md` says where it had to choose.

Layers, imports only downward:

    books catalogue faults settings     data without time
    exchange render                     a market, and the text of its messages
    keys rest session tape              one client's view: pure, time and bytes come in as arguments
    websocket web ledger                the doors to wsproto, h11 and the ledger file
    connection trouble server           sockets, faults, greenlets, clock: the shell
    command __main__                    options and signals
    process                             for tests: starts the command as a child (standard library only)
"""
