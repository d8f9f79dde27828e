"""``criproxy rules``: check rules, try them out, and list those of a running daemon."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from criproxy.cli.support.options import output_option
from criproxy.cli.support.tables import print_table
from criproxy.config.load import load, load_rules
from criproxy.config.schema import Config

if TYPE_CHECKING:
    from criproxy.cli.rules_test.simulation import Simulation

_EPILOG: Final = """\
\b
Examples:
  criproxy rules check rules.yaml
  criproxy rules test /etc/criproxy/config.yaml --call call.yaml
  criproxy rules list
"""

_CHECK_EPILOG: Final = """\
\b
Example:
  criproxy rules check deploy/rules.example.yaml

\b
Exit status: 0 the rules are valid, 2 they are not.
"""

_TEST_EPILOG: Final = """\
\b
A call is a YAML document, and several documents are several calls. Only method is required.
Messages are in protobuf's JSON mapping, with the CRI's field names or their JSON names. The
default caller is the kubelet, as root.

\b
  method: CreateContainer             # or Service/Method, or the whole path
  api_version: v1                     # or v1alpha2
  request: {config: {image: {image: docker.io/library/busybox:1.36}}}
  response: {container_id: c1}        # of a stream a list
  pod: {namespace: default, name: web-0, uid: u1, labels: {}, annotations: {}}
  container: {id: c1, name: web, image: busybox, labels: {}, annotations: {}}
  images: {"sha256:2fb0": ["docker.io/library/busybox:1.36"]}   # names of the runtime's images
  caller: {pid: 1, uid: 0, gid: 0, executable: /usr/bin/kubelet}
  listener: unix:///run/criproxy/criproxy.sock
  metadata: {user-agent: grpc-go/1.66.2}

\b
Examples:
  criproxy rules test rules.yaml --call call.yaml
  echo 'method: StopContainer' | criproxy rules test rules.yaml --call -
  criproxy rules test rules.yaml --call call.yaml --run-hooks
  criproxy rules test rules.yaml --recording kubelet.bin.gz
  criproxy rules test rules.yaml --recording crictl.bin.gz --executable /usr/bin/crictl

\b
Exit status: 0 the rules were evaluated for every call, 1 a rule failed on one of them (CEL that
cannot be evaluated, a hook without an answer), 2 a file or an option is wrong.
"""

_LIST_EPILOG: Final = """\
\b
Examples:
  criproxy rules list
  criproxy rules list -c /etc/criproxy/config.yaml
  criproxy rules list --address 127.0.0.1:9440 -o json

\b
Exit status: 0 the daemon answered, 1 it did not, 2 an option is wrong.
"""


@click.group("rules", epilog=_EPILOG, short_help="Check, test and list rules.")
def command() -> None:
    """Check rules, test them on calls from a file, and list those of a running daemon."""


@command.command("check", epilog=_CHECK_EPILOG, short_help="Load rules as the daemon would.")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Load the rules of FILE as the daemon would, and print a line for each.

    FILE is a configuration, including its rules_dir, or a list of rules. Hook scripts are loaded.
    An error names the file, the line, the key and the correction.
    """
    from criproxy.cli.rules_test.simulation import describe_action
    from criproxy.config.rule_compilation import compiled

    loaded = load_rules(file)
    ruleset, _ = compiled(loaded)
    rows = [
        (
            rule.name,
            describe_action(rule),
            "dry-run" if rule.dry_run else "enforce",
            ", ".join(rule.spec.match.methods),
        )
        for rule in ruleset.rules
    ]
    print_table([("NAME", "ACTION", "MODE", "METHODS"), *rows] if rows else [])
    click.echo(f"OK: {len(rows)} {'rule' if len(rows) == 1 else 'rules'}")


