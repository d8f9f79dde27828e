"""The reference of the daemon's log, from the struct of a call's line and the code's log calls."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

import criproxy
from criproxy.observe.logs.call_line import CallLine
from criproxy.wire.reading.calls import End
from docs.generate.descriptions import attributes
from docs.generate.markdown import code, table

_INTRODUCTION: Final = """\
# Call log

The daemon writes one line for each call when the call ends. With `log.format: json` a line is
a JSON object.

## Fields of a call

"""

_ENDS: Final = """
## How a call ends

"""

_EVENTS: Final = """
## Other events

Lines about the daemon itself have these values of `event`. Fields are listed where they are the
same for every line of the event.

"""

_LEVELS: Final = ("debug", "info", "warning", "error")
_OPTIONS: Final = frozenset({"exc_info"})
_HEAD: Final = frozenset({"event", "level"})


def lines() -> str:
    """Return the page of the call log."""
    described = attributes(CallLine)
    fields = [
        (code(each.encode_name), described[each.name]) for each in msgspec.structs.fields(CallLine)
    ]
    meanings = attributes(End)
    ends = [(code(end), *meanings[end.name].split(" Code: ")) for end in End]
    return (
        _INTRODUCTION
        + table(("Field", "Meaning"), fields)
        + _ENDS
        + table(("`end`", "What happened", "`code`"), ends)
        + _EVENTS
        + table(("`event`", "Level", "Fields"), _rows())
    )


def _rows() -> list[tuple[str, str, str]]:
    return [
        (code(event), ", ".join(sorted(levels, key=_LEVELS.index)), ", ".join(map(code, fields)))
        for event, (levels, fields) in sorted(events().items())
    ]


def events() -> dict[str, tuple[set[str], list[str]]]:
    """Return the events that the code logs: the levels and the fields of each."""
    found: defaultdict[str, tuple[set[str], list[str]]] = defaultdict(lambda: (set(), []))
    for path in sorted(Path(criproxy.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            logged = _logged(node)
            if logged is not None:
                levels, fields = found[logged.event]
                levels.add(logged.level)
                fields += [each for each in logged.fields if each not in {*fields, *_OPTIONS}]
    return dict(found)


class _Logged(NamedTuple):
    """One log call in the code."""

    event: str
    level: str
    fields: list[str]


def _logged(node: ast.AST) -> _Logged | None:
    """Return what an expression logs: a call of a logger, or a line as a mapping."""
    if isinstance(node, ast.Dict):
        line = {
            str(key.value): str(getattr(value, "value", ""))
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        }
        if not line.get("event") or not line.get("level"):
            return None
        return _Logged(line["event"], line["level"], [each for each in line if each not in _HEAD])
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    if not isinstance(function, ast.Attribute) or function.attr not in _LEVELS or not node.args:
        return None
    owner = function.value
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    first = node.args[0]
    if not name.endswith("log") or not isinstance(first, ast.Constant):
        return None
    fields = [each.arg for each in node.keywords if each.arg is not None]
    return _Logged(str(first.value), function.attr, fields)
