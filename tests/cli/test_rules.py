"""criproxy rules: check, test and list."""

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry

from criproxy.cli import rules
from criproxy.cli.rules_test.call_file import read_calls
from criproxy.cli.rules_test.output import format_simulation
from criproxy.cli.rules_test.simulation import simulate
from criproxy.config.load import load_rules
from criproxy.config.rule_compilation import compiled
from criproxy.errors import ConfigError, UnavailableError, UsageError
from criproxy.observe.http import HTTPServer, Pages
from criproxy.rules.image_names import HUB
from tests.support import wire
from tests.support.captures import DIRECTORY
from tests.support.http_server import HttpServer, Response
from tests.support.waiting import LIMIT_SECONDS

MIRROR = """\
- name: mirror
  match: {methods: [PullImage], where: 'request.image.image.startsWith("docker.io/")'}
  rewrite: {request: {image.image: '"mirror/" + request.image.image'}}
"""
SCRIPT = {"script": "a.py", "timeout": f"{LIMIT_SECONDS:g}s"}
PULL = "method: PullImage\nrequest: {image: {image: docker.io/a}}\n"


def invoke(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(rules.command, [str(each) for each in arguments], input=stdin)


def error_of(result: Result) -> str:
    assert isinstance(result.exception, ConfigError), result.exception or result.output
    return str(result.exception)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(MIRROR)
    return path


def simulated(file: Path, text: str, call: str = PULL, *options: str, status: int = 0) -> list[str]:
    """Try rules out on calls; return the lines."""
    file.write_text(text)
    result = invoke("test", file, "--call", "-", *options, stdin=call)
    assert result.exit_code == status, result.exception or result.output
    output: str = result.output
    return output.splitlines()


def rule(name: str, action: dict[str, Any], **more: Any) -> dict[str, Any]:
    match = {"methods": ["PullImage"]} | more.pop("match", {})
    return {"name": name, "match": match} | action | more


def written(*all_rules: dict[str, Any]) -> str:
    text: str = yaml.safe_dump([*all_rules], sort_keys=False)
    return text


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def recorded(*records: tuple[int, bytes]) -> bytes:
    """Return a recording of directions and bytes."""
    return b"".join(struct.pack("<BQI", side, 0, len(data)) + data for side, data in records)


class TestCheck:
    def test_rules_alone(self, file: Path) -> None:
        """Each rule of a list has a line with what it does and for which methods."""
        result = invoke("check", file)
        assert result.exit_code == 0
        assert result.output.splitlines() == [
            "NAME    ACTION   MODE     METHODS",
            "mirror  rewrite  enforce  PullImage",
            "OK: 1 rule",
        ]

    def test_configuration(self, file: Path, tmp_path: Path) -> None:
        """A configuration is checked with its rules_dir, and under its rules_mode."""
        (tmp_path / "d").mkdir()
        file.rename(tmp_path / "d" / "a.yaml")
        config = tmp_path / "c.yaml"
        config.write_text("rules_dir: d\nrules_mode: dry-run\n")
        assert "mirror  rewrite  dry-run  PullImage" in invoke("check", config).output

    def test_nothing(self, file: Path) -> None:
        """No rules are right, too."""
        file.write_text("rules: []")
        assert invoke("check", file).output == "OK: 0 rules\n"

    @pytest.mark.parametrize(
        ("text", "line", "keys"),
        [
            (MIRROR.replace("request.image.image.s", "request.imagee.s"), 2, "match.where"),
            (
                MIRROR.replace("{image.image:", "{image.imagee:"),
                3,
                'rewrite.request["image.imagee"]',
            ),
            (MIRROR.replace("'\"mirror/\" + request.image.image'", "5"), 3, "rewrite.request"),
        ],
    )
    def test_line_of_the_very_key(self, file: Path, text: str, line: int, keys: str) -> None:
        """An error of compilation names the line of its key."""
        file.write_text(MIRROR.replace("name: mirror", "name: first") + text)
        error = error_of(invoke("check", file))
        assert error.startswith(f"{file}:{line + 3}: [1].{keys}"), error
        assert "\n" not in error

    def test_script_that_cannot_be_loaded(self, file: Path) -> None:
        """A hook's script is loaded, and its error is reported at the rule's key."""
        file.write_text(written(rule("a", {"hook": SCRIPT})))
        expected = f"[0].hook.script: {file.parent}/a.py: cannot be read: No such file or directory"
        assert expected in error_of(invoke("check", file))

    def test_absent_file(self, tmp_path: Path) -> None:
        """A file that is not there is named."""
        assert "cannot be read: No such file" in error_of(invoke("check", tmp_path / "x.yaml"))


class TestTest:
    def test_rewritten_request(self, file: Path) -> None:
        """A rule that acts is named, and the request shown as a diff."""
        assert simulated(file, MIRROR) == [
            "PullImage (v1) by uid 0, /usr/bin/kubelet",
            "  mirror  acts: rewrite",
            "--- request as it comes",
            "+++ request as it goes on",
            "@@ -1,2 +1,2 @@",
            " image:",
            "-  image: docker.io/a",
            "+  image: mirror/docker.io/a",
        ]

    @pytest.mark.parametrize(
        ("match", "why"),
        [
            ({"methods": ["Run*", "Stop*"]}, "methods: Run*, Stop*"),
            ({"where": 'request.image.image == "x"'}, 'where: request.image.image == "x" is false'),
            (
                {"callers": {"uid": [7]}},
                "callers: uid 0, gid 0, executable /usr/bin/kubelet, unit None, the kubelet",
            ),
            (
                {"listeners": ["*/other.sock"]},
                "listeners: unix:///run/criproxy/criproxy.sock is none of ['*/other.sock']",
            ),
            ({"where": 'pod.namespace == "a"'}, "where: false, "),
        ],
    )
    def test_why_not(self, file: Path, match: dict[str, Any], why: str) -> None:
        """A rule that does not match names the part of its match that does not hold."""
        lines = simulated(file, written(rule("a", {"deny": {}}, match=match)))
        assert lines[1].startswith(f"  a  no: {why}")
        assert len(lines) == 2

    def test_nothing_to_do(self, file: Path) -> None:
        """A rule whose globs match a method that it has no business with says that."""
        action = {"rewrite_images": [{"from": "docker.io/*", "to": "b.io/*"}]}
        lines = simulated(
            file, written(rule("a", action, match={"methods": ["*"]})), "method: Version"
        )
        assert lines[1] == "  a  no: rewrite_images: nothing to do in Version"

    def test_order(self, file: Path) -> None:
        """Rules act in order, each on what the last has left, until one does not continue."""
        add = {"rewrite": {"request": {"image.image": 'request.image.image + "!"'}}}
        again = {"continue": True}
        deny = {"deny": {"message": "no"}}
        text = written(rule("a", add, **again), rule("b", add, **again), rule("c", deny, **again))
        lines = simulated(file, text + written(rule("d", add)))
        assert lines[1:5] == [
            "  a  acts: rewrite",
            "  b  acts: rewrite",
            "  c  acts: deny: PERMISSION_DENIED",
            "  d  not reached: c is the last to act",
        ]
        assert lines[-2:] == [
            "+  image: docker.io/a!!",
            "answer PERMISSION_DENIED: no (the runtime is not asked)",
        ]

    def test_dry_run(self, file: Path) -> None:
        """A rule in dry-run would act, changes nothing, and keeps no other from acting."""
        text = written(
            rule("a", {"deny": {}}, mode="dry-run"), rule("b", {"delay": {"fixed": "1s"}})
        )
        assert simulated(file, text)[1:] == [
            "  a  would act: deny: PERMISSION_DENIED",
            "  b  acts: delay: 1s, before, 100 % of calls",
        ]

    def test_responses(self, file: Path) -> None:
        """What becomes of a response is shown, too; of a stream, of each of its messages."""
        text = written(
            rule("a", {"rewrite": {"response": {"image_ref": '"x"'}}}),
            rule("b", {"fault": {"drop": "true"}}, match={"methods": ["GetContainerEvents"]}),
        )
        calls = "method: PullImage\nresponse: {imageRef: y}\n---\n"
        lines = simulated(file, text, calls + "method: GetContainerEvents\nresponse: [{}, {}]\n")
        assert lines[3:7] == [
            "--- response as it comes",
            "+++ response as it goes on",
            "@@ -1 +1 @@",
            "-image_ref: y",
        ]
        assert lines[-1] == "0 of 2 response messages reach the client"

    @pytest.mark.parametrize(
        ("on_error", "answer"),
        [("fail", ["answer INTERNAL: criproxy: rule a: "]), ("pass", [])],
    )
    def test_rule_that_fails(self, file: Path, on_error: str, answer: list[str]) -> None:
        """A rule that cannot be evaluated is shown with the call's outcome; the status is 1."""
        match = {"where": 'metadata["absent"] == "x"'}
        text = written(rule("a", {"deny": {}}, match=match, on_error=on_error))
        lines = simulated(file, text, status=1)
        assert lines[1].startswith("  a  fails: cel: ")
        assert lines[1].endswith(f"; on_error: {on_error}")
        assert len(lines) == 2 + len(answer)
        assert all(line.startswith(start) for line, start in zip(lines[2:], answer, strict=True))

    def test_everything_that_a_call_can_say(self, file: Path) -> None:
        """Each key of a call is what CEL sees of it."""
        where = (
            'pod.namespace == "n" && pod.labels["a"] == "b" && container.name == "c" '
            '&& caller.uid == 5 && caller.executable == "/x" && caller.unit == "u.service" '
            '&& caller.kubelet && listener == "unix:///l" '
            '&& api_version == "v1alpha2" && metadata["h"] == "v" && method == "StopContainer"'
        )
        call = {
            "method": "StopContainer",
            "api_version": "v1alpha2",
            "pod": {"namespace": "n", "labels": {"a": "b"}},
            "container": {"name": "c"},
            "caller": {"uid": 5, "executable": "/x", "unit": "u.service", "kubelet": True},
            "listener": "unix:///l",
            "metadata": {"h": "v"},
        }
        match = {"methods": ["StopContainer"], "where": where}
        lines = simulated(file, written(rule("a", {"deny": {}}, match=match)), yaml.safe_dump(call))
        assert lines[:2] == [
            "StopContainer (v1alpha2) by uid 5, /x",
            "  a  acts: deny: PERMISSION_DENIED",
        ]

    @pytest.mark.parametrize(
        ("caller", "is_it"),
        [
            ({}, True),
            ({"executable": "/usr/local/bin/k3s"}, True),
            ({"executable": None, "unit": "kubelet.service"}, True),
            ({"executable": "/usr/bin/crictl"}, False),
            ({"uid": 1000}, False),
            ({"kubelet": False}, False),
        ],
    )
    def test_who_is_the_kubelet(self, file: Path, caller: dict[str, Any], is_it: bool) -> None:
        """Whether the caller is the kubelet follows from its executable unless it is given."""
        text = written(rule("a", {"deny": {}}, match={"callers": {"kubelet": is_it}}))
        call = yaml.safe_dump({"method": "PullImage", "caller": caller})
        assert "acts" in simulated(file, text, call)[1]

    def test_pod_of_the_request(self, file: Path) -> None:
        """A pod that the request itself describes need not be given."""
        match = {"methods": ["RunPodSandbox"], "where": 'pod.namespace == "n"'}
        call = "method: RunPodSandbox\nrequest: {config: {metadata: {namespace: n}}}\n"
        assert "acts" in simulated(file, written(rule("a", {"deny": {}}, match=match)), call)[1]

    def test_hooks_are_asked_if_wanted(self, file: Path) -> None:
        """A script is run with --run-hooks alone; a denial of its is the answer."""
        (file.parent / "a.py").write_text(
            "from criproxy.hook import Deny\n"
            "def request(call):\n"
            "    if 'bad' in call.message.image.image: raise Deny('ABORTED', 'bad')\n"
            "    call.message.image.image += '!'\n"
        )
        text = written(rule("a", {"hook": SCRIPT}))
        calls = PULL + "---\n" + PULL.replace("docker.io/a", "bad")
        assert simulated(file, text)[1:] == ["  a  acts: hook: a.py (not asked; see --run-hooks)"]
        lines = simulated(file, text, calls, "--run-hooks")
        assert "+  image: docker.io/a!" in lines
        assert lines[-2:] == [
            "  a  acts: hook: denies",
            "answer ABORTED: bad (the runtime is not asked)",
        ]

    def test_denied_answer(self, file: Path) -> None:
        """A hook may refuse a response as well: then the runtime has been asked."""
        (file.parent / "a.py").write_text(
            "from criproxy.hook import Deny\n"
            "async def response(call): raise Deny('ABORTED', call.request.image.image)\n"
        )
        text = written(rule("a", {"hook": SCRIPT}))
        lines = simulated(file, text, PULL + "response: {}\n", "--run-hooks")
        assert lines[-1] == "answer ABORTED: docker.io/a (the runtime is asked)"

    def test_denial_that_the_rule_forbids(self, file: Path) -> None:
        """A hook that denies although its rule forbids it has failed, as in the daemon."""
        (file.parent / "a.py").write_text(
            "from criproxy.hook import Deny\ndef request(call): raise Deny('ABORTED', 'bad')\n"
        )
        text = written(rule("a", {"hook": SCRIPT | {"may_deny": False}}))
        line = simulated(file, text, PULL, "--run-hooks", status=1)[1]
        assert line.startswith("  a  fails: ")
        assert line.endswith("and the rule has may_deny: false; on_error: pass")

    @pytest.mark.parametrize(
        ("options", "config", "denied"),
        [
            ((), "", True),
            (("--runtime", "docker"), "", True),
            (("--runtime", "cri-o"), "", False),
            (("--runtime", "cri-o"), "images: {short_names: docker.io}\n", True),
            ((), "images: {short_names: as-written}\n", False),
        ],
    )
    def test_short_names(
        self, file: Path, options: tuple[str, ...], config: str, denied: bool
    ) -> None:
        """A short name is one of docker.io if the runtime, or the configuration, says so."""
        made = rule("a", {"deny": {}}, match={"where": 'image.registry == "docker.io"'})
        text = config + yaml.safe_dump({"rules": [made]})
        call = "method: PullImage\nrequest: {image: {image: nginx}}\n"
        lines = simulated(file, text, call, *options)
        assert ("acts: deny" in lines[1]) is denied

    def test_images(self, file: Path) -> None:
        """A container that is created with an id has the name that the runtime's image has."""
        match = {"methods": ["CreateContainer"], "where": 'image.registry == "quay.io"'}
        made = rule("a", {"deny": {}}, match=match)
        call = (
            "method: CreateContainer\nrequest: {config: {image: {image: 'sha256:ab'}}}\n"
            "images: {'sha256:ab': ['quay.io/x:1']}\n"
        )
        assert "acts: deny" in simulated(file, written(made), call)[1]

    def test_colours(self, file: Path) -> None:
        """For a terminal, what acts and what differs is coloured; the words are the same."""
        (call,) = read_calls(_write(file.parent / "call.yaml", PULL), HUB)
        simulation = simulate(compiled(load_rules(file))[0], {}, call)
        plain = format_simulation(simulation, colours=False, hooks_run=False)
        coloured = format_simulation(simulation, colours=True, hooks_run=False)
        assert [click.unstyle(line) for line in coloured] == plain
        assert coloured[1] == click.style(plain[1], fg="green")
        assert coloured[-2:] == [
            click.style(plain[-2], fg="red"),
            click.style(plain[-1], fg="green"),
        ]

    def test_file_of_calls(self, file: Path) -> None:
        """Calls are read from a file, by any of a method's names."""
        calls = file.parent / "call.yaml"
        calls.write_text(
            "method: ImageService/PullImage\n---\nmethod: /runtime.v1alpha2.ImageService/PullImage"
        )
        lines = invoke("test", file, "--call", calls).output.splitlines()
        assert [line for line in lines if line.startswith("Pull")] == [
            "PullImage (v1) by uid 0, /usr/bin/kubelet",
            "PullImage (v1alpha2) by uid 0, /usr/bin/kubelet",
        ]

    @pytest.mark.parametrize("with_rules", [False, True])
    def test_recording(self, file: Path, with_rules: bool) -> None:
        """Of a configuration both are shown, what its rules do and what its audit log records, as
        far as there are; whose calls they are is an option."""
        recording = DIRECTORY / "crictl-10.bin.gz"
        config: dict[str, Any] = {"audit": {"sinks": [{"stdout": {}}]}}
        if with_rules:
            match = {"methods": ["*"], "callers": {"executable": ["*/crictl"]}}
            config["rules"] = [rule("a", {"deny": {}}, match=match)]
        file.write_text(yaml.safe_dump(config))
        for executable, recorded, matched in (("/bin/crictl", 1, 2), (None, 0, 0)):
            options = [] if executable is None else ["--executable", executable]
            result = invoke("test", file, "--recording", recording, *options)
            assert result.exit_code == 0
            rows = [line.split() for line in result.output.splitlines()]
            if with_rules:
                assert rows[:3] == [
                    ["RULE", "ACTION", "CALLS", "MATCHED", "DENIED", "CHANGED", "FAILED"],
                    ["a", "deny", "2", *[str(matched)] * 2, "0", "0"],
                    [],
                ]
            assert rows[-4:] == [
                ["METHOD", "CALLS", "NONE", "METADATA", "REQUEST", "REQUESTRESPONSE"],
                ["ExecSync", "1", str(1 - recorded), "0", str(recorded), "0"],
                ["Version", "1", str(1 - recorded), "0", str(recorded), "0"],
                ["(all)", "2", str(2 - 2 * recorded), "0", str(2 * recorded), "0"],
            ]
            assert len(rows) == (7 if with_rules else 4)

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (b"GET / HTTP/1.1\r\n", "is no recording: no record at byte 0"),
            (recorded((0, b"PRI"))[:-1], "is no recording: no record at byte 0"),
            (recorded((0, b"PRI"), (7, b"x")), "is no recording: no record at byte 16"),
            (gzip.compress(bytes(1000))[:-8], "cannot be read: "),
            (None, "cannot be read: "),
        ],
        ids=["text", "cut off", "direction", "gzip that is cut off", "absent"],
    )
    def test_no_recording(self, file: Path, content: bytes | None, error: str) -> None:
        """A file that is no recording, or not all of one, is refused with the place."""
        path = file.parent / "recording.bin"
        if content is not None:
            path.write_bytes(content)
        result = invoke("test", file, "--recording", path)
        assert isinstance(result.exception, UsageError)
        assert str(result.exception).startswith(f"{path}: {error}")

    def test_calls_of_a_recording_that_cannot_be_simulated(self, file: Path) -> None:
        """Rules are simulated for the calls of the CRI whose request is complete and decodable."""
        file.write_text(written(rule("a", {"deny": {}}, match={"methods": ["*"]})))
        image = wire.message(b"\x0a\x03\x0a\x01a")
        requests = [
            (wire.PATH, wire.message()),
            (b"/runtime.v1.ImageService/PullImage", image),
            (b"/runtime.v1.ImageService/PullImage", image[:-1]),
            (b"/runtime.v1.ImageService/PullImage", wire.message(b"\xff")),
            (b"/runtime.v1.ImageService/PullImage", wire.message(b"no gzip", compressed=True)),
            (b"/some.Other/Method", image),
        ]
        frames = [
            wire.request(2 * number + 1, path=path) + wire.data(2 * number + 1, body, end=True)
            for number, (path, body) in enumerate(requests)
        ]
        path = file.parent / "recording.bin"
        path.write_bytes(
            recorded(*((sent.side, sent.data) for sent in wire.conversation(wire.client(*frames))))
        )
        result = invoke("test", file, "--recording", path)
        assert result.output.splitlines()[1].split() == ["a", "deny", "2", "2", "2", "0", "0"]

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ([], "give either --call or --recording"),
            (["--call", "-", "--recording", "x"], "give either --call or --recording"),
            (["--call", "-", "--executable", "x"], "--executable is for --recording; a call has "),
        ],
    )
    def test_options_that_exclude_each_other(
        self, file: Path, options: list[str], error: str
    ) -> None:
        """Options that do not go together are refused."""
        result = CliRunner().invoke(rules.command, ["test", str(file), *options])
        assert result.exit_code == 2
        assert error in result.output

    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            ("", "<stdin>: has no call; write one like method: Version"),
            ("request: {}", "<stdin>:1: Object missing required field `method`"),
            ("method: Pull", "<stdin>:1: method: 'Pull' is no method of the CRI's v1; write it "),
            ("method: List*", "<stdin>:1: method: 'List*' is no method of the CRI's v1; write it "),
            (
                "method: Version\nreqest: {}",
                "<stdin>:2: reqest: no such key; did you mean 'request'?",
            ),
            ("method: PullImage\nrequest: {imagee: {}}", "<stdin>:2: request: "),
            (
                "method: PullImage\n---\n\nmethod: PullImage\nresponse: [{}]",
                "<stdin>:5: response: ",
            ),
            ("method: GetContainerEvents\nresponse:\n- {}\n- {x: 1}", "<stdin>:4: response[1]: "),
            ("method: [", "<stdin>:1: not YAML: "),
        ],
    )
    def test_wrong_call(self, file: Path, call: str, expected: str) -> None:
        """An error in a call names its line."""
        error = error_of(invoke("test", file, "--call", "-", stdin=call))
        assert error.startswith(expected), error
        assert "\n" not in error


