"""The connector's own judgement, without a run: what is an alarm and what is not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gevent
import pytest
from structlog.testing import capture_logs

from ssmd import host
from ssmd.children import ChildSpec
from ssmd.connector import ALARM_AFTER_LOOKS, Connector, recording_s
from ssmd.exchange import ClientState


@pytest.fixture
def connector(repository: Path, tmp_path: Path) -> Connector:
    """One that was made a moment ago and has no client yet."""
    environment = host.load(repository / "environments" / "kalshi-local.yaml", data=tmp_path)
    return Connector(environment, host.secret_reader(environment), environment_arguments=())


def alarms(connector: Connector) -> set[str]:
    """The checks that are in the log after as many looks as an alarm takes."""
    with capture_logs() as lines:
        for _ in range(ALARM_AFTER_LOOKS):
            connector._tell_trouble()
    return {line["check"] for line in lines if line["event"] == "alarm"}


def test_a_start_that_takes_longer_than_an_alarm_is_none(connector: Connector) -> None:
    assert alarms(connector) == set()
    assert connector.trouble() == ""
    assert connector._check_connections() == "starting: no client was started yet"
    assert connector.snapshot().starting


def test_a_start_that_takes_longer_than_a_socket_may_be_silent_is_an_alarm(
    connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = time.monotonic() + connector._environment.connector.stall_after_s
    monkeypatch.setattr(time, "monotonic", lambda: late + 1)
    assert "connections" in alarms(connector)
    assert connector._check_connections() == "no client was started yet"


def test_an_exchange_that_cannot_be_asked_for_its_markets_is_an_alarm_at_once(connector: Connector) -> None:
    connector._unreached = "the markets could not be looked up: no answer"
    assert alarms(connector) == {"connections"}


def test_recording_lasts_from_the_first_socket_to_the_end_of_the_last() -> None:
    s = 1_000_000_000
    first = ClientState("a", first_opened_ns=10 * s, opened_ns=15 * s, closed_ns=20 * s, opens=2, closes=2)
    second = ClientState("b", first_opened_ns=12 * s, opened_ns=12 * s, closed_ns=22 * s, opens=1, closes=1)
    never = ClientState("c")
    assert recording_s([never], 40 * s) == 0
    assert recording_s([first, second, never], 40 * s) == 12
    second.closes, second.closed_ns = 0, 0
    assert recording_s([first, second, never], 40 * s) == 30


class Stubborn:
    """A helper that does not end, and a store that writes until its time is up."""

    spec = ChildSpec("stubborn", ())

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout_s: float) -> bool:
        gevent.sleep(timeout_s)
        return False

    def close(self, deadline: float, *, flusher_child: object) -> bool:
        gevent.sleep(max(deadline - time.monotonic(), 0.1))
        return False


def test_files_and_helpers_that_take_all_their_time_stay_within_the_budget_of_an_end(
    connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the 5 s that are promised belongs to a machine that is busy."""
    budget_s = 1.5
    monkeypatch.setattr("ssmd.connector.STOP_BUDGET_S", budget_s)
    stubborn: Any = Stubborn()
    connector._children = [stubborn, stubborn]
    connector._keepers = [gevent.spawn(gevent.sleep, 60)]
    began = time.monotonic()
    connector._shut_down(stubborn)
    connector._end_children()
    assert time.monotonic() - began < budget_s + 0.7  # it was 1.1 s and more
