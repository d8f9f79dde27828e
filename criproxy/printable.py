"""Text of others, made safe for a terminal and for a log that is read line by line."""


def printable(text: str, keep: str = "") -> str:
    """Return a text with backslash escapes for all characters that are not printable.

    These are control characters, line separators, surrogates, and format characters such as those
    that change the direction of writing. ``keep`` are characters that are left as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )
