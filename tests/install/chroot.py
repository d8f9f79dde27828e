"""A stand-in for ``chroot DIR``: its systemctl starts the programs of units as processes.

It is called by a script that gives it the directory with its own files and the root. In there
``UNIT.pid`` has the process of a unit, and ``fail`` (if it exists) the words of a call that fails.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

LIMIT_SECONDS: Final = 120.0
CRIPROXY: Final = "criproxy.service"


def main(directory: Path, root: Path, program: str, words: list[str]) -> int:
    """Do what a program of the tree does with these words; return the exit status."""
    if program != "systemctl":
        assert program.endswith("/criproxy")
        assert words == ["upgrade", "-c", "/etc/criproxy/config.yaml"]
        command = [sys.executable, "-m", "criproxy", "upgrade", "-c", directory / "criproxy.yaml"]
        return subprocess.run(command, check=False).returncode
    return _systemctl(directory, root, words)


def _systemctl(directory: Path, root: Path, words: list[str]) -> int:
    failing = directory / "fail"
    if failing.exists() and failing.read_text() == " ".join(words):
        print(f"Job for {words[-1]} failed.", file=sys.stderr)
        return 1
    match words:
        case ["start", unit]:
            _start(directory, root, unit)
        case ["stop", unit]:
            _stop(directory, unit)
        case ["restart", unit]:
            _stop(directory, unit)
            _start(directory, root, unit)
        case ["show", "--property=MainPID", "--value", unit]:
            print(_pid(directory, unit))
        case ["daemon-reload"]:
            pass
        case _:
            print(f"unknown: {words}", file=sys.stderr)
            return 1
    return 0


def _start(directory: Path, root: Path, unit: str) -> None:
    if unit.endswith(".socket") or _pid(directory, unit):
        return
    if unit == CRIPROXY:
        command = _criproxy(directory, root)
    else:
        command = [sys.executable, "-m", "tests.install.kubelet", str(root), unit]
    output = (directory / f"{unit}.log").open("ab")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    (directory / f"{unit}.pid").write_text(str(process.pid))
    if unit == CRIPROXY:  # Type=notify
        deadline = time.monotonic() + LIMIT_SECONDS
        while b'"ready"' not in (directory / f"{unit}.log").read_bytes():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)


def _criproxy(directory: Path, root: Path) -> list[str]:
    """Return the command of the unit in the tree, with the paths of this machine."""
    import yaml  # most calls do without

    text = (root / "etc/systemd/system" / CRIPROXY).read_text()
    [line] = [each for each in text.splitlines() if each.startswith("ExecStart=")]
    *_, config = line.split()
    content = yaml.safe_load((root / config[1:]).read_text())
    for listener in content["listeners"]:
        for key in ("endpoint", "runtime"):
            listener[key] = f"unix://{root}{listener[key].removeprefix('unix://')}"
    content |= {"metrics": {"address": None}, "log": {"format": "json"}}
    file = directory / "criproxy.yaml"
    file.write_text(yaml.safe_dump(content))
    return [sys.executable, "-m", "criproxy", "run", "-c", str(file)]


def _stop(directory: Path, unit: str) -> None:
    pid = _pid(directory, unit)
    if pid:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + LIMIT_SECONDS
        while _pid(directory, unit):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    (directory / f"{unit}.pid").unlink(missing_ok=True)


def _pid(directory: Path, unit: str) -> int:
    """Return the process of a unit; 0 if it has none."""
    with suppress(OSError, ValueError):
        pid = int((directory / f"{unit}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return 0 if state == "Z" else pid
    return 0


def stop_all(directory: Path) -> None:
    """End every process that was started."""
    for file in directory.glob("*.pid"):
        with suppress(OSError, ValueError):
            os.killpg(int(file.read_text()), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
