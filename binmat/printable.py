"""Text for a terminal: names that come from files may hold characters that steer it, and may be very long."""

from __future__ import annotations

import re

#: Characters of a word that are printed. The longest names of files have 255.
LONGEST = 400


def printable(text: str) -> str:
    """The text with control characters escaped, but for line feeds, and the middle of long words left out.

    >>> printable("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    escaped = "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
    half = LONGEST // 2
    return re.sub(rf"\S{{{LONGEST + 1},}}", lambda word: f"{word[0][:half]}...{word[0][-half:]}", escaped)
