"""The reference of the report's JSON form, from the structs of its figures."""

import types
from typing import Any, Final, get_args, get_origin

import msgspec

from criproxy.report import figures
from docs.generate.descriptions import attributes, summary
from docs.generate.markdown import code, table

_INTRODUCTION: Final = """\
# Report as JSON

`criproxy report -o json` writes one object, a [Report](#report), or with `--compat` a
[Compatibility](#compatibility). Times are RFC 3339 in UTC, durations seconds (`_s`), sizes bytes.
Fields may be added, and no field changes its meaning; `version` is that of this form.
"""


def report() -> str:
    """Return the page of the report's JSON form."""
    structs = [
        each
        for each in vars(figures).values()
        if isinstance(each, type)
        and issubclass(each, msgspec.Struct)
        and each is not msgspec.Struct
    ]
    roots: list[type[msgspec.Struct]] = [figures.Report, figures.Compatibility]
    ordered = [*roots, *(each for each in structs if each not in roots)]
    return _INTRODUCTION + "".join(map(_section, ordered))


def _section(struct: type[msgspec.Struct]) -> str:
    described = attributes(struct)
    rows = [
        (code(each.encode_name), _type(each.type), described.get(each.name, ""))
        for each in msgspec.structs.fields(struct)
    ]
    head = f"\n## {struct.__name__}\n\n{summary(struct)}\n\n"
    return head + table(("Field", "Type", "Meaning"), rows)


def _type(annotation: Any) -> str:
    """Return a type in words, with a link to the section of a struct."""
    arguments = get_args(annotation)
    if get_origin(annotation) is types.UnionType:
        return " or ".join(map(_type, arguments))
    if get_origin(annotation) is list:
        return f"list of {_type(arguments[0])}"
    if get_origin(annotation) is dict:
        return "object" if arguments[1] is Any else f"object of {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    return names[annotation]
