"""Executes the tutorials: writes each file, runs each command, compares each output."""

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from docs.generate.pages import Block, blocks
from tests.support.process import Process
from tests.support.waiting import wait_until

LIMIT = 120.0
"""Seconds that one command may take."""

CRIPROXY = [sys.executable, "-m", "criproxy"]
PAGES = sorted({block.page for block in blocks("console") if "/tutorial/" in block.page})
TIMES = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00")


class Shell:
    """A reader's shell: ``/tmp`` is a directory of its own, and so is the proxy's port."""

    def __init__(self, directory: Path, running: ExitStack) -> None:
        self._directory = directory
        self._running = running
        self._proxy: Process | None = None
        self._address = ""

    def write(self, name: str, text: str) -> None:
        """Write a file, and wait until a proxy that runs has loaded it."""
        new = self._directory / f"{name}.new"
        new.write_text(self._own(text))
        new.replace(self._directory / name)
        if self._proxy is not None:
            self._logs("rules loaded")

    def run(self, command: str, shown: str) -> None:
        """Run a command, and compare its output with what is shown, if anything is."""
        words = shlex.split(self._own(command))
        match words:
            case ["export", _]:
                return
            case ["criproxy", "runtime", *_, "&"]:
                runtime = self._start(words, "runtime")
                wait_until(lambda: "listening" in runtime.stdout, "the runtime")
                return
            case ["criproxy", "run", *_, "&"]:
                port = ["--metrics-address", "127.0.0.1:0"]
                self._proxy = self._start([*words[:-1], *port, "&"], "proxy")
                self._logs("ready")
                self._logs("runtime answers")
                self._address = self._logs("metrics")["address"]
                return
            case ["curl", url]:
                path = url.replace("127.0.0.1:9440", self._address)
                said = urllib.request.urlopen(path, timeout=LIMIT).read().decode()
                lines = said.splitlines()
                assert [each for each in self._own(shown).splitlines() if each not in lines] == []
                return
            case ["criproxy", "rules", "list", *_]:
                words += ["--address", self._address]
        done = subprocess.run(
            [*CRIPROXY, *words[1:]],
            cwd=self._directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        if shown:
            assert TIMES.sub("TIME", done.stdout) == TIMES.sub("TIME", self._own(shown))
        else:
            assert done.returncode == 0, done.stdout

    def _own(self, text: str) -> str:
        return text.replace("/tmp/", f"{self._directory}/")

    def _start(self, words: list[str], name: str) -> Process:
        command = [
            str(self._directory / word) if word == "config.yaml" else word for word in words[1:-1]
        ]
        process = Process([*CRIPROXY, *command], output=self._directory / name)
        return self._running.enter_context(process)

    def _logs(self, event: str) -> dict[str, str]:
        """Wait for a line in the proxy's log."""
        proxy = self._proxy
        assert proxy is not None

        def found() -> list[dict[str, str]]:
            whole = proxy.stderr[: proxy.stderr.rfind("\n") + 1]
            lines = [json.loads(line) for line in whole.splitlines()]
            return [line for line in lines if line["event"] == event]

        return wait_until(found, event, report=lambda: proxy.stderr)[0]


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console, each with the output that is shown below it."""
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("page", PAGES)
def test_can_be_followed(page: str, short_dir: Path) -> None:
    """The commands of a tutorial work and print the output that it shows."""
    with ExitStack() as running:
        shell = Shell(short_dir, running)
        for block in blocks("yaml", "console"):
            if block.page == page and block.title:
                shell.write(block.title, block.text)
            elif block.page == page:
                for command, shown in commands(block):
                    shell.run(command, shown)
