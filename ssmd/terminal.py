"""Words of others on a terminal: names of files, reasons of an exchange. Pure.

A name may hold line ends and the sequences by which terminals are told to clear the screen, or worse.
"""

from __future__ import annotations


def shown(text: str) -> str:
    """The text with everything that does not print escaped: control characters, half surrogates, invisible marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown_lines(text: str) -> str:
    """The same, line ends kept: for texts of our own that hold words of others."""
    return "\n".join(map(shown, text.split("\n")))
