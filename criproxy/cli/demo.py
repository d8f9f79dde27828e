"""``criproxy demo``: shows the proxy between a client and a runtime, in a terminal."""

import asyncio
import signal
from typing import Final

import click

from criproxy.cli.support.options import duration
from criproxy.relay.endpoints import parse_endpoint

_EPILOG: Final = """\
\b
Examples:
  criproxy demo
  criproxy demo --for 1m | tee demo.txt
  criproxy demo --runtime-endpoint unix:///run/containerd/containerd.sock
  criproxy demo --runtime-endpoint /run/crio/crio.sock \\
      --image docker.io/library/busybox:1.36 -- sleep 3600

\b
Exit status: 0 done, also when Ctrl-C or SIGTERM ended it early; 1 something needed is unavailable
or could not be removed, or client and proxy counted differently; 2 wrong options.
"""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("demo", epilog=_EPILOG, short_help="Show the proxy at work.")
@click.option(
    "--runtime-endpoint",
    metavar="ENDPOINT",
    help="A real runtime's socket.  [default: an embedded runtime, in memory]",
)
@click.option(
    "--for",
    "length",
    metavar="DURATION",
    default="6s",
    show_default=True,
    help="How long the client works, for example 20s or 1m30s, without what follows.",
)
@click.option(
    "--image",
    metavar="IMAGE",
    help="The image of the pods; if it is missing, it is pulled and removed again.  "
    "[default: an image that the runtime has, preferably the pause image]",
)
@click.option(
    "--api-version",
    type=click.Choice(["v1", "v1alpha2"]),
    default="v1",
    show_default=True,
    help="The version of the CRI that the client speaks.",
)
@click.argument("command_line", metavar="[-- COMMAND...]", nargs=-1)
def command(
    runtime_endpoint: str | None,
    length: str,
    image: str | None,
    api_version: str,
    command_line: tuple[str, ...],
) -> None:
    """Start a runtime, the proxy and a kubelet-like client, and show the calls between them.

    The client lists, starts and stops pods through the proxy. Each call is printed when it ends.
    Then rules of the proxy deny a call, rename an image, and have a call hang, which is found in
    flight. A final table summarizes what the proxy saw. It is followed by the record in the audit
    log of each call that a rule acted on, and by a comparison of the proxy's metrics with the
    client's counts.
    COMMAND replaces the command of the image.

    Everything that was started or created is removed at the end, also on Ctrl-C and SIGTERM; a
    second signal gives up on calls that do not return. On a real runtime the pods are in the
    namespace criproxy-demo and have the label criproxy.dev/run.
    """
    # grpcio is slow to import, and the daemon's process must never load it.
    import uvloop

    from criproxy.demo.scenario import DemoScenario, Options

    scenario = DemoScenario(
        Options(
            runtime=parse_endpoint(runtime_endpoint) if runtime_endpoint else None,
            seconds=duration("--for", length, "is no time to show anything in; write it like 20s"),
            image=image,
            command=command_line,
            api_version=api_version,
        )
    )

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, scenario.end)
        await asyncio.to_thread(scenario.run)

    uvloop.run(main())
