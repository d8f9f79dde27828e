"""Runs a measurement in processes by turns: with interpreted modules, and with compiled ones.

A module that measures calls :func:`main` with its name, its description and a function that
returns figures by what they are of. The processes are made with ``--once``.
"""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
COMPILED: Final = ROOT / "build" / "compiled"
_ROUNDS: Final = 7

Figures = dict[str, float]
"""What a call takes, by what is done with it, with the unit: ``read, µs of CPU``."""


def main(module: str, description: str | None, measure: Callable[[], Figures]) -> None:
    """Measure and print, or with ``--once`` measure in this process and print JSON."""
    arguments = ArgumentParser(prog=f"python -m {module}", description=description)
    arguments.add_argument("--rounds", type=int, default=_ROUNDS)
    arguments.add_argument("--once", action="store_true", help="measure here, print JSON")
    options = arguments.parse_args()
    if options.once:
        print(json.dumps(measure()))
        return
    if not COMPILED.exists():
        sys.exit(f"{COMPILED} is missing; make test-compiled TESTS=tests/test_compiled.py makes it")
    builds = {"interpreted": ROOT, "compiled": COMPILED}
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for name, tree in builds.items():
            for what, figure in _measured_in(tree, module).items():
                found[what, name].append(figure)
    for (what, name), figures in found.items():
        spread = f"{min(figures):.2f} to {max(figures):.2f}"
        print(f"{what}, {name}: {median(figures):.2f} ({spread})")
    for what in dict.fromkeys(what for what, _ in found):
        ratio = median(found[what, "compiled"]) / median(found[what, "interpreted"])
        print(f"{what}, ratio: {ratio:.2f}")


def _measured_in(tree: Path, module: str) -> Figures:
    """Measure in a process whose modules are those of a tree."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--once"],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    figures: Figures = json.loads(done.stdout)
    return figures