@command.command("test", epilog=_TEST_EPILOG, short_help="Test rules on calls from a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--call",
    "calls",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The calls, in YAML; - for stdin.",
)
@click.option(
    "--recording",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A recorded connection of a kubelet, instead of --call.",
)
@click.option(
    "--executable",
    metavar="PATH",
    help="The executable of the recording's client.  [default: /usr/bin/kubelet]",
)
@click.option(
    "--runtime",
    metavar="NAME",
    default="containerd",
    show_default=True,
    help="The RuntimeName that the runtime gives in criproxy version, such as cri-o. It decides "
    "which image a name without a registry is, unless FILE has images.short_names.",
)
@click.option("--run-hooks", is_flag=True, help="Call scripts and webhooks.")
def test(
    file: Path,
    calls: Path | None,
    recording: Path | None,
    executable: str | None,
    runtime: str,
    run_hooks: bool,
) -> None:
    """Show what the rules of FILE do to a call: which match, why the others do not, which acts,
    and the messages before and after as a diff.

    FILE is a configuration, or a list of rules. No runtime is involved, and hooks are called only
    with --run-hooks. Percentages are ignored: a fault always occurs. Delays are reported, and
    nothing waits.

    With --recording, a table shows for each rule by itself how many calls of a recorded connection
    have its methods, and how many of them it would have matched, denied and changed. A further
    table shows how many calls the audit log of FILE would have recorded at which level.
    """
    if (calls is None) == (recording is None):
        raise click.UsageError("give either --call or --recording")
    if executable is not None and recording is None:
        raise click.UsageError("--executable is for --recording; a call has its own caller")
    from criproxy.cli.rules_test.call_file import read_calls
    from criproxy.cli.rules_test.output import format_simulation
    from criproxy.cli.rules_test.simulation import simulate
    from criproxy.config.rule_compilation import compiled
    from criproxy.rules.image_names import short_names_of

    loaded = load_rules(file)
    ruleset, hooks = compiled(loaded)
    configured = loaded.config.images.reading
    short_names = short_names_of(runtime) if configured is None else configured
    if recording is not None:
        from criproxy.cli.rules_test.recording import (
            KUBELET,
            read_recording,
            summarize,
            summarize_audit,
        )

        recorded = read_recording(recording, executable or KUBELET, short_names)
        audit = loaded.config.audit
        if ruleset.rules or audit is None:
            print_table(summarize(ruleset, recorded))
        if audit is not None:
            if ruleset.rules:
                click.echo()
            print_table(summarize_audit(audit, recorded))
        return
    assert calls is not None
    called = hooks if run_hooks else {}
    failed = False
    for number, call in enumerate(read_calls(calls, short_names)):
        simulation: Simulation = simulate(ruleset, called, call)
        failed = failed or simulation.failed
        lines = format_simulation(simulation, colours=sys.stdout.isatty(), hooks_run=run_hooks)
        click.echo("\n".join(["", *lines] if number else lines), color=True)
    if failed:
        raise SystemExit(1)


@command.command("list", epilog=_LIST_EPILOG, short_help="List a running daemon's rules.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The daemon's configuration file, for its metrics.address.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Where the daemon serves HTTP.  [default: the file's, else 127.0.0.1:9440]",
)
@output_option("A table")
def list_(config: Path | None, address: str | None, output: str) -> None:
    """List the rules of a running daemon in order, and how often each matched."""
    from criproxy.cli.support.http_client import address_of, get

    configured = load(config).config if config is not None else Config()
    page = get(address_of(address, configured), "/rules")
    if output == "json":
        click.echo(json.dumps(page, indent=2))
        return
    header = ("NAME", "ACTION", "MODE", "METHODS", "MATCHES", "ERRORS", "LAST MATCH")
    print_table([header, *map(_row, page["rules"])])


def _row(rule: dict[str, Any]) -> tuple[str, ...]:
    return (
        rule["name"],
        rule["action"],
        rule["mode"],
        ", ".join(rule["methods"]),
        str(rule["matches"]),
        str(rule["errors"]),
        rule["last_match"] or "-",
    )
