"""``python -m tests.install.failure_table`` writes the page of injected failures.

Each of its tables is made by letting every step of a command on a layout fail; a test compares
them.
"""

from pathlib import Path
from typing import Final

from docs.generate.markdown import code, page, table
from tests.install.injection import AS_BEFORE, DONE, FAILURES, rows

PAGE: Final = Path(__file__).parents[2] / "docs/reference/install-failures.md"

LAYOUTS: Final = (
    "kubeadm, flag",
    "kubeadm, instance-config.yaml",
    "k3s",
    "RKE2",
    "k0s",
    "MicroK8s",
    "systemd drop-in",
)
COMMANDS: Final = ("install", "uninstall")

_INTRODUCTION: Final = f"""\
# Failures while installing

What is left when a step of `criproxy install` or `criproxy uninstall` fails, for each layout
of a node; [Install criproxy on a node](../how-to/install.md) describes the commands. The tests
make each step fail in these ways:

- **the step fails**: there is no space left for a file, `systemctl` fails, or a check does.
- **Ctrl-C**: the signal comes during the step.
- **killed**: the process ends during the step, and the next run undoes or finishes what it finds.

*{AS_BEFORE}*: every file has its bytes, mode and owner, the same services run, and the kubelet
was started last with the endpoint that it had. *{DONE}*: all is as after a run that succeeds.
"""


def section(layout: str, command: str) -> str:
    """Return the table of a command on a layout, with its heading."""
    header = ("Step", *FAILURES)
    found = [(_shown(step), *outcomes) for step, *outcomes in rows(layout, command)]
    return f"\n## {layout}: {command}\n\n{table(header, found)}"


def _shown(step: str) -> str:
    return " ".join(
        code(word) if "/" in word or ".service" in word else word for word in step.split()
    )


def main() -> None:
    """Write the page."""
    sections = [section(layout, command) for layout in LAYOUTS for command in COMMANDS]
    PAGE.write_text(page(_INTRODUCTION + "".join(sections)), encoding="utf-8")


if __name__ == "__main__":
    main()
