"""What a person sees of `ssmd run`: the screen with its live line."""

from __future__ import annotations

import io

import pytest
import structlog

from ssmd.cli.run import CLEAR, Screen, configure_log, listed, parser


def shown(raw: str) -> list[str]:
    """The rows of a terminal after these bytes: CLEAR empties the screen from the row that the cursor stands on."""
    rows = [""]
    for part in raw.replace(CLEAR, "\0").replace("\r", "").replace("\0", "\r"):
        if part == "\r":
            rows[-1] = ""
        elif part == "\n":
            rows.append("")
        else:
            rows[-1] += part
    return rows


def test_a_log_line_stays_above_the_live_line() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    configure_log(screen, terminal=True)
    try:
        screen.show(["live 1"])
        structlog.get_logger().warning("the disk is full")
        screen.show(["live 2"])
    finally:
        structlog.reset_defaults()
    rows = shown(stream.getvalue())
    assert "the disk is full" in rows[0]
    assert "  " not in rows[0], "columns, for which no terminal is wide enough"
    assert rows[1:] == ["live 2"]


def test_several_parts_that_refuse_us_are_a_list_below_one_heading() -> None:
    said = "storage: refused: no\n  check keys.s3\ncache: refused: no"
    assert listed("environment e", said) == (
        "environment e: 2 errors\n  storage: refused: no\n    check keys.s3\n  cache: refused: no"
    )
    assert listed("environment e", "cache: refused: no\n  check it") == "cache: refused: no\n  check it"


def test_a_duration_that_is_none_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args(["-e", "kalshi-local", "--duration", "2m"])
    assert end.value.code == 2
    assert "must be a number of seconds, such as 120" in capsys.readouterr().err


def test_the_cursor_rests_at_the_beginning_of_the_live_line() -> None:
    """A terminal that becomes narrower breaks the line; from there to the end of the screen nothing is left of it."""
    stream = io.StringIO()
    screen = Screen(stream)
    screen.show(["live 1", "x"])
    screen.redraw()
    assert stream.getvalue() == "\r\x1b[Jlive 1 · x\r" * 2
