"""Imports point downward, pure modules touch no machine, and every outside library has one door.

Each module of ssmd stands in the tables below; a new one must be given its place here. The checks read the source with
`ast`, so they see imports inside functions too. Facts: docs/development.md.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ssmd"

# A name stands for the module and for all below it, unless a longer name says otherwise.
LAYERS: dict[int, tuple[str, ...]] = {
    # 0: known to all
    0: ("ssmd", "ssmd.errors", "ssmd.units", "ssmd.report", "ssmd.terminal"),
    # 1: pure: bytes, times and facts of the machine are arguments
    1: (
        "ssmd.wire",
        "ssmd.records",
        "ssmd.normalizer",
        "ssmd.environment",
        "ssmd.exchange",
        "ssmd.helpers",
        "ssmd.book",
        "ssmd.quality",
        "ssmd.steps",
        "ssmd.tally",
        "ssmd.kalshi",
        "ssmd.middleware.etags",
        "ssmd.middleware.interfaces",
        "ssmd.middleware.journal_limits",
        "ssmd.middleware.keys",
        "ssmd.middleware.names",
        "ssmd.middleware.stored",
    ),
    # 2: adapters: each the only door to its library or to a part of the machine
    2: (
        "ssmd.native",
        "ssmd.latency",
        "ssmd.helperlog",
        "ssmd.host",
        "ssmd.schedule",
        "ssmd.journal",
        "ssmd.kalshi.client",
        "ssmd.kalshi.exchange",
        "ssmd.kalshi.handshake",
        "ssmd.kalshi.lookup",
        "ssmd.kalshi.reading",
        "ssmd.kalshi.rest",
        "ssmd.kalshi.tls",
        "ssmd.middleware",
    ),
    # 3: services
    3: (
        "ssmd.connector",
        "ssmd.store",
        "ssmd.children",
        "ssmd.health",
        "ssmd.metrics",
        "ssmd.status",
        "ssmd.flusher",
        "ssmd.archiver",
        "ssmd.auditor",
        "ssmd.against",
        "ssmd.copies",
        "ssmd.publisher",
        "ssmd.lastvalues",
        "ssmd.lastvalues.joined",
        "ssmd.consumer",
        "ssmd.rehearsal",
        "ssmd.secmaster",
        "ssmd.replay",
        "ssmd.export",
    ),
    # 4: wiring
    4: ("ssmd.__main__", "ssmd.api", "ssmd.cli", "ssmd.middleware.factory"),
}
MAINS = 4  # the layer of every __main__
WITNESS = "ssmd.simulator"  # shares nothing with what it tests
WITNESS_MAY_IMPORT = ("ssmd", "ssmd.errors", WITNESS)

# Outside library -> the modules that may import it.
DOORS: dict[str, tuple[str, ...]] = {
    "ssmd._native": ("ssmd.native",),
    "capnp": ("ssmd.records",),
    "configargparse": ("ssmd.cli.options", WITNESS),
    "cryptography": ("ssmd.kalshi.auth", WITNESS),
    "gevent": (
        "ssmd.__main__",
        "ssmd.cli.run",
        "ssmd.connector",
        "ssmd.children",
        "ssmd.health",
        "ssmd.kalshi.client",
        "ssmd.kalshi.handshake",
        "ssmd.kalshi.reading",
        "ssmd.kalshi.tls",
        WITNESS,
    ),
    "h11": (WITNESS,),
    "nats": ("ssmd.middleware.nats",),
    "obstore": ("ssmd.middleware.objectstore",),
    "prometheus_client": ("ssmd.metrics",),
    "pydantic": ("ssmd.environment",),
    "pydantic_core": ("ssmd.environment",),
    "redis": ("ssmd.middleware.redis",),
    "requests": ("ssmd.kalshi.rest",),
    "structlog": (
        "ssmd.cli",
        "ssmd.connector",
        "ssmd.store",
        "ssmd.flusher",
        "ssmd.archiver",
        "ssmd.kalshi.client",
        "ssmd.kalshi.exchange",
        "ssmd.kalshi.rest",
    ),
    "ujson": ("ssmd.normalizer", "ssmd.kalshi", "ssmd.cli.cat"),
    "websocket": ("ssmd.kalshi.client", "ssmd.kalshi.handshake"),
    "wsproto": (WITNESS,),
    "yaml": ("ssmd.environment",),
    "zstandard": ("ssmd.journal", "ssmd.archiver"),
}

# What reaches the machine: not for layers 0 and 1.
IMPURE_MODULES = frozenset(
    "asyncio fcntl glob io mmap multiprocessing os random secrets select selectors shutil signal socket socketserver "
    "ssl subprocess tempfile threading time urllib.request gevent _thread concurrent".split()
)
IMPURE_CALLS = frozenset(
    "open read_text read_bytes write_text write_bytes exists is_file is_dir iterdir glob rglob stat mkdir unlink "
    "rename now utcnow today uuid1 uuid4 input print".split()
)
# records finds its schema file once, at first use: the schema is part of the program.
MAY_READ_ITS_SCHEMA = "ssmd.records"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def is_below(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def layer_of(module: str) -> int | None:
    """The layer of the longest name that covers the module; `ssmd` covers only itself."""
    if module.endswith(".__main__"):
        return MAINS
    found = [
        (len(name), layer)
        for layer, names in LAYERS.items()
        for name in names
        if module == name or (name != "ssmd" and module.startswith(f"{name}."))
    ]
    return max(found)[1] if found else None


def imports_of(source: str) -> Iterator[str]:
    """Every module that a source imports, `from ssmd import host` as ssmd.host."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in SOURCES or full == "ssmd._native" else base


