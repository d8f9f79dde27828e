"""Reloading: the rules are read again when somebody says so, or when their files change.

All or nothing: what cannot be loaded leaves the rules of before in force, and is told of.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from criproxy.config.file_states import FileStates
from criproxy.config.load import LoadedConfig, load
from criproxy.config.schema import Config
from criproxy.configtypes.section import Section
from criproxy.daemon.active_rules import ActiveRules, CompiledRules, prepare
from criproxy.daemon.systemd import notify, notify_reloading
from criproxy.errors import ConfigError
from criproxy.observe.log import Log
from criproxy.observe.metrics import Metrics

_QUIET_MS: Final = 200
"""Milliseconds without a change after which a series of changes counts as over."""

_LOOK_MS: Final = 5000
"""Milliseconds after which the files are looked at although nobody has told of a change: a link's
target may have changed somewhere else."""

_POLL_MS: Final = 2000
"""Milliseconds between looks at the files where the kernel does not tell of changes."""

_RELOADED: Final = frozenset({"rules", "rules_dir", "rules_mode"})
"""The keys that a reload applies."""


class Reloader:
    """Reads the rules again, one time after the other. They have been loaded once already."""

    def __init__(
        self, loaded: LoadedConfig, rules: ActiveRules, metrics: Metrics, log: Log
    ) -> None:
        """``loaded`` is what runs."""
        self._path = loaded.path if loaded.path is not None and loaded.path.is_file() else None
        self._running = loaded.written
        self._files = loaded.files
        self._rules = rules
        self._metrics = metrics
        self._log = log
        self._asked = asyncio.Event()
        self._one = asyncio.Lock()
        self._succeeded()

    def ask(self) -> None:
        """Have the rules read again, as SIGHUP does."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever it is asked for. Never returns."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload()

    async def watch(self) -> None:
        """Reload whenever one of the files has changed. Returns only where there is none."""
        polling = False
        while self._path is not None:
            try:
                await self._change(polling)
            except FileNotFoundError:  # a directory went away meanwhile
                await asyncio.sleep(_POLL_MS / 1000)
            except (OSError, RuntimeError) as error:
                if polling:
                    await asyncio.sleep(_POLL_MS / 1000)
                else:
                    self._log.warning("files are polled for changes", error=str(error))
                polling = True
            else:
                await self.reload()

    async def reload(self) -> None:
        """Read everything again; what of it can change while the daemon runs is in force then."""
        if self._path is None:
            note = "there is no configuration file that could be read again; give one with -c"
            self._log.warning("nothing to reload", note=note)
            return
        async with self._one:
            notify_reloading()
            try:
                await self._reload(self._path)
            finally:
                notify("READY=1")

    async def _change(self, polling: bool) -> None:
        """Wait until a file is another than it was. Raises OSError, or RuntimeError (watchfiles')
        where changes are not to be had that way.
        """
        from watchfiles import awatch  # a megabyte of memory, where there is a file to watch

        changes = awatch(
            *self._files.directories(),
            watch_filter=None,
            step=_QUIET_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            force_polling=polling,
            poll_delay_ms=_POLL_MS,
            recursive=False,
        )
        async with contextlib.aclosing(changes):
            while not self._files.changed():
                await anext(changes)

    async def _reload(self, path: Path) -> None:
        files = FileStates()
        try:
            prepared = await asyncio.to_thread(_load, path, files)
            self._rules.adopt(prepared)
        except ConfigError as error:
            self._failed(error=str(error))
        except Exception as error:  # ours, not the file's
            self._failed(error=repr(error), exc_info=error)
        else:
            self._succeeded()
            self._log.info("rules loaded", rules=len(prepared.loaded.rules))
            self._warn_of_the_rest(prepared.loaded.written)
        finally:
            self._files = files

    def _failed(self, **fields: Any) -> None:
        self._metrics.reload_success.set(0)
        self._log.error("reload failed", **fields, note="the rules of before stay in force")

    def _succeeded(self) -> None:
        self._metrics.reload_success.set(1)
        self._metrics.reload_timestamp.set(time.time())

    def _warn_of_the_rest(self, written: Config) -> None:
        """Name the keys whose change takes effect with a restart alone."""
        keys = [key for key in _differing(self._running, written) if key not in _RELOADED]
        if keys:
            self._log.warning("changed keys need a restart", keys=keys)


def _load(path: Path, files: FileStates) -> CompiledRules:
    loaded = load(path, files)
    if not path.stat().st_size:  # an editor's or a full disk's: without rules it would be open
        mend = "put a whole one in its place in one step, with 'rules: []' in it for none"
        raise ConfigError(f"{path}: is an empty file; {mend}")
    return prepare(loaded)


def _differing(one: Section, other: Section, prefix: str = "") -> Iterator[str]:
    """Name the keys that two sections differ in."""
    for name in one.__struct_fields__:
        before, after = getattr(one, name), getattr(other, name)
        if isinstance(before, Section):
            yield from _differing(before, after, f"{prefix}{name}.")
        elif before != after:
            yield prefix + name
