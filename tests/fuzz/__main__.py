"""``python -m tests.fuzz``: runs fuzz targets with atheris, each in a process of its own.

``FUZZ_SECONDS`` is the time for each target (60 by default), or ``FUZZ_RUNS`` the number of its
cases. Without names it runs all targets. Cases that found something new are kept in
tests/fuzz/.corpus, findings in tests/fuzz/.findings.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / ".corpus"
FINDINGS: Final = HERE / ".findings"
NAMES: Final = ("frames", "hpack", "interception", "config", "audit-log", "recorder-channel")
MAX_CASE: Final = 1 << 16
CASE_SECONDS: Final = 60
MEMORY_MIB: Final = 2048
_STAT: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def main(names: list[str]) -> int:
    """Run the targets and print a table; return 1 if there was a finding."""
    FINDINGS.mkdir(exist_ok=True)
    failed = False
    print(f"{'target':<18}{'cases':>12}  result", flush=True)
    for name in names or NAMES:
        cases, code, output = _run(name)
        failed = failed or code != 0
        print(f"{name:<18}{cases:>12,}  {'ok' if code == 0 else 'FINDING'}", flush=True)
        if code:
            print("\n".join(output.splitlines()[-40:]), flush=True)
    return 1 if failed else 0


def _run(name: str) -> tuple[int, int, str]:
    """Run a target; return how many cases it tried, its exit status and its output."""
    command = [sys.executable, "-m", "tests.fuzz", "--target", name]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = ran.stdout.decode(errors="replace")
    found = _STAT.search(output)
    return int(found[1]) if found else 0, ran.returncode, output


def _target(name: str) -> None:
    """Run a target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["criproxy"]):
        from tests.fuzz.targets import TARGETS, corpus
    directory = CORPUS / name
    directory.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(corpus(name)):
        (directory / f"seed-{number}").write_bytes(case[:MAX_CASE])
    runs = os.environ.get("FUZZ_RUNS")
    seconds = os.environ.get("FUZZ_SECONDS", "60")
    limit = f"-runs={runs}" if runs else f"-max_total_time={seconds}"
    options = [
        limit,
        f"-max_len={MAX_CASE}",
        f"-timeout={CASE_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={FINDINGS}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(directory)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        _target(sys.argv[2])
    else:
        sys.exit(main(sys.argv[1:]))
