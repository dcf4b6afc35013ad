"""Keys of archived files: one owner, which nothing hostile gets past."""

from __future__ import annotations

import pytest

from ssmd.middleware.keys import checked_key
from ssmd.middleware.names import ObjectName, object_key, object_name

FILE = "20261122T175042Z-000000000001.capnp.zst"


def test_a_key_is_prefix_feed_journal_day_and_file() -> None:
    name = ObjectName("ssmd/prod", "kalshi", "kalshi-5f0c9a1e22b4", "2026-11-22", FILE)
    assert object_key(name) == f"ssmd/prod/kalshi/kalshi-5f0c9a1e22b4/2026-11-22/{FILE}"
    assert object_key(name._replace(prefix="")) == f"kalshi/kalshi-5f0c9a1e22b4/2026-11-22/{FILE}"


@pytest.mark.parametrize("prefix", ["", "md", "a/b.c/d"])
def test_a_key_reads_back_as_what_it_was_made_of(prefix: str) -> None:
    name = ObjectName(prefix, "kalshi", "kalshi-5f0c9a1e22b4", "2026-11-22", FILE)
    assert object_name(object_key(name)) == name


@pytest.mark.parametrize("hostile", ["../x", "a/b", " ", "*", ">", "x\0y", "é" * 600, "..", ".", ".ssmd", "a\nb"])
def test_whatever_a_file_or_journal_is_called_the_key_is_one_and_stays_below_its_day(hostile: str) -> None:
    key = object_key(ObjectName("md", hostile, hostile, "2026-11-22", hostile + ".capnp"))
    assert checked_key(key) == key
    assert key.count("/") == 4 and key.startswith("md/")
    assert object_name(key) is not None


@pytest.mark.parametrize("day", ["", "..", "2026-11", "2026-11-22/..", "2026-1-2", "２０２６-11-22"])
def test_a_day_that_is_none_is_a_mistake_of_ours(day: str) -> None:
    with pytest.raises(ValueError, match="no day"):
        object_key(ObjectName("", "kalshi", "kalshi-5f0c9a1e22b4", day, FILE))


@pytest.mark.parametrize(
    "key", ["", "x", "a/b/c", f"kalshi/id/2026-11-22/x/{FILE}", "kalshi/id/day/x.capnp", "a//b/2026-11-22/f"]
)
def test_a_key_of_another_form_is_not_ours(key: str) -> None:
    assert object_name(key) is None