RULE = {
    "name": "mirror",
    "action": "rewrite",
    "mode": "enforce",
    "methods": ["PullImage", "List*"],
    "matches": 12,
    "errors": 0,
    "last_match": None,
}


class TestList:
    @pytest.fixture
    def address(self) -> Iterator[str]:
        page = {"rules": [RULE, RULE | {"name": "b", "last_match": "2026-11-23T01:02:03Z"}]}
        pages = Pages(CollectorRegistry(), lambda: None, lambda: None, dict, lambda: page)
        server = HTTPServer("127.0.0.1", 0, pages)
        yield server.address
        server.close()

    def test_table(self, address: str) -> None:
        """The rules of a daemon are a table, in their order."""
        assert invoke("list", "--address", address).output.splitlines() == [
            "NAME    ACTION   MODE     METHODS           MATCHES  ERRORS  LAST MATCH",
            "mirror  rewrite  enforce  PullImage, List*  12       0       -",
            "b       rewrite  enforce  PullImage, List*  12       0       2026-11-23T01:02:03Z",
        ]

    def test_json(self, address: str) -> None:
        """For programs it is what /rules says."""
        page = json.loads(invoke("list", "--address", address, "-o", "json").output)
        assert page["rules"][0] == RULE

    def test_address_of_the_configuration(self, address: str, tmp_path: Path) -> None:
        """The daemon's configuration says where it is."""
        config = tmp_path / "c.yaml"
        config.write_text(f"metrics: {{address: '{address}'}}")
        assert "mirror" in invoke("list", "-c", config).output
        config.write_text("metrics: {address: null}")
        result = invoke("list", "-c", config)
        assert isinstance(result.exception, UsageError)

    def test_nobody_there(self, address: str) -> None:
        """A daemon that is not there is unavailable, and so is what is no criproxy."""
        result = invoke("list", "--address", "127.0.0.1:1")
        assert isinstance(result.exception, UnavailableError)
        assert "http://127.0.0.1:1/rules: Connection refused; is criproxy" in str(result.exception)

    def test_wrong_address(self) -> None:
        """An address that is none is a user's mistake."""
        result = invoke("list", "--address", "here")
        assert isinstance(result.exception, UsageError)
        assert str(result.exception).startswith("--address: 'here' is not an address")

    @pytest.mark.parametrize(
        ("response", "error"),
        [
            (Response(status=503), "/rules answers 503 Service Unavailable"),
            (Response(b"<html>"), "/rules is not criproxy's: its answer is not JSON"),
        ],
    )
    def test_another_server(self, response: Response, error: str) -> None:
        """The error says what a server that is not criproxy, or an intermediary, answers."""
        with HttpServer(lambda *_: response) as server:
            result = invoke("list", "--address", server.url.removeprefix("http://"))
        assert isinstance(result.exception, UnavailableError)
        assert error in str(result.exception)
