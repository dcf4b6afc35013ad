"""Build of the C library through cffi; everything else about the package stands in pyproject.toml."""

from setuptools import setup

try:
    from wheel.bdist_wheel import bdist_wheel
except ImportError:  # setuptools >= 70.1 carries its own
    from setuptools.command.bdist_wheel import bdist_wheel


class AbiWheel(bdist_wheel):
    """One wheel for every CPython from 3.11 on: the module keeps to the limited API."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.py_limited_api = "cp311"


setup(cffi_modules=["csrc/build_ffi.py:ffibuilder"], cmdclass={"bdist_wheel": AbiWheel})
