"""The wheel: one for every CPython from 3.11 on, complete, and importable where the repository is not.

And the editable installation that `make` makes, importable wherever a program lies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel


def copy_sources(repository: Path, source: Path) -> None:
    """What git tracks, so that nothing of this checkout leaks in."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.split("\0")):
        if (repository / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, source / name)


def new_environment(folder: Path) -> tuple[Path, Path]:
    """Its Python and its site-packages. It borrows the dependencies of this one, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=300)
    site = next((folder / "lib").glob("python*/site-packages"))
    # A path line adds a folder, but not the folder's own path lines: the editable ssmd stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python", site


def install(python: Path, *what: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, "--no-build-isolation", *what], check=True, timeout=600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Built from a copy, without network."""
    source = tmp_path_factory.mktemp("source")
    copy_sources(repository, source)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True, timeout=600)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_is_for_every_python_from_3_11(wheel: Path) -> None:
    assert "-cp311-abi3-linux_" in wheel.name


def test_the_wheel_carries_the_data_files_and_no_others(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("schemas", "*.capnp"), ("environments", "*.yaml")):
        expected = {f"ssmd/{folder}/{path.name}" for path in (repository / folder).glob(pattern)}
        assert {name for name in names if name.startswith(f"ssmd/{folder}/")} == expected
    assert {name.partition("/")[0] for name in names} == {
        "ssmd",
        next(n for n in names if ".dist-info" in n).split("/")[0],
    }


def test_the_wheel_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """Installed into a new environment that borrows only the dependencies of this one."""
    python, site = new_environment(tmp_path / "venv")
    install(python, str(wheel))
    program = (
        "import ssmd._native, ssmd, json; from ssmd import host, records\n"
        "environment = host.load('kalshi-local')\n"
        "print(ssmd.__file__, environment.name)"
    )
    told = subprocess.run(
        [str(python), "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.split() == [str(site / "ssmd" / "__init__.py"), "kalshi-local"]
    told = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "ssmd"), "env", "list"], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert str(site / "ssmd" / "environments" / "kalshi-prod.yaml") in told.stdout


def test_a_program_beside_a_clone_named_ssmd_imports_the_package_and_not_the_folder(
    tmp_path: Path, repository: Path
) -> None:
    copy_sources(repository, tmp_path / "ssmd")
    python, _ = new_environment(tmp_path / "venv")
    install(python, "-e", str(tmp_path / "ssmd"))
    (tmp_path / "program.py").write_text("import ssmd, ssmd._native\nprint(ssmd.__file__, callable(ssmd.tail))\n")
    told = subprocess.run(
        [str(python), "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.split() == [str(tmp_path / "ssmd" / "ssmd" / "__init__.py"), "True"]
