"""Output of hook scripts: logged at a bounded rate."""

import os

from criproxy.enforce.hooks.script_output import ScriptOutput
from tests.support.virtual_time import passed, run, settle


def test_rate() -> None:
    """A hundred lines a second are logged; the others wait."""

    async def main() -> None:
        lines: list[str] = []
        output = ScriptOutput(lines.append)
        writer = output.open()
        assert writer is not None
        os.write(writer, b"".join(b"%d\n" % number for number in range(250)))
        await settle()
        assert lines == [str(number) for number in range(100)]
        await passed(1.1)
        assert len(lines) == 200
        await passed(1.1)
        assert lines == [str(number) for number in range(250)]
        output.close()

    run(main)


def test_long_lines() -> None:
    """A line that does not end is logged in parts, and the last one at the end."""

    async def main() -> None:
        lines: list[str] = []
        output = ScriptOutput(lines.append)
        writer = output.open()
        assert writer is not None
        os.write(writer, b"a" * 10_000)
        await settle()
        assert len(lines) > 0
        os.write(writer, b"\nb\xff")
        output.close()
        assert "".join(lines) == "a" * 10_000 + "b\ufffd"

    run(main)


def test_end() -> None:
    """The end of the output closes the pipe."""

    async def main() -> None:
        lines: list[str] = []
        output = ScriptOutput(lines.append)
        output.open()
        output.close_writer()
        await settle()
        assert output._reader is None
        output.close()
        assert lines == []

    run(main)


def test_without_a_log() -> None:
    """Without a log there is no pipe: the output is that of this process."""

    async def main() -> None:
        output = ScriptOutput(None)
        assert output.open() is None
        output.close()

    run(main)
