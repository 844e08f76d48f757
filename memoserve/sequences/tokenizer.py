"""Tokenizers, and text that is safe to print."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memoserve.errors import BadInput
from memoserve.files.byte_ranges import read_small
from memoserve.files.place import locate
from memoserve.terminal import escaped

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LIMIT = 256 << 20


def read_tokenizer_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a tokenizer.json, given as the file or its folder. Raises BadInput."""
    path = os.fspath(path)
    if locate(path).is_folder():
        path = path.rstrip("/") + "/tokenizer.json"
    return read_small(locate(path), LIMIT, "a tokenizer.json")


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load a tokenizer.json (the file, or the folder that holds it; local or a URL).

    Truncation and padding that the file may ask for are switched off. Raises BadInput if it is missing
    or not a tokenizer.
    """
    return tokenizer_from_bytes(read_tokenizer_file(path), os.fspath(path))


def tokenizer_from_bytes(content: bytes, name: str) -> Tokenizer:
    """The tokenizer in the bytes of a tokenizer.json. Raises BadInput naming `name`."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(content)
    # The Rust side raises plain Exception, and a panic of it is a BaseException.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise BadInput(f"{name} is not a tokenizer.json that can be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""`text` with what a terminal could obey, or can't show, escaped: `\n`, `\x1b`, `\u202e`.

    A backslash is doubled, so that what is printed is unambiguous.
    """
    return "".join(_escaped(character, encoding) for character in text)


def _escaped(character: str, encoding: str) -> str:
    # isprintable: no control, format (such as text direction), surrogate, unassigned or separator
    # character except the space.
    if character == "\\" or not character.isprintable():
        return escaped(character)
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return escaped(character)
    return character
