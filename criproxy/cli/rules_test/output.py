"""Formats a simulated call as text, with diffs of its messages."""

import difflib
from collections.abc import Iterator, Sequence

import click
import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from criproxy.cli.rules_test.simulation import ACTS, DRY, FAILS, Simulation, Step

_COLOURS = {ACTS: "green", DRY: "cyan", FAILS: "red"}


def format_simulation(simulation: Simulation, colours: bool, hooks_run: bool) -> list[str]:
    """Return the lines: each rule's outcome, changed metadata and messages, the answer."""
    lines = [*_lines(simulation, hooks_run)]
    return [_coloured(line) for line in lines] if colours else lines


def _lines(simulation: Simulation, hooks_run: bool) -> Iterator[str]:
    call = simulation.call
    caller = call.facts.caller
    yield (
        f"{call.method.name} ({call.method.api_version}) by uid {caller.uid},"
        f" {caller.executable or 'executable unknown'}"
    )
    width = max((len(step.rule.name) for step in simulation.steps), default=0)
    for step in simulation.steps:
        note = "" if hooks_run or not _is_hook(step) else " (not asked; see --run-hooks)"
        yield f"  {step.rule.name.ljust(width)}  {step.outcome}: {step.why}{note}"
    for name, value in simulation.metadata:
        yield f"+ metadata {name.decode()}: {value.decode(errors='replace')}"
    assert call.facts.request is not None
    yield from _diff("request", call.facts.request, simulation.request)
    yield from _responses(call.responses, simulation)
    if simulation.answer:
        asked = "the runtime is asked" if simulation.asked else "the runtime is not asked"
        yield f"answer {simulation.answer} ({asked})"


def _responses(before: Sequence[Message], simulation: Simulation) -> Iterator[str]:
    if not simulation.asked:
        return
    if len(before) == len(simulation.responses):
        for number, (one, other) in enumerate(zip(before, simulation.responses, strict=True), 1):
            name = f"response {number}" if len(before) > 1 else "response"
            yield from _diff(name, one, other)
    else:
        yield f"{len(simulation.responses)} of {len(before)} response messages reach the client"


def _is_hook(step: Step) -> bool:
    return step.rule.action == "hook" and step.outcome in (ACTS, DRY)


def _diff(name: str, before: Message, after: Message) -> Iterator[str]:
    if before is not after:
        one, other = _text(before), _text(after)
        names = (f"{name} as it comes", f"{name} as it goes on")
        yield from difflib.unified_diff(one, other, *names, lineterm="")


def _text(message: Message) -> list[str]:
    plain = MessageToDict(message, preserving_proto_field_name=True)
    return yaml.safe_dump(plain, sort_keys=False, width=1000, allow_unicode=True).splitlines()


def _coloured(line: str) -> str:
    if line.startswith("  "):
        for outcome, colour in _COLOURS.items():
            if f"  {outcome}: " in line:
                return click.style(line, fg=colour)
    if line.startswith(("---", "+++")):
        return click.style(line, bold=True)
    if line.startswith(("+", "-")):
        return click.style(line, fg="green" if line[0] == "+" else "red")
    return click.style(line, fg="cyan") if line.startswith("@@") else line
