"""An installation or its removal from beginning to end, on one tree."""

import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from criproxy.doctor.node.process_files import UndeterminedError
from criproxy.doctor.node.system import is_socket
from criproxy.errors import CriproxyError, UnavailableError, UsageError
from criproxy.install import checks
from criproxy.install.edits.unit_texts import SERVICE
from criproxy.install.engine import Engine, ignore, reason
from criproxy.install.journal import Commands, Installation, Journal, Manifest, Transaction
from criproxy.install.layouts.find import find_layout
from criproxy.install.layouts.setup import endpoint_of
from criproxy.install.planning.install import Wanted, plan_install
from criproxy.install.planning.plan import Plan
from criproxy.install.planning.uninstall import plan_uninstall
from criproxy.install.services import Systemd
from criproxy.install.tree import Tree
from criproxy.relay.endpoints import WELL_KNOWN, Endpoint


@dataclass
class Operation:
    """What is done to a tree; :meth:`locked` has to be entered around it.

    ``systemd`` is None where no service is to be started or stopped. ``notify`` is told of each
    step, and ``shield`` defers signals; both as for :class:`Engine`.
    """

    tree: Tree
    systemd: Systemd | None = None
    limits: checks.Limits = checks.Limits()  # noqa: RUF009  # it is frozen
    notify: Callable[[str, str], None] = ignore
    shield: Callable[[], AbstractContextManager[object]] = nullcontext

    def __post_init__(self) -> None:
        self.journal = Journal(self.tree)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other installations away from the tree. Raises UnavailableError."""
        directory = self.tree.host(self.tree.real("/etc"))
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(
                f"{directory}: {error.strerror}; name the root of a node's files with --root"
            ) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(
                    f"another criproxy install or uninstall is at work below {self.tree.root}; "
                    "wait for it"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def pending(self) -> Transaction | None:
        """Return a transaction that was interrupted."""
        return self.journal.pending()

    def installed(self) -> Manifest | None:
        """Return what is installed."""
        return self.journal.installed()

    def plan_install(self, wanted: Wanted) -> Plan:
        """Plan an installation. Raises as ``planning.plan_install`` does, as CriproxyError."""
        manifest = self.installed()
        if manifest is None and self.systemd is not None:
            running = bool(self.systemd.main_pid(SERVICE))
            wanted = replace(wanted, running=running)
        with _explained():
            return plan_install(self.tree, manifest, wanted)

    def plan_uninstall(self, manifest: Manifest, left: Collection[str] = ()) -> Plan:
        """Plan the removal of an installation. Raises as ``planning.plan_uninstall`` does."""
        services = self.systemd is not None
        with _explained():
            return plan_uninstall(self.tree, self.journal, manifest, services, left)

    def carry_out(self, plan: Plan) -> None:
        """Do what is planned, or leave all as it is. Raises as :meth:`Engine.run` does."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        transaction = msgspec.structs.replace(plan.transaction, created=now)
        try:
            self.notify("prepare", transaction.command)
            self.journal.prepare(transaction, dict(plan.contents))
        except OSError as error:
            raise UnavailableError(f"{reason(error)}; nothing was changed") from error
        self.engine(transaction).run(transaction)

    def finish(self, transaction: Transaction) -> None:
        """Do the rest of a transaction that was interrupted. Raises as :meth:`Engine.run` does."""
        self.engine(transaction).run(transaction)

    def undo(self, transaction: Transaction) -> None:
        """Undo a transaction that was interrupted. Raises as :meth:`Engine.undo` does.

        One of which all steps were done is finished instead.
        """
        engine = self.engine(transaction)
        if self.journal.complete(transaction):
            engine.run(transaction)
            return
        with self.shield():
            engine.undo(transaction)

    def engine(self, transaction: Transaction) -> Engine:
        """Return what carries out a transaction. Raises UsageError if it needs systemd."""
        if self.systemd is None and any(isinstance(each, Commands) for each in transaction.steps):
            raise UsageError(
                "it starts services: name the systemctl of that tree with --systemctl, as before"
            )
        return Engine(
            self.tree,
            self.journal,
            self.systemd,
            self._checks(transaction.installation),
            self.notify,
            self.shield,
        )

    def _checks(self, about: Installation) -> Mapping[str, Callable[[], None]]:
        endpoint, runtime = self._at(about.endpoint), self._at(about.runtime)
        systemd, kubelet = self.systemd, self.limits.kubelet
        found: dict[str, Callable[[], None]] = {
            "configured": lambda: self._configured(about),
            "released": lambda: self._released(about),
        }
        if systemd is not None:
            found |= {
                "agrees": lambda: checks.agrees(
                    runtime, self._others(runtime), lambda: systemd.main_pid(about.unit), about.unit
                ),
                "proxy": lambda: checks.prove(endpoint, runtime, self.limits.proxy),
                "upgrade": lambda: _upgrade(systemd, about),
                "healthy": lambda: checks.healthy(about.health, kubelet, about.unit),
                "connected": lambda: checks.connected(
                    endpoint, lambda: systemd.main_pid(about.unit), kubelet, about.unit
                ),
            }
        if not kubelet:
            found |= {"healthy": _do_not_wait, "connected": _do_not_wait}
        return found

    def _others(self, runtime: Endpoint) -> list[Endpoint]:
        """Return the sockets of other runtimes."""
        found = {self._at(path) for path in WELL_KNOWN} - {runtime}
        return sorted((each for each in found if is_socket(Path(each.path))), key=str)

    def _at(self, path: str) -> Endpoint:
        return Endpoint(str(self.tree.host(self.tree.real(path))))

    def _configured(self, about: Installation) -> None:
        """Check that the kubelet's files lead it to criproxy. Raises UnavailableError."""
        found, source = self._pointed_at(about)
        if self.tree.real(found.path) != self.tree.real(about.endpoint):
            raise UnavailableError(
                f"the kubelet would still be pointed at {found} by {source}; remove that setting "
                "and run it again"
            )

    def _released(self, about: Installation) -> None:
        """Check that nothing leads the kubelet to criproxy any more. Raises UnavailableError."""
        try:
            found, source = self._pointed_at(about)
        except CriproxyError:
            return  # the kubelet was removed, or configured so that it is not known any more
        if self.tree.real(found.path) == self.tree.real(about.endpoint):
            raise UnavailableError(
                f"the kubelet would still be pointed at {found} by {source}; write "
                f"unix://{about.runtime} there and run it again"
            )

    def _pointed_at(self, about: Installation) -> tuple[Endpoint, str]:
        """Return the kubelet's endpoint and what sets it. Raises CriproxyError."""
        with _explained():
            setting = find_layout(self.tree, about.unit).setup().runtime
            return endpoint_of(setting), setting.source


def _do_not_wait() -> None:
    """Take the kubelet as it is."""


def _upgrade(systemd: Systemd, about: Installation) -> None:
    if systemd.main_pid(SERVICE):
        systemd.call_beside(about.program, "upgrade", "-c", about.config)
    else:
        systemd.call("start", SERVICE)


@contextmanager
def _explained() -> Iterator[None]:
    """Raise CriproxyError for files that cannot be read, or whose meaning cannot be determined."""
    try:
        yield
    except UndeterminedError as error:
        kind = UnavailableError if isinstance(error.__cause__, OSError) else UsageError
        raise kind(f"{error}; {error.remedy}") from error
    except PermissionError as error:
        what = f"{error.filename} may not be read by this user; run it as root"
        raise UnavailableError(what) from error
    except OSError as error:
        raise UnavailableError(f"{error.filename}: {error.strerror}") from error
