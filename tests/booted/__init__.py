"""Installs the Debian package where a systemd runs: ``python -m tests.booted PACKAGE``.

As root, with Debian's packages mmdebstrap and systemd-container. A new Debian 12 is made and booted
by systemd-nspawn, on an overlay and in a network of its own; in it, ``scenario`` installs, reloads,
restarts, upgrades, bypasses and uninstalls criproxy under a stand-in kubelet that never stops
calling. ``--tree DIRECTORY`` keeps the Debian there, or takes one that was kept.
"""
