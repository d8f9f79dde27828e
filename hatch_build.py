"""Records the commit in wheels and sdists, and compiles modules of a wheel where that is possible.

``criproxy/common/commit.txt`` is written to what is built; an sdist passes it on to its wheel.

The environment variable CRIPROXY_COMPILE decides: ``1`` compiles or fails, ``0`` does not compile.
Without it, modules are compiled if there are a C compiler and Python's headers; if there are not,
or if the compilation fails, the wheel has the same modules interpreted, and a line says so.

The modules are those of ``compiled`` in pyproject.toml. hatch-mypyc is not used because it fails
where there is no compiler, and installs mypy also where nothing is compiled.
"""

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SETUP: Final = """
import json, sys
from mypyc.build import mypycify
from setuptools import setup
arguments = json.loads(sys.argv.pop())
modules = mypycify(arguments, group_name="criproxy", opt_level="3", debug_level="0")
setup(name="criproxy", packages=[], ext_modules=modules)
"""


_MYPY: Final = (
    "--config-file=",
    "--no-site-packages",
    "--follow-imports=silent",
    "--ignore-missing-imports",
)
"""What is compiled does not depend on the packages that are installed where it is built: their
types are unknown, which the project's own, strict settings take for errors."""

_COMMIT: Final = "criproxy/common/commit.txt"


class BuildHook(BuildHookInterface[Any]):
    """Adds the commit, and to a wheel the extension modules, beside their sources."""

    PLUGIN_NAME = "custom"

    _directory: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Return what compiles, if anything will be compiled."""
        compilers: list[str] = self.config.get("compilers", [])
        return compilers if _missing() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Record the commit; compile a wheel's modules, and tag it for this interpreter and
        platform."""
        if version == "editable":
            return
        self._directory = tempfile.TemporaryDirectory(prefix="criproxy-build-")
        directory = Path(self._directory.name)
        self._record_commit(directory, build_data)
        if self.target_name != "wheel":
            return
        missing = _missing()
        if missing is None:
            try:
                built = self._compile(directory)
            except subprocess.CalledProcessError as error:
                missing = f"the compilation failed:\n{error.stdout}"
        if missing is not None:
            if os.environ.get("CRIPROXY_COMPILE") == "1":
                raise SystemExit(f"CRIPROXY_COMPILE=1, but {missing}")
            self.app.display_warning(f"criproxy is built interpreted: {missing}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update(built)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the files that are in the archive now."""
        if self._directory is not None:
            self._directory.cleanup()

    def _record_commit(self, directory: Path, build_data: dict[str, Any]) -> None:
        """Add the commit of a checkout; an sdist has the file already."""
        found = runpy.run_path(str(Path(self.root) / "criproxy/common/commit.py"))
        commit: str | None = found["commit_of_checkout"](Path(self.root))
        if commit is not None:
            (directory / "commit.txt").write_text(f"{commit}\n", encoding="ascii")
            build_data["force_include"][str(directory / "commit.txt")] = _COMMIT

    def _compile(self, directory: Path) -> dict[str, str]:
        """Compile in a new directory; return the extension modules and their paths in the wheel."""
        root = Path(self.root)
        shutil.copytree(root / "criproxy", directory / "criproxy")
        modules = sorted(
            str(path.relative_to(root))
            for pattern in self.config["compiled"]
            for path in root.glob(pattern)
        )
        arguments = json.dumps([*_MYPY, *modules])
        subprocess.run(
            [sys.executable, "-c", _SETUP, "build_ext", "--inplace", arguments],
            cwd=directory,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        found = [*directory.glob(f"*{suffix}"), *directory.glob(f"criproxy/**/*{suffix}")]
        return {str(path): str(path.relative_to(directory)) for path in found}


def _missing() -> str | None:
    """Return why nothing is to be compiled; None if it is."""
    if os.environ.get("CRIPROXY_COMPILE") == "0":
        return "CRIPROXY_COMPILE=0"
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(shlex.split(compiler)[0]) is None:
        return f"there is no C compiler ({compiler})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers are missing (Debian's package python3-dev)"
    return None
