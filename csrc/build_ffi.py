"""Builds `ssmd._native` (cffi, API mode). The declarations stand in csrc/cdef/*.h, one file per part."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
HEADERS = sorted(p.name for p in ROOT.glob("*.h"))
SOURCES = sorted(p.relative_to(ROOT.parent).as_posix() for p in ROOT.glob("*.c"))

WARNINGS = ["-Wall", "-Wextra"]
FLAGS = ["-std=gnu11", "-O3", "-fvisibility=hidden", "-fno-semantic-interposition", "-pthread"]

ffibuilder = FFI()
for declaration in sorted((ROOT / "cdef").glob("*.h")):
    ffibuilder.cdef(declaration.read_text())

ffibuilder.set_source(
    "ssmd._native",
    "".join(f'#include "{name}"\n' for name in HEADERS if not name.endswith("_internal.h")),
    sources=SOURCES,
    include_dirs=[ROOT.relative_to(ROOT.parent).as_posix()],
    extra_compile_args=FLAGS + WARNINGS + os.environ.get("SSMD_CFLAGS", "").split(),
    extra_link_args=["-pthread"] + os.environ.get("SSMD_LDFLAGS", "").split(),
    py_limited_api=not sysconfig.get_config_var("Py_GIL_DISABLED"),
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
