"""``python -m criproxy``."""

from criproxy.cli import main

main()