def upward_imports(module: str, source: str) -> list[str]:
    layer = layer_of(module)
    assert layer is not None
    return sorted({name for name in imports_of(source) if name in SOURCES and (layer_of(name) or 0) > layer})


def foreign_imports(source: str) -> set[str]:
    """Outside libraries by the names of DOORS."""
    found = set()
    for name in imports_of(source):
        top = name.partition(".")[0]
        if name == "ssmd._native" or name.startswith("ssmd._native."):
            found.add("ssmd._native")
        elif top != "ssmd" and top not in sys.stdlib_module_names:
            found.add(top)
    return found


def wrong_doors(module: str, source: str) -> list[str]:
    return sorted(name for name in foreign_imports(source) if not is_below(module, DOORS.get(name, ())))


def impurities(source: str) -> list[str]:
    found = {name for name in imports_of(source) if is_below(name, tuple(IMPURE_MODULES))}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in IMPURE_CALLS:
                found.add(f"{called}()")
    return sorted(found)


def patches_of(source: str) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("patch_all")
    ]


IN_LAYERS = [module for module in SOURCES if not is_below(module, (WITNESS,))]
PURE = [module for module in IN_LAYERS if layer_of(module) in (0, 1)]


@pytest.mark.parametrize("module", IN_LAYERS)
def test_a_module_has_a_layer_and_imports_only_downward(module: str) -> None:
    assert layer_of(module) is not None, f"give {module} a layer in the table above"
    assert upward_imports(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", list(SOURCES))
def test_an_outside_library_is_imported_at_its_door_only(module: str) -> None:
    assert wrong_doors(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_touches_no_machine(module: str) -> None:
    allowed = {"exists()", "is_file()", "is_dir()"} if module == MAY_READ_ITS_SCHEMA else set()
    assert set(impurities(SOURCES[module])) <= allowed


@pytest.mark.parametrize("module", [module for module in SOURCES if is_below(module, (WITNESS,))])
def test_the_simulator_shares_no_code_with_what_it_tests(module: str) -> None:
    ours = {name for name in imports_of(SOURCES[module]) if name in SOURCES}
    assert {name for name in ours if name not in WITNESS_MAY_IMPORT[:2] and not is_below(name, (WITNESS,))} == set()


@pytest.mark.parametrize("module", [module for module in IN_LAYERS if layer_of(module) == 3])
def test_a_service_names_no_implementation_of_the_middleware(module: str) -> None:
    named = {name for name in imports_of(SOURCES[module]) if is_below(name, ("ssmd.middleware",))}
    pure = {name for name in named if layer_of(name) == 1}
    assert named <= {"ssmd.middleware"} | pure


def test_only_programs_patch_the_standard_library() -> None:
    assert {module for module, source in SOURCES.items() if patches_of(source)} <= {
        "ssmd.__main__",
        "ssmd.simulator.__main__",
    }


# ---- the checks see what they are for --------------------------------------------------------------------------------


def test_an_upward_import_inside_a_function_is_seen() -> None:
    assert upward_imports("ssmd.records", "def late():\n    from ssmd import cli\n") == ["ssmd.cli"]


def test_a_library_at_the_wrong_door_is_seen() -> None:
    assert wrong_doors("ssmd.connector", "import capnp\nfrom ssmd._native import ffi\nimport numpy\n") == [
        "capnp",
        "numpy",
        "ssmd._native",
    ]


def test_a_clock_a_file_and_a_socket_are_seen_in_a_pure_module() -> None:
    source = "import socket\nfrom datetime import datetime\ndatetime.now()\nopen('x')\n"
    assert impurities(source) == ["now()", "open()", "socket"]


# ---- what could end a process of gevent ------------------------------------------------------------------------------

# Modules of the recorder that run on greenlets: they make records, and read none (docs/decisions/0011).
ON_GREENLETS = tuple(name for name in DOORS["gevent"] if name not in ("ssmd.__main__", WITNESS)) + (
    "ssmd.kalshi",
    "ssmd.normalizer",
    "ssmd.status",
    "ssmd.store",
    "ssmd.wire",
)
READING = frozenset({"read", "records", "to_json", "kind_of", "market_of", "headers_of"})


def record_readings(source: str) -> list[str]:
    """Uses of what `ssmd.records` offers to read records, and of readers of journals."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "records":
            found += [f"records.{node.attr}"] if node.attr in READING else []
        elif isinstance(node, ast.ImportFrom) and node.module == "ssmd.records":
            found += [f"records.{alias.name}" for alias in node.names if alias.name in READING]
        elif isinstance(node, ast.ImportFrom) and node.module in ("ssmd.journal.reader", "ssmd.journal.follow"):
            found.append(node.module)
    return found


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if is_below(name, ON_GREENLETS)))
def test_no_record_is_read_where_greenlets_run(module: str) -> None:
    assert record_readings(SOURCES[module]) == []


def test_a_reading_of_records_is_seen() -> None:
    assert record_readings("from ssmd import records\nrecords.read(b'')") == ["records.read"]
    assert record_readings("from ssmd.records import to_json") == ["records.to_json"]
    assert record_readings("from ssmd.journal.reader import Reader") == ["ssmd.journal.reader"]
    assert record_readings("from ssmd import records\nrecords.gap()") == []
