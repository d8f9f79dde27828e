"""The processes that hold a socket."""

from pathlib import Path

from criproxy.peers.socket_holders import holders_of

INODE = 4711


class Pid(int):
    """A pid that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Pid.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_many_holders(tmp_path: Path) -> None:
    """Each process with several descriptors of a socket is named once, and is not looked for among
    all others that have it, too: whoever passes a socket on would make that quadratic."""
    pids = [Pid(number) for number in range(1, 51)]
    for pid in pids:
        directory = tmp_path / str(int(pid)) / "fd"
        directory.mkdir(parents=True)
        for number in range(3):
            (directory / str(number)).symlink_to(f"socket:[{INODE}]")
    Pid.compared = 0
    found, unreadable = holders_of({INODE}, pids, tmp_path)
    assert Pid.compared <= 3 * len(pids)
    assert (found, unreadable) == ({INODE: pids}, 0)
