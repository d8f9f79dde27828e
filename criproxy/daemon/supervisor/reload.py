"""Reloading: the configuration is read again on SIGHUP and when one of its files changes.

It applies as a whole or not at all. Where only rules have changed, the workers compile them and put
them in force when all of them could. Any other change starts new workers beside the old ones, which
drain once the new ones serve.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from criproxy.config.file_states import FileStates
from criproxy.config.load import LoadedConfig, load
from criproxy.config.options import with_options
from criproxy.configtypes.section import Section
from criproxy.daemon.supervisor.systemd import notify, notify_reloading
from criproxy.errors import ConfigError, CriproxyError
from criproxy.observe.logs.log import Log

_LOOK: Final = 1.0
"""Seconds between two looks at the files. A library that is told of changes would take 3 MiB."""

_QUIET: Final = 0.2
"""Seconds without a change after which a series of changes counts as over."""

_MOST_QUIETS: Final = 8
"""Such pauses after which the files are read even if they still change."""

RULES_KEYS: Final = frozenset({"rules", "rules_dir", "rules_mode"})
"""The keys that are applied without new workers."""


class Reloader:
    """Reads the configuration again, one time after the other."""

    def __init__(
        self,
        loaded: LoadedConfig,
        apply: Callable[[LoadedConfig, list[str]], Awaitable[None]],
        result: Callable[[bool], None],
        log: Log,
    ) -> None:
        """``loaded`` is what runs. ``apply`` puts another in force, given the keys that differ.

        It raises CriproxyError where that is not possible. ``result`` is called after each attempt.
        """
        self._path = loaded.path if loaded.path is not None and loaded.path.is_file() else None
        self._running = loaded
        self._files = loaded.files
        self._apply = apply
        self._result = result
        self._log = log
        self._asked = asyncio.Event()
        self._one = asyncio.Lock()
        result(True)

    def ask(self) -> None:
        """Have the configuration read again, as SIGHUP does."""
        self._asked.set()

    async def suspend(self) -> None:
        """Wait for the end of a reload, and let none begin until :meth:`resume`."""
        await self._one.acquire()

    def resume(self) -> None:
        """Let reloads begin again, also those that were asked for meanwhile."""
        self._one.release()

    async def run(self) -> None:
        """Reload whenever it is asked for. Never returns."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload()

    async def watch(self) -> None:
        """Reload whenever one of the files has changed. Returns only where there is none."""
        while self._path is not None:
            await self._change()
            await self.reload()

    async def reload(self) -> None:
        """Read everything again and put it in force."""
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

    async def _change(self) -> None:
        """Wait until a file is another than it was, and a series of changes is over."""
        while not self._files.changed():  # noqa: ASYNC110  # the kernel is not asked to tell
            await asyncio.sleep(_LOOK)
        for _ in range(_MOST_QUIETS):
            states = self._files.current()
            await asyncio.sleep(_QUIET)
            if self._files.current() == states:
                break

    async def _reload(self, path: Path) -> None:
        files = FileStates()
        try:
            loaded = await asyncio.to_thread(_load, path, files)
            loaded = with_options(loaded, self._running.options)
            keys = list(differing(self._running.written, loaded.written))
            await self._apply(loaded, keys)
        except CriproxyError as error:
            self._failed(error=str(error))
        except Exception as error:  # ours, not the file's
            self._failed(error=repr(error), exc_info=error)
        else:
            self._running = loaded
            self._result(True)
        finally:
            self._files = files

    def _failed(self, **fields: Any) -> None:
        self._result(False)
        self._log.error(
            "reload failed", **fields, note="the configuration of before stays in force"
        )


def _load(path: Path, files: FileStates) -> LoadedConfig:
    loaded = load(path, files)
    if not path.stat().st_size:  # an editor's or a full disk's: without rules it would be open
        remedy = "put a whole one in its place in one step, with 'rules: []' in it for none"
        raise ConfigError(f"{path}: is an empty file; {remedy}")
    return loaded


def differing(one: Section, other: Section, prefix: str = "") -> Iterator[str]:
    """Yield the keys in which two sections differ."""
    for name in one.__struct_fields__:
        before, after = getattr(one, name), getattr(other, name)
        if isinstance(before, Section) and isinstance(after, Section):
            yield from differing(before, after, f"{prefix}{name}.")
        elif before != after:
            yield prefix + name
