"""Runs every contender under every load in every round, then the soaks."""

import gc
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from bench import criproxy_config
from bench.audited import EVERYTHING, RECORDS
from bench.contenders import DIRECT, EVERYTHING_ON, Contender
from bench.loads import Answer, run
from bench.processes import pss_bytes, rss_bytes
from bench.results import Memory, Results, Soak
from bench.ruled import WITH_RULES
from bench.running import (
    LIST,
    VERSION,
    Backend,
    NotRunningError,
    Running,
    containerd,
    contender,
    embedded,
)
from bench.sections import PROXIES, Section, contenders
from bench.soak import soak

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The contenders and loads to compare. A soak without calls is left out."""

    sections: Sequence[Section]
    rounds: int
    soak_calls: int
    audited_soak_calls: int = 0


def compare(plan: Plan, results: Results, directory: Path, report: Report) -> None:
    """Carry out ``plan``; add each result to ``results`` and report it to ``say``.

    ``directory`` holds everything that is started. A contender or backend that cannot be had is
    noted in the results, and the rest goes on.
    """
    everyone = contenders(plan.sections)
    soaks = {EVERYTHING_ON: plan.soak_calls, EVERYTHING: plan.audited_soak_calls}
    soaked = [which for which in everyone if soaks.get(which.name)]
    for answer in Answer:
        sections = [_with_answer(part, answer, results, report) for part in plan.sections]
        sections = [part for part in sections if part.loads and part.contenders]
        soaking = soaked if answer is Answer.VERSION else []
        if not sections and not soaking:
            continue
        with ExitStack() as stack:
            try:
                backend = _backend(answer, stack, results, directory, report)
            except NotRunningError as error:
                _skip(results, f"the loads of a {answer.value}", str(error), report)
                continue
            results.backends[answer.value] = (
                f"{backend.name}, {backend.call.path}, {len(backend.call.answer or b''):,} bytes"
            )
            for part in sections:
                place = directory / f"{answer.value}-{part.name}"
                _rounds(part, plan.rounds, backend, results, place, report)
            for which in soaking:
                place = directory / f"soak-{which.name}"
                found = _soak(which, soaks[which.name], backend, results, place, report)
                if which.name == EVERYTHING_ON:
                    results.soak = found
                else:
                    results.audited_soak = found


def _with_answer(part: Section, answer: Answer, results: Results, report: Report) -> Section:
    """Return a section with the loads that ask for ``answer``, and can be made here."""
    loads = [load for load in part.loads if load.answer is answer]
    if any(load.generator == "h2load" for load in loads) and shutil.which("h2load") is None:
        _skip(results, "h2load", "not installed: apt-get install nghttp2-client", report)
        loads = [load for load in loads if load.generator != "h2load"]
    return replace(part, loads=loads)


def _backend(
    answer: Answer, stack: ExitStack, results: Results, directory: Path, report: Report
) -> Backend:
    """Start what gives ``answer``: containerd if it can be, otherwise the embedded runtime."""
    if answer is Answer.LIST:
        return stack.enter_context(embedded(directory / "rt-list", LIST))
    try:
        return stack.enter_context(containerd(directory / "cd"))
    except NotRunningError as error:
        _skip(results, "containerd", str(error), report)
        return stack.enter_context(embedded(directory / "rt", VERSION))


def _rounds(
    part: Section,
    rounds: int,
    backend: Backend,
    results: Results,
    directory: Path,
    report: Report,
) -> None:
    directory.mkdir()
    with ExitStack() as stack:
        field = [Running(DIRECT, backend.socket, directory, None, backend.call)]
        for which in part.contenders:
            try:
                field.append(stack.enter_context(contender(which, directory / which.name, backend)))
            except NotRunningError as error:
                _skip(results, which.name, str(error), report)
        idle = {one.name: rss_bytes(one.pid) for one in field if one.pid}
        random = Random(1)
        gc.freeze()  # a collection before each turn has only what the turns leave behind
        for number in range(rounds):
            for load in part.loads:
                report(f"round {number + 1} of {rounds}: {load.name}")
                results.titles[load.name] = load.title
                for _ in range(part.turns):
                    figures = results.figures.setdefault(load.name, {})
                    for one in random.sample(field, len(field)):
                        figures.setdefault(one.name, []).append(run(load, one, directory))
        for one in field:
            if one.pid:
                together = sum(pss_bytes(one.pid).values())
                memory = Memory(idle[one.name], rss_bytes(one.pid), together)
                results.memory.setdefault(one.name, memory)
            if one.name == EVERYTHING_ON and part.name == PROXIES:
                results.seen[backend.call.path] = criproxy_config.seen(one.directory)
            if one.name in WITH_RULES:
                results.rule_counts[one.name] = criproxy_config.rule_counts(one.directory)
            if one.name in RECORDS:
                found = criproxy_config.recorded(one.directory, RECORDS[one.name])
                results.recorded[f"{backend.call.path}, {one.name}"] = found


def _soak(
    which: Contender,
    calls: int,
    backend: Backend,
    results: Results,
    directory: Path,
    report: Report,
) -> Soak | None:
    report(f"the long run of {which.name}")
    try:
        return soak(which, backend, directory, calls, report)
    except NotRunningError as error:
        _skip(results, f"the long run of {which.name}", str(error), report)
        return None


def _skip(results: Results, name: str, why: str, report: Report) -> None:
    results.skipped[name] = why
    report(f"{name}: {why}")
