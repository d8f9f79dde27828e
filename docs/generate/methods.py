"""The reference of the CRI's methods and their groups, from the method table."""

from typing import Final

from criproxy.cri.methods import METHODS
from criproxy.cri.naming import GROUPS, matches, resolve
from docs.generate.markdown import code, table

_INTRODUCTION: Final = """\
# Methods

criproxy relays every method, and knows these of the CRI. A method is in the group `@read` if it is
known to change nothing, and otherwise in `@mutating`: a method of a future version of the CRI is
`@mutating`. `@exec` contains the methods that give access to a container or a pod.

"""


def _rows() -> list[tuple[str, ...]]:
    """Return a row for each method: service, name, versions, streaming, groups."""
    rows: dict[tuple[str, str], tuple[list[str], str, list[str]]] = {}
    for path, method in METHODS.items():
        named = resolve(path.encode())
        key = (method.service.rpartition(".")[2], method.name)
        groups = [code(group) for group in GROUPS if matches(group, named)]
        versions, _, _ = rows.setdefault(
            key, ([], "server" if method.server_streaming else "", groups)
        )
        versions.append(method.api_version)
    return [
        (code(service), code(name), ", ".join(versions), streaming, ", ".join(groups))
        for (service, name), (versions, streaming, groups) in sorted(rows.items())
    ]


def methods() -> str:
    """Return the page of methods."""
    header = ("Service", "Method", "Versions", "Streaming", "Groups")
    return _INTRODUCTION + table(header, _rows())
