"""Environment files: what is accepted, what is refused and in which words, and what becomes of secrets.

Facts: docs/environment.md; the hosts are those of the exchange's documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ssmd import environment as env
from ssmd import host
from ssmd.errors import EXIT_USAGE, UsageError
from ssmd.simulator import command

MACHINE = env.Machine(
    absolute=lambda path: Path("/home/somebody" + path[1:]) if path.startswith("~") else Path("/work-here") / path,
    shared_memory=Path("/dev/shm"),
    has_timezone=lambda name: name in ("UTC", "America/New_York"),
)
SMALLEST = """
name: small
feed: kalshi
schema: market_data:v1
exchange: {simulator: {}}
subscriptions: [{channels: [trade], all: true}]
"""


def parse(text: str = SMALLEST, *overrides: str, machine: env.Machine = MACHINE) -> env.Environment:
    return env.parse(text, machine, source="small.yaml", stem="small", overrides=overrides)


def refused(text: str = SMALLEST, *overrides: str) -> dict[str, str]:
    """Key path -> sentence of everything that is wrong."""
    with pytest.raises(env.InvalidEnvironment) as caught:
        parse(text, *overrides)
    return {env.key_text(problem.path): problem.sentence for problem in caught.value.problems}


# ---- what is accepted ------------------------------------------------------------------------------------------------


def test_five_keys_are_enough() -> None:
    found = parse()
    assert (found.name, found.feed, found.schema_name) == ("small", "kalshi", "market_data:v1")
    assert found.subscriptions == (env.Subscription(channels=("trade",), all=True),)


def test_defaults_are_those_of_the_documentation() -> None:
    found = parse()
    assert found.shard == env.Shard(index=0, count=1)
    assert found.normalizer == "c"
    assert found.max_frame_bytes == 1_048_576
    assert found.ring.size_bytes == 4_194_304
    assert (found.flusher.mode, found.flusher.sync_interval_ms, found.flusher.keep_frames) == ("thread", 1000, True)
    assert (found.transport.type, found.storage.type, found.cache.type, found.journal.type) == (
        "memory", "local", "memory", "file",
    )  # fmt: skip
    assert (found.schedule.timezone, found.schedule.day_start) == ("UTC", "00:00")
    assert (found.health.host, found.health.port) == ("127.0.0.1", 8080)
    assert found.connector.stall_after_s == 25


def test_paths_start_at_the_current_folder_or_home() -> None:
    found = parse(SMALLEST, "storage.path=./data", "exchange.simulator.ledger=~/ledger")
    assert found.storage.path == Path("/work-here/data")
    assert found.exchange.simulator is not None
    assert found.exchange.simulator.ledger == Path("/home/somebody/ledger")


def test_nothing_can_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        parse().flusher.sync_bytes = 1


def test_a_key_without_a_value_is_no_key() -> None:
    assert parse(SMALLEST + "ring:\nkeys:\nflusher: {mode: }\n") == parse()


@pytest.mark.parametrize(
    ("written", "read"),
    [("NO", "NO"), ("on", "on"), ("17:30", "17:30"), ("2026-11-22", "2026-11-22"), ("1_000", "1_000")],
)
def test_only_scalars_that_look_like_numbers_or_booleans_are_such(written: str, read: str) -> None:
    """YAML 1.1 makes False, True, 1050, a date and 1000 of these."""
    text = SMALLEST.replace("all: true", f"markets: [{written}]")
    if ":" in written:
        found = parse(SMALLEST + f"schedule: {{day_start: {written}}}")
        assert found.schedule.day_start == read
    else:
        assert parse(text).subscriptions[0].markets == (read,)


@pytest.mark.parametrize("name", ["kalshi-local", "kalshi-dev", "kalshi-prod", "kalshi-rehearsal"])
def test_the_environments_of_the_repository_are_right(name: str, repository: Path) -> None:
    found = host.load(repository / "environments" / f"{name}.yaml")
    channels = {channel for subscription in found.subscriptions for channel in subscription.channels}
    assert channels == {"orderbook_delta", "trade", "ticker", "market_lifecycle_v2"}


def test_the_local_environment_needs_no_key_and_no_network() -> None:
    found = host.load("kalshi-local")
    assert found.keys == {}
    assert found.exchange.simulator is not None
    assert (found.transport.type, found.storage.type) == ("memory", "local")


@pytest.mark.parametrize(
    ("name", "websocket", "rest"),
    [
        (
            "kalshi-dev",
            "wss://external-api-ws.demo.kalshi.co/trade-api/ws/v2",
            "https://external-api.demo.kalshi.co/trade-api/v2",
        ),
        (
            "kalshi-prod",
            "wss://external-api-ws.kalshi.com/trade-api/ws/v2",
            "https://external-api.kalshi.com/trade-api/v2",
        ),
    ],
)
def test_the_exchange_is_where_its_documentation_says(name: str, websocket: str, rest: str) -> None:
    exchange = host.load(name).exchange
    assert (exchange.websocket_url, exchange.rest_url) == (websocket, rest)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_all_errors_are_told_together() -> None:
    """Wrong YAML, unknown keys, wrong values, rules between keys and a wrong --set: one answer."""
    text = SMALLEST.replace("name: small", "name: other") + (
        "feed: again\nrnig: {}\nshard: {index: 2, count: 2}\ncache: {type: redis}\nflusher: {mode: fast}\n"
    )
    found = refused(text, "ring.size_bytes=5000000", "health.port=1")
    assert set(found) == {
        "", "name", "rnig", "shard.index", "cache.url", "flusher.mode", "ring.size_bytes", "health.port",
    }  # fmt: skip


def test_the_error_names_the_file_and_ends_with_exit_2() -> None:
    with pytest.raises(env.InvalidEnvironment) as caught:
        parse(SMALLEST, "flusher.mode=fast")
    assert caught.value.exit_code == EXIT_USAGE
    assert str(caught.value) == (
        "small.yaml: 1 error\n  flusher.mode: must be thread or process (found 'fast') [from --set]"
    )


RULES = [
    # what is added or set, key path, words of the sentence
    ("nam=x", "nam", "did you mean name?"),
    ("flusher.sync_intervall_ms=1", "flusher.sync_intervall_ms", "did you mean sync_interval_ms?"),
    ("exchange.simulator.volume=1", "exchange.simulator.volume", "known: markets, rate, seed"),
    ("name=other", "name", "must be the file's name without .yaml, 'small'"),
    ("name=a/b", "name", "letters, digits"),
    ("feed=../x", "feed", "small letters"),
    ("schema=market_data:v2", "schema", "must be market_data:v1"),
    ("exchange.websocket_url=wss://a.example/x", "exchange.websocket_url", "no meaning beside exchange.simulator"),
    ("exchange.simulator=null", "exchange.websocket_url", "is missing"),
    ("exchange=5", "exchange", "must be a section"),
    ("exchange.simulator.rate=-1", "exchange.simulator.rate", "must be at least 0"),
    ("exchange.simulator.rate=.inf", "exchange.simulator.rate", "must be a number"),
    ("exchange.simulator.markets=0", "exchange.simulator.markets", "must be at least 1"),
    ("subscriptions=[]", "subscriptions", "at least one"),
    ("subscriptions.0.all=false", "subscriptions[0]", "exactly one of"),
    ("subscriptions.0.series=[A]", "subscriptions[0]", "found series and all"),
    ("subscriptions.0.channels=[]", "subscriptions[0].channels", "at least one"),
    ("subscriptions.0.channels=trade", "subscriptions[0].channels", "must be a list"),
    ("subscriptions.0.channels.0=Trade!", "subscriptions[0].channels[0]", "is no channel name"),
    ("subscriptions.0.markets=[a b]", "subscriptions[0].markets[0]", "is no ticker"),
    ("shard.index=1", "shard.index", "must be less than shard.count (1)"),
    ("shard.count=0", "shard.count", "must be at least 1"),
    ("normalizer=rust", "normalizer", "must be c or python"),
    ("max_frame_bytes=2097152", "max_frame_bytes", "half of ring.size_bytes (4194304)"),
    ("ring.size_bytes=5000000", "ring.size_bytes", "such as 4194304 or 8388608"),
    ("ring.size_bytes=4096", "ring.size_bytes", "must be at least 65536"),
    ("ring.size_bytes=4MiB", "ring.size_bytes", "must be a whole number"),
    ("ring.size_bytes=1e999", "ring.size_bytes", "must be a whole number"),
    ("max_frame_bytes=-1e999", "max_frame_bytes", "must be a whole number"),
    ("ring.size_bytes=-1e999", "ring.size_bytes", "must be a whole number"),
    ("ring.size_bytes=9999999999999999999", "ring.size_bytes", "must be at most 17179869184"),
    ("ring.size_bytes=99999999999999999999999", "ring.size_bytes", "must be a whole number"),
    ("exchange.simulator.rate=1e999", "exchange.simulator.rate", "must be a finite number"),
    ("ring.size_bytes=4194304.0", "ring.size_bytes", "must be a whole number"),
    ("flusher.mode=fast", "flusher.mode", "must be thread or process"),
    ("flusher.sync_interval_ms=0", "flusher.sync_interval_ms", "must be at least 1"),
    ("flusher.keep_frames=1", "flusher.keep_frames", "must be true or false"),
    ("flusher=thread", "flusher", "must be a section"),
    ("connector.reconnect={min_ms: 2000, max_s: 1}", "connector.reconnect.min_ms", "at most connector.reconnect.max_s"),
    ("transport.type=nats", "transport.url", "transport.type nats needs it"),
    ("transport={type: nats, url: 'http://a'}", "transport.url", "must start with nats:// or tls://"),
    ("storage.type=s3", "storage.bucket", "storage.type s3 needs it"),
    ("storage.type=s3", "storage.region", "storage.type s3 needs it"),
    ("storage.endpoint=http://s3.example", "storage.endpoint", "must start with https://"),
    ("cache.type=redis", "cache.url", "cache.type redis needs it"),
    ("cache={type: redis, url: 'redis://:pass@h'}", "cache.url", "no user name or password"),
    ("journal.type=nats", "journal.type", "needs transport.type nats"),
    ("storage={type: s3, bucket: b, region: r, archive: a}", "storage.archive", "segments go to the bucket"),
    ("storage.retain_days=1", "storage.retain_days", "storage.type s3, or storage.archive"),
    ("storage.prefix=a/b", "storage.prefix", "storage.type s3, or storage.archive"),
    ("storage={type: s3, bucket: b, region: r, prefix: a/../b}", "storage.prefix", "is no prefix"),
    ("storage={type: s3, bucket: b, region: r, prefix: /a}", "storage.prefix", "is no prefix"),
    ("storage={path: /d, archive: /d/copy}", "storage.archive", "must lie outside of storage.path"),
    ("storage={path: /d/live, archive: /d}", "storage.archive", "must lie outside of storage.path"),
    ("storage={path: /d, archive: /d}", "storage.archive", "must lie outside of storage.path"),
    ("transport={type: nats, url: 'nats://h', subject_prefix: 'md.>'}", "transport.subject_prefix", "is no subject"),
    ("transport={type: nats, url: 'nats://h', stream: 'A.B'}", "transport.stream", "letters, digits"),
    ("keys.nats={type: password, fields: {user: 'env:A'}}", "keys.nats.fields", "password, user; or token; or creds"),
    ("keys.s3={type: api_key, source: 'env:A'}", "keys.s3.source", "access_key_id, secret_access_key"),
    ("keys.redis={type: password, fields: {pasword: 'env:A'}}", "keys.redis.fields", "must be the fields password"),
    ("schedule.timezone=Mars/Base", "schedule.timezone", "is no time zone"),
    ("schedule.day_start=24:00", "schedule.day_start", 'time of day, "HH:MM"'),
    ("health.address=8080", "health.address", "must be text"),
    ("health.address=localhost", "health.address", "HOST:PORT"),
    ("health.address=127.0.0.1:70000", "health.address", "HOST:PORT"),
    ("keys.kalshi={type: api_key}", "keys.kalshi.source", "a required key needs a source"),
    ("keys.kalshi={type: zip, source: 'env:A'}", "keys.kalshi.type", "must be api_key, password or token"),
    ("keys.kalshi={type: api_key, source: 'env:A', fields: {a: 'env:B'}}", "keys.kalshi", "both source and fields"),
    ("keys.kalshi={type: api_key, source: 'env:A', fields: [a, b]}", "keys.kalshi.fields", "lists 2 fields"),
    ("keys.kalshi={type: api_key, source: 'vault:A'}", "keys.kalshi.source", "must be a reference"),
    ("keys.kalshi={type: api_key, source: 'env:A', rotation_days: 0}", "keys.kalshi.rotation_days", "at least 1"),
]


@pytest.mark.parametrize(("setting", "path", "words"), RULES, ids=[f"{rule[0]}->{rule[1]}" for rule in RULES])
def test_a_wrong_value_is_refused_at_its_key_with_a_remedy(setting: str, path: str, words: str) -> None:
    found = refused(SMALLEST, setting)
    assert words in found[path]


REAL = SMALLEST.replace("exchange: {simulator: {}}", "exchange: {websocket_url: 'wss://a.example/ws'}")


@pytest.mark.parametrize(
    ("setting", "path", "words"),
    [
        ("exchange.websocket_url=ws://a.example/ws", "exchange.websocket_url", "ws:// is for this machine"),
        ("exchange.websocket_url=https://a.example", "exchange.websocket_url", "must start with wss://"),
        ("exchange.websocket_url=a.example", "exchange.websocket_url", "is no URL"),
        ("exchange.websocket_url=wss://a.example:x/", "exchange.websocket_url", "is no URL"),
        ("exchange.rest_url=http://a.example", "exchange.rest_url", "http:// is for this machine"),
        ("exchange.proxy=socks5://a.example:1", "exchange.proxy", "must start with http://"),
        ("exchange.proxy=http://user:pass@a.example:1", "exchange.proxy", "no user name or password"),
        ("subscriptions.0={channels: [trade], series: [A]}", "exchange.rest_url", "subscriptions[0] needs it"),
        ("subscriptions.0={channels: [trade], events: [A]}", "exchange.rest_url", "subscriptions[0] needs it"),
    ],
)
def test_a_real_exchange_is_reached_by_tls_only(setting: str, path: str, words: str) -> None:
    assert words in refused(REAL, setting)[path]


@pytest.mark.parametrize("url", ["ws://127.0.0.1:9/x", "ws://localhost:9/x", "ws://[::1]:9/x", "ws://127.8.8.8/x"])
def test_this_machine_may_be_reached_without_tls(url: str) -> None:
    assert parse(REAL, f"exchange.websocket_url={url}").exchange.websocket_url == url


@pytest.mark.parametrize(
    ("setting", "keys"),
    [
        ("keys.nats={type: password, fields: {user: 'env:A', password: 'env:B'}}", {"user", "password"}),
        ("keys.nats={type: token, source: 'env:A'}", {"value"}),
        ("keys.nats={type: token, fields: {creds: 'file:/c'}}", {"creds"}),
        ("keys.redis={type: password, source: 'env:A'}", {"value"}),
        ("keys.s3={type: api_key, source: 'env:A,B', fields: [access_key_id, secret_access_key]}",
         {"access_key_id", "secret_access_key"}),
    ],
)  # fmt: skip
def test_credentials_of_services_have_the_fields_that_their_service_asks_for(setting: str, keys: set[str]) -> None:
    (key,) = parse(SMALLEST, setting).keys.values()
    assert set(key.sources) == keys


def test_an_object_store_of_this_machine_may_be_reached_without_tls() -> None:
    found = parse(SMALLEST, "storage={type: s3, bucket: b, region: r, endpoint: 'http://127.0.0.1:9'}")
    assert found.storage.endpoint == "http://127.0.0.1:9"


def test_a_folder_whose_name_begins_like_the_data_folder_may_be_the_archive() -> None:
    found = parse(SMALLEST, "storage={path: /d, archive: /d-copy, retain_days: 0.5, prefix: a/b}")
    assert (found.storage.archive, found.storage.retain_days) == (Path("/d-copy"), 0.5)


IN_MEMORY = [f"{section}.type=memory" for section in ("transport", "storage", "cache", "journal")]


def test_an_environment_whose_four_services_are_in_memory_is_a_rehearsal() -> None:
    found = parse(SMALLEST, *IN_MEMORY)
    assert found.rehearsal and env.unserved(found) == []
    assert not parse().rehearsal


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["storage.type=memory"], {"journal.type": "(found 'file')"}),
        ([*IN_MEMORY, "transport={type: nats, url: 'nats://h'}"], {"transport.type": "(found 'nats')"}),
        ([*IN_MEMORY, "cache={type: redis, url: 'redis://h'}", "journal.type=file"],
         {"cache.type": "(found 'redis')", "journal.type": "(found 'file')"}),
        (["journal.type=memory"], {"journal.type": "must outlive the recorder"}),
        (["storage={type: s3, bucket: b, region: r}", "journal.type=memory"], {"journal.type": "must outlive"}),
    ],
)  # fmt: skip
def test_a_run_keeps_what_it_records_or_is_a_rehearsal_from_end_to_end(
    settings: list[str], told: dict[str, str]
) -> None:
    problems = {env.key_text(problem.path): problem.sentence for problem in env.unserved(parse(SMALLEST, *settings))}
    assert problems.keys() == told.keys()
    for key, words in told.items():
        assert words in problems[key]


def test_a_rehearsal_may_have_the_keys_of_the_services_that_it_does_without() -> None:
    """--rehearse sets the four types and leaves the rest of the file as it is."""
    found = parse(
        SMALLEST, "transport={type: nats, url: 'nats://h', publish: both}", "cache={type: redis, url: 'redis://h'}",
        "storage={type: s3, bucket: b, region: r, prefix: p, retain_days: 1, archive: /a}", *IN_MEMORY,
    )  # fmt: skip
    assert env.unserved(found) == [] and found.transport.publish == "both" and found.storage.prefix == "p"


def test_segments_of_a_rehearsal_are_small_and_those_of_no_other_run() -> None:
    rehearsed = parse(SMALLEST, *IN_MEMORY)
    assert (rehearsed.flushing.rotate_minutes, rehearsed.flushing.rotate_bytes) == (1, 16 << 20)
    assert (rehearsed.flusher.rotate_minutes, rehearsed.flusher.rotate_bytes) == (60, 256 << 20)
    assert parse(SMALLEST, *IN_MEMORY, "flusher.rotate_bytes=65536").flushing.rotate_bytes == 65536
    assert parse().flushing == parse().flusher


def test_the_folder_that_a_rehearsal_will_make_is_not_described() -> None:
    assert "path" not in yaml.safe_load(env.describe(parse(SMALLEST, *IN_MEMORY)))["storage"]
    described = yaml.safe_load(env.describe(parse(SMALLEST, *IN_MEMORY, "storage.path=/d")))
    assert described["storage"]["path"] == "/d"
    assert parse(yaml.safe_dump(described)).storage.path == Path("/d")


def test_whether_the_folder_of_the_journal_was_given_is_known() -> None:
    assert not parse().storage.path_is_given
    assert not parse(SMALLEST, "storage.type=memory").storage.path_is_given
    assert parse(SMALLEST, "storage.path=/d").storage.path_is_given
    assert parse(SMALLEST).storage.path == parse(SMALLEST, "storage.path=data").storage.path


def test_no_key_switches_the_check_of_certificates_off() -> None:
    assert set(env.Exchange.model_fields) == {"websocket_url", "rest_url", "ca_file", "proxy", "simulator"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("- a\n", "must be a mapping"),
        ("a: [", "line 1, column 5: is no YAML"),
        ("a: *b", "line 1: aliases"),
        ("a: &a\n  b: *a", "line 2: aliases"),
        ("a: !!python/object:os.system {}", "is no YAML"),
        ("\0", "is no YAML"),
    ],
)
def test_a_text_that_is_no_mapping_is_refused(text: str, words: str) -> None:
    assert words in refused(text)[""]


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    assert (
        refused(SMALLEST + "shard:\n  index: 0\n  index: 0\n")[""]
        == "line 9: the key 'index' stands here a second time"
    )


# ---- --set -----------------------------------------------------------------------------------------------------------


def test_a_set_value_replaces_that_of_the_file() -> None:
    found = parse(SMALLEST + "flusher: {nap_us: 7}\n", "flusher.nap_us=100", "exchange.simulator.tls=true")
    assert found.flusher.nap_us == 100
    assert found.exchange.simulator == env.Simulator(tls=True)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("flusher.nap_us", "wants key.path=value"),
        ("=5", "wants key.path=value"),
        ("a..b=5", "wants key.path=value"),
        ("name.x=5", "is no key of a mapping"),
        ("subscriptions.7.all=true", "is no key of a mapping"),
        ("flusher.nap_us=[", "the value of --set"),
    ],
)
def test_a_setting_that_cannot_be_placed_is_refused(setting: str, words: str) -> None:
    assert any(words in sentence for sentence in refused(SMALLEST, setting).values())


# ---- the ring's file -------------------------------------------------------------------------------------------------


def test_the_ring_stands_in_memory_under_the_name_and_the_data_folder() -> None:
    """sha256(b'/work-here/data') begins with 7ee7ba09."""
    assert env.ring_path(parse()) == Path("/dev/shm/ssmd-small-7ee7ba09.ring")


def test_another_data_folder_has_another_ring() -> None:
    assert env.ring_path(parse(SMALLEST, "storage.path=/a")) != env.ring_path(parse(SMALLEST, "storage.path=/b"))


def test_without_shared_memory_the_ring_stands_beside_the_data() -> None:
    machine = env.Machine(MACHINE.absolute, None, MACHINE.has_timezone)
    assert env.ring_path(parse(machine=machine)) == Path("/work-here/data/kalshi/ring")


def test_the_same_data_folder_has_the_same_ring_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    written = ["real", "./real/", "link", str(tmp_path / "real"), "../" + tmp_path.name + "/real"]
    assert len({env.ring_path(host.load("kalshi-local", data=folder)) for folder in written}) == 1


def test_a_ring_path_of_the_file_counts() -> None:
    assert env.ring_path(parse(SMALLEST, "ring.path=x/ring")) == Path("/work-here/x/ring")


# ---- the simulator's flags -------------------------------------------------------------------------------------------


SIMULATOR = env.Simulator(
    markets=3, rate=50.5, seed=9, port=1, tls=True, profile="old", frames=Path("/f"), loop=True, ledger=Path("/l"),
    faults=("stall@3s", "reset"), ping_interval=0.5, connection_limit=7,
)  # fmt: skip


def test_each_key_of_the_simulator_is_a_flag_of_the_same_name() -> None:
    assert env.simulator_arguments(SIMULATOR) == [
        "--markets", "3", "--rate", "50.5", "--seed", "9", "--port", "1", "--tls", "--profile", "old", "--frames", "/f",
        "--loop", "--ledger", "/l", "--fault", "stall@3s", "--fault", "reset", "--ping-interval", "0.5",
        "--connection-limit", "7",
    ]  # fmt: skip


@pytest.mark.parametrize("section", [SIMULATOR, env.Simulator()], ids=["all", "defaults"])
def test_the_simulator_understands_the_flags_as_they_were_meant(section: env.Simulator) -> None:
    understood = vars(command.parser().parse_args(env.simulator_arguments(section)))
    meant = section.model_dump()
    meant["fault"] = list(meant.pop("faults"))
    assert {name: understood[name] for name in meant} == meant


def test_the_simulator_has_the_same_defaults() -> None:
    understood = vars(command.parser().parse_args([]))
    defaults = env.Simulator().model_dump()
    defaults["fault"] = list(defaults.pop("faults"))
    assert {name: understood[name] for name in defaults} == defaults


# ---- secrets ---------------------------------------------------------------------------------------------------------

PEM = "-----BEGIN " + "PRIVATE KEY-----\nabc"  # in two pieces, so that no search for keys finds it


def test_a_key_with_fields_has_a_source_for_each() -> None:
    text = SMALLEST + "keys: {kalshi: {type: api_key, fields: {key_id: {source: 'env:A'}, private_key: 'file:/b'}}}"
    assert parse(text).keys["kalshi"].sources == {"key_id": "env:A", "private_key": "file:/b"}


def test_a_list_of_fields_takes_the_variables_in_order() -> None:
    text = SMALLEST + "keys: {kalshi: {type: api_key, source: 'env:A,B', fields: [key_id, private_key]}}"
    assert parse(text).keys["kalshi"].sources == {"key_id": "env:A", "private_key": "env:B"}


def test_a_key_without_fields_has_one_value() -> None:
    assert parse(SMALLEST, "keys.x={type: token, source: 'env:A,B'}").keys["x"].sources == {"value": "env:A,B"}


def test_a_key_that_is_not_required_needs_no_source() -> None:
    assert parse(SMALLEST, "keys.x={type: token, required: false}").keys["x"].sources == {}


@pytest.mark.parametrize(
    "setting",
    [
        "keys.x={type: token, source: hunter2}",
        "keys.x={type: token, source: 'env:hunter2 '}",
        "keys.x={type: token, value: hunter2}",
        "keys.x={type: hunter2}",
        "keys.x=hunter2",
        "exchange.proxy=http://me:hunter2@p.example",
        "cache.url=redis://:hunter2@h",
        "apikey=hunter2",
        "hunter2",
    ],
)
def test_what_may_be_a_secret_is_not_repeated(setting: str) -> None:
    with pytest.raises(env.InvalidEnvironment) as caught:
        parse(SMALLEST, setting)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["hunter2]", "!hunter2 x", "*hunter2", "&hunter2 &hunter2 a", "@hunter2", "'hunter2"])
def test_a_text_that_is_no_yaml_is_not_quoted(value: str) -> None:
    with pytest.raises(env.InvalidEnvironment) as caught:
        parse(f"keys: {{source: {value}\n")
    assert "hunter2" not in str(caught.value)


def test_a_pasted_private_key_is_refused_and_not_repeated() -> None:
    text = yaml.safe_dump({**yaml.safe_load(SMALLEST), "keys": {"x": {"type": "token", "description": PEM}}})
    with pytest.raises(env.InvalidEnvironment) as caught:
        parse(text)
    assert "keys.x.description: looks like a secret" in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_pasted_key_id_is_refused() -> None:
    key_id = "01234567-89ab-cdef-0123-456789abcdef"
    assert "looks like a secret" in refused(SMALLEST, f"keys.x.description={key_id}")["keys.x.description"]


def test_a_key_id_in_the_name_of_a_file_is_none() -> None:
    path = "file:/tmp/01234567-89ab-cdef-0123-456789abcdef.pem"
    assert parse(SMALLEST, f"keys.x={{type: token, source: '{path}'}}").keys["x"].sources == {"value": path}


def resolve(source: str, variables: dict[str, str], files: dict[str, tuple[str, int]] | None = None) -> str | None:
    return env.resolve_secret(source, variable=variables.get, read=lambda path: (files or {})[path])


def test_the_first_variable_that_is_set_counts() -> None:
    assert resolve("env:A,B,C", {"A": "", "B": "two", "C": "three"}) == "two"


def test_no_variable_set_is_no_secret() -> None:
    assert resolve("env:A,B", {}) is None


def test_a_variable_that_ends_in_path_names_a_file() -> None:
    assert resolve("env:KEY,KEY_PATH", {"KEY_PATH": "/k.pem"}, {"/k.pem": (PEM, 0o600)}) == PEM


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o601, 0o620])
def test_a_file_that_others_may_touch_is_refused_with_the_remedy(mode: int) -> None:
    with pytest.raises(UsageError) as caught:
        resolve("file:/my key.pem", {}, {"/my key.pem": (PEM, mode)})
    assert "chmod 600 '/my key.pem'" in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_our_own_is_read(mode: int) -> None:
    assert resolve("file:/k.pem", {}, {"/k.pem": (PEM, mode)}) == PEM


def test_an_empty_file_is_no_secret() -> None:
    with pytest.raises(UsageError, match="is empty"):
        resolve("file:/k", {}, {"/k": ("\n", 0o600)})


# ---- this machine ----------------------------------------------------------------------------------------------------


def test_a_secret_file_is_read_with_the_mode_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.pem"
    key.write_text(PEM)
    monkeypatch.setenv("TEST_KEY_PATH", str(key))
    key.chmod(0o600)
    assert host.secret("env:TEST_KEY_PATH") == PEM
    key.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        host.secret("env:TEST_KEY_PATH")


def test_a_missing_secret_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KALSHI_API_KEY", "KALSHI_PRIVATE_KEY", "KALSHI_PRIVATE_KEY_PATH"):
        monkeypatch.delenv(name, raising=False)
    read = host.secret_reader(host.load("kalshi-dev"))
    with pytest.raises(UsageError) as caught:
        read("kalshi", "private_key")
    assert "set KALSHI_PRIVATE_KEY or KALSHI_PRIVATE_KEY_PATH" in str(caught.value)


def test_a_secret_that_cannot_be_read_is_named_by_its_key_and_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KALSHI_PRIVATE_KEY", raising=False)
    monkeypatch.setenv("KALSHI_PRIVATE_KEY_PATH", "/there/is/no/such.pem")
    with pytest.raises(UsageError) as caught:
        host.secret_reader(host.load("kalshi-dev"))("kalshi", "private_key")
    for named in ("keys.kalshi.private_key", "KALSHI_PRIVATE_KEY_PATH", "/there/is/no/such.pem"):
        assert named in str(caught.value)


def test_an_environment_without_the_key_says_so() -> None:
    with pytest.raises(UsageError, match=r"has no keys\.kalshi\.key_id"):
        host.secret_reader(host.load("kalshi-local"))("kalshi", "key_id")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        host.load("kalshi-lokal")
    assert "kalshi-dev, kalshi-local, kalshi-loopback, kalshi-prod, kalshi-rehearsal" in str(caught.value)


def test_the_folder_environments_where_we_stand_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "environments").mkdir()
    mine = tmp_path / "environments" / "kalshi-local.yaml"
    mine.write_text(SMALLEST.replace("name: small", "name: kalshi-local"))
    monkeypatch.chdir(tmp_path)
    assert host.find("kalshi-local") == mine


@pytest.mark.parametrize("folder", ["plain", "it's", "a: b", "[x]", "5", "true", "a\nb", "é😀"])
def test_data_is_a_folder_whatever_it_is_called(folder: str, tmp_path: Path) -> None:
    assert host.load("kalshi-local", data=tmp_path / folder).storage.path == tmp_path / folder


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        host.load(str(tmp_path))
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        host.load(tmp_path / "x.yaml")


# ---- describe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kalshi-local", "kalshi-dev", "kalshi-prod"])
def test_what_describe_prints_is_the_same_environment(name: str) -> None:
    found = host.load(name)
    assert env.parse(env.describe(found), host.machine(), source="again", stem=name) == found


def test_describe_prints_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALSHI_API_KEY", "hunter2")
    assert "hunter2" not in env.describe(host.load("kalshi-dev"))


# ---- anything at all -------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        "name", "feed", "schema", "keys", "keys.k", "keys.k.fields", "keys.k.source", "exchange", "exchange.simulator",
        "exchange.websocket_url", "exchange.proxy", "subscriptions", "subscriptions.0", "subscriptions.0.channels",
        "shard", "shard.index", "ring", "ring.size_bytes", "max_frame_bytes", "flusher.rotate_minutes", "transport",
        "storage", "storage.path", "storage.endpoint", "cache.url", "schedule.timezone", "health.address",
        "connector.reconnect", "connector.reconnect.min_ms", "unknown",
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PATHS, VALUES), min_size=1, max_size=4))
def test_any_value_at_any_key_is_accepted_or_refused_but_never_breaks_the_parser(
    changes: list[tuple[str, object]],
) -> None:
    settings_ = [f"{path}={yaml.safe_dump(value, default_flow_style=True)}" for path, value in changes]
    try:
        parse(SMALLEST, *settings_)
    except env.InvalidEnvironment as error:
        assert error.problems


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=" \n\t:-[]{}#&*!|>'\"%@`,?ab01.~\0\ufeff", max_size=60))
def test_any_text_is_accepted_or_refused_but_never_breaks_the_parser(text: str) -> None:
    with pytest.raises(env.InvalidEnvironment):
        parse(text)


def test_the_real_machine_has_what_an_environment_asks_for() -> None:
    machine = host.machine()
    assert machine.has_timezone("America/New_York")
    assert not machine.has_timezone("../../etc/passwd")
    assert machine.shared_memory in (None, Path("/dev/shm"))


# ---- the documentation -----------------------------------------------------------------------------------------------


def keys_of(section: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Key path -> default as the documentation writes it, of everything but `keys`."""
    found: dict[str, str] = {}
    for name, field in section.model_fields.items():
        path = prefix + (field.alias or name)
        inner = next((kind for kind in (field.annotation, *get_args(field.annotation)) if is_section(kind)), None)
        if path == "keys":
            found[path] = "none"
        elif path == "subscriptions":
            found |= keys_of(env.Subscription, "subscriptions[].")
        elif inner is not None and path != "exchange.simulator":
            found |= keys_of(inner, f"{path}.")
        elif inner is not None:
            found |= {path: "none"} | keys_of(inner, f"{path}.")
        else:
            found[path] = "-" if field.is_required() else written(field.default)
    return found


