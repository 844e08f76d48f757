"""Text that others wrote, on its way to a terminal."""

from __future__ import annotations


def escape_for_terminal(text: str, keep: str = "") -> str:
    r"""`text` with what a terminal could obey escaped, as `\x1b` and `\u202e`, but not what is in `keep`.

    For names and messages, which stay readable as they are; what has to be unambiguous, as token text, is
    for `memoserve.sequences.printable`.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else escaped(character)
        for character in text
    )


def escape_lines_for_terminal(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return escape_for_terminal(text, keep="\n\t")


def escaped(character: str) -> str:
    r"""A character as Python writes it in a string of ASCII: `\x1b`."""
    return character.encode("unicode_escape").decode("ascii")


def without_markup(text: str) -> str:
    r"""`text` for help that reads [bold] and the like as styles: its own brackets stay what they are."""
    return text.replace("[", r"\[")
