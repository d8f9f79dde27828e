"""Carries a transaction out step by step, and undoes it if a step fails or is interrupted.

The order of undoing: phases from the last to the first, and in each the commands of ``undo_first``,
the files, those of ``undo_last``. A file is put back if it is as the transaction has left it;
if somebody else has changed it meanwhile, it stays, and the error says so.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime

from criproxy.errors import CriproxyError, IncompleteError, UnavailableError
from criproxy.install.journal import Change, Check, Commands, Journal, Phase, Step, Transaction
from criproxy.install.services import Systemd
from criproxy.install.tree import Tree, temporary_of


class _ChangedError(UnavailableError):
    """A file is neither as it was nor as it was to be."""


def ignore(_: str, __: str) -> None:
    """Report to nobody."""


@dataclass
class Engine:
    """What carries out the transactions of a tree.

    ``checks`` are called by the names of :class:`Check`, and raise CriproxyError. Without
    ``systemd`` no transaction may have commands. ``notify`` is called before each step with ``do``
    or ``undo`` and its description, and may raise to stop it. ``shield`` keeps signals away while
    it is entered.
    """

    tree: Tree
    journal: Journal
    systemd: Systemd | None = None
    checks: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    notify: Callable[[str, str], None] = ignore
    shield: Callable[[], AbstractContextManager[object]] = nullcontext

    def run(self, transaction: Transaction) -> None:
        """Do the steps of the pending transaction that are not done yet, and commit it.

        If one fails, everything is undone, and the failure is raised as UnavailableError; an
        interruption is raised again. Raises IncompleteError if it could not be undone.
        """
        try:
            if not self.journal.complete(transaction):
                self._forward(transaction)
        except (Exception, KeyboardInterrupt) as failure:
            with self.shield():
                self.undo(transaction, failure)
            if isinstance(failure, (CriproxyError, OSError)):
                raise UnavailableError(
                    f"{reason(failure)}; everything is as it was before"
                ) from failure
            raise
        with self.shield():
            self._commit(transaction)

    def _commit(self, transaction: Transaction) -> None:
        try:
            self.journal.commit(transaction, datetime.now(UTC).isoformat(timespec="seconds"))
        except OSError as error:
            raise IncompleteError(
                f"all steps are done, but that could not be written down ({reason(error)}). "
                f"Correct that, then: criproxy {transaction.command} --resume finish"
            ) from error

    def undo(self, transaction: Transaction, failure: BaseException | None = None) -> None:
        """Put back what the pending transaction has changed, and end it.

        Raises IncompleteError, which names ``failure``, if something could not be put back; the
        transaction stays pending then.
        """
        begun = self.journal.begun()
        problems: list[str] = []
        first = len(transaction.steps)
        for phase in reversed(transaction.phases):
            first -= len(phase.steps)
            self._undo_phase(phase, begun - first, problems)
        if problems:
            because = f"{reason(failure)}; " if failure is not None else ""
            raise IncompleteError(
                f"{because}not everything could be put back: {'; '.join(problems)}. Correct that, "
                f"then: criproxy {transaction.command} --resume undo"
            )
        self.journal.close()

    def _forward(self, transaction: Transaction) -> None:
        begun = self.journal.begun()
        for count, step in enumerate(transaction.steps, 1):
            if isinstance(step, Change):
                if self.tree.state(step.path) == step.after:
                    continue  # before an interruption
            elif count < begun:
                continue
            self.notify("do", describe(step))
            if count > begun:
                self.journal.begin(count)
            self._do(step)
        self.notify("end", transaction.command)

    def _do(self, step: Step) -> None:
        match step:
            case Change():
                if self.tree.state(step.path) != step.before:
                    raise _ChangedError(f"{step.path} was changed meanwhile")
                self.tree.put(step.path, self.journal.new(step), step.after)
            case Commands():
                for words in step.commands:
                    self._systemctl(words)
            case Check():
                self.checks[step.name]()

    def _undo_phase(self, phase: Phase, begun: int, problems: list[str]) -> None:
        """Undo a phase of which ``begun`` steps have begun."""
        active = any(isinstance(step, Commands) for step in phase.steps[: max(begun, 0)])

        def attempt(what: str, action: Callable[[], None]) -> None:
            try:
                self.notify("undo", what)
                action()
            except (CriproxyError, OSError) as error:
                problems.append(reason(error))

        for words in phase.undo_first if active else ():
            attempt(_command(words), lambda words=words: self._systemctl(words))  # type: ignore[misc]
        for step in reversed(phase.steps):
            if isinstance(step, Change):
                temporary_of(self.tree.host(step.path)).unlink(missing_ok=True)
                if self.tree.state(step.path) != step.before:
                    attempt(step.path, lambda step=step: self._put_back(step))  # type: ignore[misc]
        for words in phase.undo_last if active else ():
            attempt(_command(words), lambda words=words: self._systemctl(words))  # type: ignore[misc]

    def _put_back(self, step: Change) -> None:
        if self.tree.state(step.path) != step.after:
            raise _ChangedError(
                f"{step.path} was changed meanwhile; what was there is {self.journal.old(step)}"
            )
        self.tree.put_back(step.path, self.journal.old(step), step.before)

    def _systemctl(self, words: tuple[str, ...]) -> None:
        assert self.systemd is not None
        self.systemd.call(*words)


def describe(step: Step) -> str:
    """Return what a step does in one line, as an infinitive."""
    match step:
        case Change(before=before, after=after):
            if after.kind == "absent":
                return f"remove {step.path}"
            if before.kind == "absent":
                kinds = {"directory": "make the directory", "link": "link"}
                target = f" to {after.content}" if after.kind == "link" else ""
                return f"{kinds.get(after.kind, 'write')} {step.path}{target}"
            return f"change {step.path}"
        case _:
            return step.wanted


def _command(words: tuple[str, ...]) -> str:
    return " ".join(("systemctl", *words))


def reason(error: BaseException) -> str:
    """Return why something failed, in one line."""
    if isinstance(error, OSError):
        where = f"{error.filename2 or error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else repr(error))
