"""Makes a million calls through criproxy and samples its memory."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.audited import RECORDS
from bench.contenders import Contender
from bench.criproxy_config import recorded, seen
from bench.load import Connection
from bench.processes import rss_bytes
from bench.results import Soak
from bench.running import Backend, contender

BATCH: Final = 25_000
"""Number of calls between two samples of the memory."""
AT_ONCE: Final = 16
SAY_EVERY: Final = 100_000


def soak(
    which: Contender, backend: Backend, directory: Path, calls: int, report: Callable[[str], None]
) -> Soak:
    """Start ``which`` anew, make ``calls`` calls on one connection, and return the samples."""
    with contender(which, directory, backend) as running:
        assert running.pid is not None
        idle = rss_bytes(running.pid)
        samples: list[tuple[int, int]] = []
        errors: Counter[str] = Counter()
        done, elapsed = 0, 0
        with Connection(running.socket) as connection:
            while done < calls:
                requests = connection.build(backend.call, min(BATCH, calls - done))
                outcome = connection.run(backend.call, requests, AT_ONCE)
                done += len(requests.frames)
                elapsed += outcome.elapsed
                errors.update(outcome.errors)
                samples.append((done, rss_bytes(running.pid)))
                if done % SAY_EVERY == 0 or done == calls:
                    report(f"{done:,} of {calls:,} calls, {samples[-1][1] >> 20} MiB resident")
        rate = done / (elapsed / 1e9)
        every_call = RECORDS.get(which.name)
        return Soak(
            idle,
            samples,
            rate,
            dict(errors),
            seen(running.directory),
            None if every_call is None else recorded(running.directory, every_call),
        )