def is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def written(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default in (None, (), "") else str(default)


def test_the_documentation_lists_every_key_with_its_default(repository: Path) -> None:
    table = (repository / "docs" / "environment.md").read_text().partition("| key | default | what |")[2]
    rows = [line.split("|") for line in table.partition("\n\n")[0].splitlines() if line.startswith("| `")]
    documented = {row[1].strip(" `"): row[2].strip() for row in rows}
    # these two depend on other keys
    expected = keys_of(env.Environment) | {"ring.path": "see below", "exchange.websocket_url": "-"}
    assert documented == expected


def test_the_settings_of_services_that_are_not_used_are_not_shown() -> None:
    shown = yaml.safe_load(env.describe(parse()))
    assert shown["transport"] == {"type": "memory"} and shown["cache"] == {"type": "memory"}
    shown = yaml.safe_load(env.describe(parse(SMALLEST, "transport.stream=MINE")))
    assert shown["transport"] == {"type": "memory", "stream": "MINE"}


def test_a_process_that_has_no_use_for_a_key_is_not_given_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that another key names too is kept: that key may be what the process is for."""
    for name in ("EXCHANGE_ID", "EXCHANGE_KEY", "SHARED", "BUS", "OTHER"):
        monkeypatch.setenv(name, "x")
    environment = parse(
        SMALLEST
        + """
keys:
  kalshi:
    type: api_key
    fields:
      key_id: {source: "env:EXCHANGE_ID,SHARED"}
      private_key: {source: "env:EXCHANGE_KEY"}
  bus: {type: token, source: "env:BUS,SHARED"}
"""
    )
    given_to = host.variables_without(environment, ["kalshi"])
    assert {name for name in ("EXCHANGE_ID", "EXCHANGE_KEY", "SHARED", "BUS", "OTHER") if name in given_to} == {
        "SHARED",
        "BUS",
        "OTHER",
    }
    assert "BUS" not in host.variables_without(environment, environment.keys)
