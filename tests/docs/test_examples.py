"""The examples of the pages work: configurations load, commands exist, output is as shown."""

import contextlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from textwrap import indent
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
import pytest
import yaml
from click.testing import CliRunner

from criproxy.audit.policy import AuditPolicy
from criproxy.cli import cli, main
from criproxy.cli.support.admin_client import DEFAULT as ADMIN_SOCKET
from criproxy.config.load import load, parse
from criproxy.config.rule_compilation import compiled
from criproxy.config.schema import DEFAULT_ENDPOINT, Config
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.daemon.supervisor.http.ui.application import PAGE
from criproxy.doctor.examine import CHECKS
from criproxy.enforce.hooks.call_review import decode_answer, encode_review
from criproxy.enforce.hooks.hook import HookDenial
from criproxy.observe.logs.call_line import CallLine
from criproxy.rules.profiles.profile import BUILT_IN, FULL
from criproxy.timeline.where import Where
from criproxy.traces.spec import TracesOtlpSpec
from docs.generate.commands import described
from docs.generate.example import shown
from docs.generate.pages import ROOT, Block, audit_policies, blocks
from tests.docs.pages import name
from tests.support.rules import facts

EXAMPLE = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
RULES = next(each.text for each in blocks("yaml") if each.title == "rules.yaml")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HTTP_PAGES = set(
    re.findall(r"^\| `(/\w+)` \|", (ROOT / "docs/reference/http.md").read_text(), re.M)
)
ADMIN_PAGES = set(
    re.findall(r"^\| `(/v1/\w+)` \|", (ROOT / "docs/reference/http.md").read_text(), re.M)
)

# Configurations
# --------------

CLIENTS = {
    "containerRuntimeEndpoint": str(DEFAULT_ENDPOINT),
    "runtime-endpoint": str(DEFAULT_ENDPOINT),
    "image-endpoint": str(DEFAULT_ENDPOINT),
    "kubelet-arg": [f"container-runtime-endpoint={DEFAULT_ENDPOINT}"],
}
"""Keys of the clients' own files, and what they have to be."""

TOP = {field.encode_name for field in msgspec.structs.fields(Config)}


def configuration(directory: Path, text: str) -> Path:
    """A file with a configuration, beside all that it may name."""
    shutil.copytree(ROOT / "deploy/hooks", directory / "hooks")
    (directory / "rules.d").mkdir()
    file = directory / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("block", blocks("yaml"), ids=name)
def test_configuration(block: Block, tmp_path: Path) -> None:
    """Each configuration that is shown, or part of one, is loaded and compiled."""
    text, keys = block.text, set(yaml.safe_load(block.text))
    if keys & set(CLIENTS):
        shown = yaml.safe_load(text)
        assert {key: shown[key] for key in keys & set(CLIENTS)}.items() <= CLIENTS.items()
        return
    if "scrape_configs" in keys:
        return  # Prometheus' own: tests/deploy/test_prometheus.py has it checked
    if "receivers" in keys:
        protocols = yaml.safe_load(text)["receivers"]["otlp"]["protocols"]
        assert f"http://{protocols['http']['endpoint']}/v1/traces" == TracesOtlpSpec().endpoint
        return
    if "method" in keys:
        rehearse(tmp_path, RULES, text)
        return
    if keys <= {"policy", "redact"}:
        text, keys = f"audit:\n  sinks: [{{stdout: {{}}}}]\n{indent(text, '  ')}", {"audit"}
    assert keys <= TOP
    loaded = load(configuration(tmp_path, text))
    assert loaded.config != Config()
    ruleset, _ = compiled(loaded)
    assert len(ruleset.rules) == len(loaded.rules)


@pytest.mark.parametrize("key", ["profiles", "audit", "traces"])
def test_keys_of_the_example(key: str) -> None:
    """So is what config.example.yaml shows of a key."""
    assert getattr(parse(shown(key), "config.example.yaml"), key)


def test_default_policy() -> None:
    """The policy that is shown as the default is the one without a policy."""
    assert dict(audit_policies())["docs/reference/audit-policy.md"] == [*AuditPolicy.DEFAULT]


def test_built_in_profiles() -> None:
    """The profiles that are described are those that need not be configured."""
    page = (ROOT / "docs/reference/profiles.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)`.* \| .* \| ", page, re.MULTILINE)) == {FULL, *BUILT_IN}


# Rules
# -----


