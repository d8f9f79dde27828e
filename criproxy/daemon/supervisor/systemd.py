"""Reports the daemon's state to systemd (sd_notify(3))."""

import os
import socket
import time


def notify(message: str) -> None:
    """Send ``READY=1``, ``STOPPING=1`` and the like. Does nothing outside systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), address)


def notify_reloading() -> None:
    """Report that a reload has begun; ``READY=1`` reports its end, whether it succeeded or not.

    The time is what Type=notify-reload wants.
    """
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_interval() -> float | None:
    """Return the seconds between the ``WATCHDOG=1`` that systemd wants to see; None for none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdecimal() else None
