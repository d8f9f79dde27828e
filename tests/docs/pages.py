"""Functions that tests of the pages share."""

import re

from docs.generate.pages import Block


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def name(block: Block) -> str:
    """What pytest calls a block."""
    return f"{block.page}-{block.title or block.text[:24].split(chr(10))[0]}"