def rehearse(directory: Path, text: str, call: str) -> list[str]:
    """What ``rules test`` says to rules."""
    (directory / "rules.yaml").write_text(text)
    (directory / "call.yaml").write_text(call)
    options = ["rules", "test", "rules.yaml", "--call", "call.yaml"]
    with contextlib.chdir(directory):
        result = CliRunner().invoke(cli, options)
    assert result.exit_code == 0, result.exception
    output: str = result.output
    return output.splitlines()


CASES = {
    "mirror-docker-hub": (
        "method: PullImage\nrequest: {image: {image: docker.io/a}}",
        "+  image: mirror.local/library/a:latest",
    ),
    "team-label": (
        "method: RunPodSandbox\nrequest: {config: {metadata: {namespace: shop}}}",
        "+    team: blue-shop",
    ),
    "slow-pulls": (
        "method: PullImage\nrequest: {image: {image: nginx}}",
        "  slow-pulls         acts: delay: 2s ± 0.5s, before, 10 % of calls",
    ),
    "flaky-start": (
        "method: StartContainer\nresponse: {}\npod: {namespace: chaos}",
        "answer UNAVAILABLE: injected (the runtime is asked)",
    ),
    "only-signed": (
        "method: CreateContainer\nrequest: {config: {image: {image: docker.io/a}}}",
        "answer PERMISSION_DENIED: image not allowed on this node (the runtime is not asked)",
    ),
}


@pytest.mark.parametrize(("call", "expected"), CASES.values(), ids=CASES)
def test_rules_do_what_they_say(call: str, expected: str, tmp_path: Path) -> None:
    """Each rule of the list that is shown has its effect."""
    assert [*CASES] == [rule.name for rule in parse(RULES, "rules.yaml").rules]
    assert expected in rehearse(tmp_path, RULES, call)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        CASES["mirror-docker-hub"],
        (CASES["only-signed"][0], "  only-signed        would act: deny: PERMISSION_DENIED"),
    ],
)
def test_rules_of_the_example(call: str, expected: str, tmp_path: Path) -> None:
    """So does each that config.example.yaml shows."""
    text = shown("rules")
    assert len(parse(text, "config.example.yaml").rules) == 2
    assert expected in rehearse(tmp_path, text, call)


def test_what_rules_test_says(tmp_path: Path) -> None:
    """What is shown of ``rules test`` is what it says to the rules that are shown."""
    session = next(
        each.text for each in blocks("console") if each.text.startswith("$ cat call.yaml")
    )
    call, _, said = session.removeprefix("$ cat call.yaml\n").partition("$ criproxy rules test ")
    assert said.splitlines()[1:] == rehearse(tmp_path, RULES, call)


def test_error_that_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a misspelt field is what ``rules check`` says, and where."""
    shown = next(each.text for each in blocks("text") if "field 'registri'" in each.text)
    (tmp_path / "rules.yaml").write_text(RULES.replace("image.registry ==", "image.registri =="))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["criproxy", "rules", "check", "rules.yaml"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == shown


def test_misspelt_key_that_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a misspelt key of the example is what ``check`` says, and where."""
    file = tmp_path / "config.yaml"
    file.write_text(EXAMPLE.replace("- endpoint:", "- endpont:"))
    monkeypatch.setattr("sys.argv", ["criproxy", "check", "-c", str(file)])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err.replace(str(file), "/etc/criproxy/config.yaml")
    assert any(said in each.text for each in blocks("console"))


def test_script() -> None:
    """The script that is shown is the one that there is."""
    (shown,) = [each.text for each in blocks("python")]
    assert (ROOT / "deploy/hooks/label.py").read_text().endswith(shown)


# Lines of JSON
# -------------


@pytest.mark.parametrize("block", blocks("json"), ids=name)
def test_json(block: Block) -> None:
    """Each line of the log that is shown has fields that lines have; other JSON is JSON."""
    shown = json.loads(block.text)
    if shown.get("event") == "call":
        assert set(shown) <= {field.encode_name for field in msgspec.structs.fields(CallLine)}
    elif "response" in shown:
        answered(block.text, shown["response"])


def answered(text: str, response: dict[str, Any]) -> None:
    """Read a webhook's answer as the daemon does, which takes no other."""
    if response["allowed"]:
        assert decode_answer(text.encode(), response["uid"]) == response["patch"]
    else:
        with pytest.raises(HookDenial, match=response["status"]["message"]):
            decode_answer(text.encode(), response["uid"])


