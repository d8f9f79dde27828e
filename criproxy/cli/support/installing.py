"""What ``criproxy install`` and ``criproxy uninstall`` share: options, output, interrupted runs."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

import click

from criproxy.cli.support.options import duration, output_option
from criproxy.errors import CriproxyError, UnavailableError, UsageError
from criproxy.install.checks import Limits
from criproxy.install.engine import describe
from criproxy.install.journal import Change, Transaction
from criproxy.install.operation import Operation
from criproxy.install.planning.plan import Plan
from criproxy.install.services import Systemd
from criproxy.install.signals import Signals
from criproxy.install.tree import Tree

Resume = Literal["finish", "undo"]

_SHORT: Final = 12
"""Lines of the diff of a new file that is printed; criproxy's units are longer."""
_DOING: Final = {"do": "", "undo": "undo: "}


def installing_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that the two commands share."""
    for option in (
        output_option("Lines"),
        click.option(
            "--resume",
            type=click.Choice(["finish", "undo"]),
            help="What to do with a run that was interrupted.  [default: ask; with --yes finish]",
        ),
        click.option(
            "--timeout",
            metavar="DURATION",
            default="2m",
            show_default=True,
            help="How long the kubelet may take to be healthy and connected; 0s: do not wait.",
        ),
        click.option(
            "--systemctl",
            metavar="COMMAND",
            help='How to reach the systemd of DIR, as in "chroot /host systemctl".  [default: '
            "systemctl; none with --root DIR, so that no service is started or stopped]",
        ),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show the plan and change nothing."),
        click.option(
            "--root",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            default="/",
            show_default=True,
            help="The root of the node's files: of an image, or where a node's are mounted.",
        ),
    ):
        function = option(function)
    return function


class Run:
    """One run of a command on one tree."""

    def __init__(
        self,
        command: str,
        root: Path,
        dry_run: bool,
        yes: bool,
        systemctl: str | None,
        timeout: str,
        resume: Resume | None,
        output: str,
    ) -> None:
        """Take the values of the options. Raises UsageError for wrong ones."""
        if not root.is_dir():
            raise UsageError(f"--root {root}: no such directory")
        self._command = command
        self._dry_run = dry_run
        self._yes = yes
        self._resume = resume
        self._json = output == "json"
        self._signals = Signals()
        self._steps: list[dict[str, str]] = []
        self._about: dict[str, Any] = {}
        self.tree = Tree(root)
        self.services = systemctl is not None or self.tree.root == Path("/")
        words = shlex.split(systemctl) if systemctl is not None else ["systemctl"]
        self.operation = Operation(
            self.tree,
            Systemd(words) if self.services else None,
            Limits(kubelet=duration("--timeout", timeout)),
            self._show_step,
            self._signals.shield,
        )

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Lock the tree and undo what is begun when a signal comes. Ends a run that is done."""
        try:
            with self.operation.locked(), self._signals.raised():
                self._continue_interrupted()
                yield
        except KeyboardInterrupt as interruption:
            why = str(interruption) or "interrupted"
            raise UnavailableError(f"{why}; everything is as it was before") from None

    def carry_out(self, plan: Plan) -> None:
        """Show a plan, ask, and carry it out."""
        if self._json:
            self._about = _plan_as_json(self.tree, plan)
        if plan.is_empty:
            self.end("unchanged", "there is nothing to do")
        if not self._json:
            self._show_plan(plan)
        if self._dry_run:
            self.end("planned", "nothing was changed (--dry-run)")
        if not self._yes:
            self._ask("Do this?")
        self.operation.carry_out(plan)
        self.end(f"{self._command}ed", f"{self._command}ed")

    def end(self, outcome: str, text: str) -> None:
        """Print the outcome and exit with status 0."""
        if self._json:
            click.echo(
                json.dumps({"outcome": outcome, **self._about, "done": self._steps}, indent=2)
            )
        else:
            click.echo(text)
        sys.exit(0)

    def _continue_interrupted(self) -> None:
        pending = self.operation.pending()
        if pending is None:
            if self._resume is not None:
                raise UsageError(f"--resume {self._resume}: no run was interrupted here")
            self.operation.journal.tidy()
            return
        what = f"criproxy {pending.command} of {pending.created}"
        if self._dry_run:
            raise UnavailableError(f"{what} was interrupted: finish or undo it with --resume")
        choice = self._resume or self._choose(what)
        if choice == "undo":
            self.operation.undo(pending)
            self.end("undone", f"undone: {what}")
        self.operation.finish(pending)
        if self._resume is not None or pending.command == self._command:
            self.end(f"{pending.command}ed", f"finished: {what}")

    def _choose(self, what: str) -> str:
        if self._yes:
            return "finish"
        if self._json or not sys.stdin.isatty():
            raise UnavailableError(
                f"{what} was interrupted: finish it with --resume finish, or put everything back "
                "with --resume undo"
            )
        answer: str = click.prompt(
            f"{what} was interrupted", type=click.Choice(["finish", "undo"]), err=True
        )
        return answer

    def _ask(self, question: str) -> None:
        if self._json or not sys.stdin.isatty():
            raise UsageError("there is nobody to ask: nothing was changed; repeat it with --yes")
        if not click.confirm(question, err=True):
            raise UnavailableError("nothing was changed")

    def _show_plan(self, plan: Plan) -> None:
        about = plan.transaction.installation
        click.echo(
            f"kubelet   {about.unit} ({about.layout})\n"
            f"runtime   unix://{about.runtime}\n"
            f"criproxy  unix://{about.endpoint}"
        )
        for note in plan.notes:
            click.echo(f"note      {note}")
        for number, step in enumerate(plan.transaction.steps, 1):
            click.echo(f"{number:2} {describe(step)}")
            if isinstance(step, Change):
                _show_diff(plan.diff(self.tree, step), step)

    def _show_step(self, kind: str, what: str) -> None:
        if kind not in _DOING:
            return
        self._steps.append({"kind": kind, "step": what})
        if not self._json:
            with suppress(OSError):  # a terminal that is gone keeps nothing from being put back
                click.echo(f"{_DOING[kind]}{what}", err=True)


def _show_diff(diff: str, change: Change) -> None:
    """Print what changes in a file, and a new one if it is short; -o json has all."""
    lines = diff.splitlines()
    if change.after.kind == "absent" or (change.before.kind == "absent" and len(lines) > _SHORT):
        return
    for line in lines:
        click.echo(f"     {line}")


def reported(function: Callable[..., None], output: str) -> None:
    """Call a function; with ``-o json`` print also its failure, and raise it."""
    try:
        function()
    except CriproxyError as error:
        if output == "json":
            click.echo(json.dumps({"outcome": "failed", "error": str(error)}, indent=2))
        raise


def _plan_as_json(tree: Tree, plan: Plan) -> dict[str, Any]:
    transaction: Transaction = plan.transaction
    about = transaction.installation
    steps = []
    for phase in transaction.phases:
        for step in phase.steps:
            row = {"phase": phase.name, "step": describe(step)}
            if isinstance(step, Change):
                row |= {"path": step.path, "diff": plan.diff(tree, step)}
            steps.append(row)
    return {
        "command": transaction.command,
        "root": str(tree.root),
        "layout": about.layout,
        "unit": about.unit,
        "endpoint": f"unix://{about.endpoint}",
        "runtime": f"unix://{about.runtime}",
        "notes": list(plan.notes),
        "steps": steps,
    }
