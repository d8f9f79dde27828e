"""The reference of the variables of CEL expressions."""

from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from criproxy.rules.cel.logged_calls import OUTCOME, LoggedVariableTypes
from criproxy.rules.cel.variables import POOL, VARIABLES, VariableTypes
from docs.generate.markdown import code, table

_INTRODUCTION: Final = """\
# CEL

Conditions (`where`, `drop`) and new values of fields are expressions of the
[Common Expression Language](https://cel.dev). They are compiled when rules are loaded, against the
messages of every method that the rule's globs match, in v1 and v1alpha2. A wrong field or type is
an error with line and column. A YAML string is an expression, so literal text is quoted twice:
`'"text"'`. A number or boolean stands for itself.

## Variables

"""

_FUNCTIONS: Final = """\
## Functions

Expressions have CEL's standard functions and macros, its string extension (`replace`, `split`,
`lowerAscii` and others) and its encoders (`base64.encode`, `base64.decode`). Enumerations and
messages of the CRI have their own names: `NamespaceMode.NODE`, `KeyValue{key: "a"}`.
"""


_LOGGED: Final = """
## Conditions on logged calls

[`criproxy tail --where`](../how-to/tail.md#select-calls-by-an-expression) takes a condition on
calls that have ended. It has the variables above except `metadata`, without labels and
annotations, and these:

"""

_KINDS: Final = {
    "STRING": "string",
    "DURATION": "duration",
    "MAP<STRING, STRING>": "map(string, string)",
}


def variables() -> str:
    """Return the page of CEL's variables."""
    kinds = VariableTypes(
        "the method's request message", "the method's response message"
    ).variables()
    rows = []
    fields = ""
    for name, meaning in VARIABLES.items():
        kind = str(kinds[name]) if name not in ("request", "response") else f"the {name} message"
        if kind.startswith("criproxy."):
            fields += f"## Fields of `{name}`\n\n{_fields(kind)}\n"
            kind = f"[{kind.rpartition('.')[2]}](#fields-of-{name})"
        else:
            kind = kind if name in ("request", "response") else code(_KINDS[kind])
        rows.append((code(name), kind, meaning))
    return (
        _INTRODUCTION
        + table(("Variable", "Type", "Meaning"), rows)
        + f"\n{fields}{_FUNCTIONS}{_LOGGED}"
        + table(("Variable", "Type", "Meaning"), _outcome())
    )


def _outcome() -> list[tuple[str, str, str]]:
    kinds = LoggedVariableTypes().variables()
    return [(code(name), code(_KINDS[str(kinds[name])]), OUTCOME[name]) for name in OUTCOME]


def _fields(name: str) -> str:
    message = POOL.FindMessageTypeByName(name)
    return table(
        ("Field", "Type"), [(code(each.name), code(_type(each))) for each in message.fields]
    )


def _type(field: FieldDescriptor) -> str:
    return {
        FieldDescriptor.TYPE_STRING: "string",
        FieldDescriptor.TYPE_INT64: "int",
        FieldDescriptor.TYPE_BOOL: "bool",
        FieldDescriptor.TYPE_MESSAGE: "map(string, string)",
    }[field.type]