def test_fields_of_a_review() -> None:
    """The fields of what a webhook receives are those that are described."""
    call = facts("/runtime.v1.RuntimeService/Version", v1.VersionRequest())
    review = json.loads(encode_review("u", "response", {}, call))
    page = (ROOT / "docs/reference/hooks.md").read_text(encoding="utf-8")
    webhooks = page.partition("## Webhooks")[2]
    rows = re.findall(r"^\| (`.*`) \|", webhooks, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(review["request"])
    assert f"`{review['apiVersion']}`" in webhooks
    assert f"`{review['kind']}`" in webhooks


# Commands
# --------

OTHERS = {
    *("apt", "cat", "clickhouse-client", "crictl", "crio", "curl", "export", "helm", "jq"),
    *("journalctl", "k3s", "kubectl", "man", "pipx", "podman", "python3", "systemctl", "uv"),
}
"""Programs that are not ours; curl where it asks CRI-O."""

COMMANDS = {each.name: each.command for each in described()}


def commands() -> list[tuple[str, list[str]]]:
    """Every command in the blocks of a console, with the page that shows it."""
    found = []
    for block in blocks("console"):
        for line in block.text.splitlines():
            if line.startswith(("$ ", "# ")):
                words = shlex.split(line[2:].removesuffix(" &"), comments=True)
                while words:
                    end = words.index("|") if "|" in words else len(words)
                    found.append((block.page, words[:end]))
                    words = words[end + 1 :]
    return found


def conditions() -> list[list[str]]:
    """The arguments of each ``criproxy tail`` with an expression."""
    tails = (words[2:] for _, words in commands() if words[:2] == ["criproxy", "tail"])
    return [words for words in tails if "--where" in words]


@pytest.mark.parametrize("words", conditions(), ids=lambda value: str(value)[:60])
def test_conditions_of_tail(words: list[str]) -> None:
    """Each expression of ``tail`` is right."""
    with COMMANDS["criproxy tail"].make_context("tail", [*words]) as context:
        Where(context.params["where"], context.params["methods"])


def test_a_wrong_condition_of_tail() -> None:
    """The error of a wrong expression that is shown is what is said of it."""
    page = (ROOT / "docs/how-to/tail.md").read_text(encoding="utf-8")
    (expression,) = re.findall(r"^`(.+ == .+)`, is an error", page, re.MULTILINE)
    with pytest.raises(ValueError, match=r"1:14") as raised:
        Where(expression)
    assert f"\ncriproxy: --where: {raised.value}\n" in page


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: str(value)[:60])
def test_command(page: str, words: list[str]) -> None:
    """Each command that is shown exists, with its options and the files that it names."""
    program, *arguments = words
    match Path(program).name:
        case "criproxy":
            name = "criproxy"
            while arguments and f"{name} {arguments[0]}" in COMMANDS:
                name += f" {arguments.pop(0)}"
            with COMMANDS[name].make_context(name, arguments) as context:
                assert isinstance(context, click.Context)
        case "make":
            assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.MULTILINE)
        case "curl" if arguments[:2] == ["--unix-socket", ADMIN_SOCKET.path]:
            assert urlsplit(arguments[-1]).path in ADMIN_PAGES
        case "curl" if arguments[0] != "--unix-socket":
            assert f"/{arguments[-1].rpartition('/')[2]}" in HTTP_PAGES
        case "install":
            assert (ROOT / arguments[-2]).is_file()
        case "pip":
            assert (ROOT / arguments[arguments.index("-c") + 1]).is_file()
        case "ssh":
            assert arguments[:2] == ["-NL", f"9440:{ADMIN_SOCKET.path}"]
        case other:
            assert other in OTHERS, page


def test_every_page_is_described() -> None:
    """The pages that the daemon serves are those that are described."""
    source = (ROOT / "criproxy/observe/http.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"(/[a-z]+)"', source)) | {PAGE} == HTTP_PAGES
    source = (ROOT / "criproxy/daemon/supervisor/http/admin.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"(/v1/[a-z]+)"', source)) == ADMIN_PAGES


def test_checks_of_the_doctor() -> None:
    """The checks that are described are those of ``criproxy doctor``, in its order."""
    page = (ROOT / "docs/how-to/find-bypasses.md").read_text(encoding="utf-8")
    names = [sys.modules[check.__module__].__dict__["NAME"] for check in CHECKS]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == names


@pytest.mark.parametrize(
    "path",
    sorted(
        {
            path
            for block in blocks("console", "text", "yaml")
            for path in re.findall(r"\bdeploy/[\w./-]+\w", block.text)
        }
    ),
)
def test_files_that_are_named(path: str) -> None:
    """The files of deploy/ that are named exist."""
    assert (ROOT / path).exists()
