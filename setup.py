"""Build of the C library through cffi, and of the data files; everything else stands in pyproject.toml.

schemas/ and environments/ are folders of the repository. A wheel carries copies of them inside the package; an
editable installation uses those of the repository (ssmd.records and ssmd.host look in both places).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
DATA = ("schemas/*.capnp", "environments/*.yaml")


class AbiWheel(bdist_wheel):
    """One wheel for every CPython from 3.11 on: the module keeps to the limited API."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.py_limited_api = "cp311"


class PathEditable(editable_wheel):
    """Editable by a line with the repository's folder, unless a mode is asked for.

    The usual import hook comes after the path: where a script lies beside a clone named ssmd, `import ssmd` would
    find that folder as a namespace package, which is empty.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        self.mode = self.mode or "compat"


class BuildWithData(build_py):
    """Copies the data files into the package that is being built."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._data():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self._data())]

    def _data(self) -> list[tuple[Path, Path]]:
        package = Path(self.build_lib) / "ssmd"
        return [(path, package / path.relative_to(ROOT)) for pattern in DATA for path in sorted(ROOT.glob(pattern))]


setup(
    cffi_modules=["csrc/build_ffi.py:ffibuilder"],
    cmdclass={"bdist_wheel": AbiWheel, "build_py": BuildWithData, "editable_wheel": PathEditable},
)
