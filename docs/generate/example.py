"""``config.example.yaml``: every key of the configuration with its description and default."""

import re
from collections.abc import Iterator
from textwrap import wrap
from typing import Final

import msgspec

from criproxy.config.schema import Config
from criproxy.configtypes.section import Section
from docs.generate.descriptions import attributes, summary
from docs.generate.keys import contains_sections, default_of, section_of, text_of

_WIDTH: Final = 100

_HEAD: Final = """\
# Generated from the code by `make docs-reference`: every key of the configuration with its default.
# All keys may be left out; an unknown key is an error. Check a file with: criproxy check -c FILE
#
# Endpoints are written unix:///path, unix://path or /path. Durations: 500ms, 30s, 1m30s. Sizes:
# 65536, 64KiB, 16MiB.
"""

_EXAMPLES: Final = {
    "rules": """\
docs/reference/rules.md lists the keys of a rule, and deploy/rules.example.yaml has a rule for each
action. Test rules with: criproxy rules test. For example:

rules:
- name: mirror-docker-hub
  match: {methods: ["*Image*", "*Container*"]}
  rewrite_images: [{from: "docker.io/*", to: "mirror.local/*"}]
  continue: true
- name: only-signed
  mode: dry-run
  match: {methods: [CreateContainer], where: 'image.registry != "registry.corp"'}
  deny: {code: PERMISSION_DENIED, message: "image not allowed on this node"}
""",
    "profiles": """\
For example:

profiles:
  agents: {methods: ["@read"], namespaces: [shop], scrub: [environment, info, mounts]}
""",
    "audit": """\
docs/reference/configuration.md lists its keys. For example:

audit:
  policy:                 # the first matching rule applies; without a policy, the default policy
  - {level: None, methods: ["@read"], callers: {kubelet: true}}
  - {level: None, methods: [ExecSync], callers: {kubelet: true}, codes: [OK], exit_codes: [0]}
  - {level: Request, methods: ["@exec"]}
  - {level: RequestResponse, namespaces: [payments], codes: [INTERNAL], omit: [caller.command]}
  - {level: Metadata}
  redact:                 # in addition to registries' credentials, which are never recorded
    annotations: ["vault.hashicorp.com/*"]
    values: ['AKIA[0-9A-Z]{16}']
  sinks:
  - file: {path: /var/log/criproxy/audit.jsonl, rotate: {size: 100MiB, keep: 10}, chain: true}
  - otlp: {endpoint: "http://127.0.0.1:4318/v1/logs"}
    queue: {records: 20000, bytes: 32MiB}
    on_full: drop
""",
    "traces": """\
docs/how-to/traces.md shows how to see them. For example:

traces:
  otlp: {endpoint: "http://127.0.0.1:4318/v1/traces"}
  sampling: {ratio: 0.1, errors: true, slower_than: 1s}
""",
}
"""What is shown of keys that have no value by default, behind their description."""

_END: Final = "# The default:\n"
"""The line behind such an example."""


def configuration() -> str:
    """Return the file."""
    return _HEAD + "".join(_keys(Config, 0))


def shown(key: str) -> str:
    """Return the configuration that the file shows of a key in its comments."""
    text = configuration()
    begin = text.index(f"# {key}:\n")
    lines = text[begin : text.index(_END, begin)].splitlines(keepends=True)
    return "".join(line.removeprefix("# ") for line in lines)


def _keys(kind: type[Section], depth: int, values: Section | None = None) -> Iterator[str]:
    """Yield the keys of a section; their values are those of ``values``, or else the defaults."""
    described = attributes(kind)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        value = default_of(field) if values is None else getattr(values, field.name)
        section, _ = section_of(field.type)
        text = described.get(field.name) or (summary(section) if section is not None else "")
        yield ("\n" if depth == 0 else "") + _comment(text, depth)
        if depth == 0 and name in _EXAMPLES:
            lines = _EXAMPLES[name].splitlines()
            yield "".join(f"# {line}".rstrip() + "\n" for line in lines) + _END
        if contains_sections(value):
            yield f"{'  ' * depth}{name}:\n{_item(''.join(_keys(type(value[0]), depth + 1)))}"
        elif isinstance(value, Section):
            yield f"{'  ' * depth}{name}:\n{''.join(_keys(type(value), depth + 1, value))}"
        else:
            yield f"{'  ' * depth}{name}: {text_of(value)}\n"


def _item(text: str) -> str:
    """Return a list's only item: the first line that is no comment begins it."""
    return re.sub(r"^  (?=\w)", "- ", text, count=1, flags=re.MULTILINE)


def _comment(text: str, depth: int) -> str:
    indent = f"{'  ' * depth}# "
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")
    return "".join(
        f"{line}\n" for line in wrap(words, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    )
