"""A checksum inside each Parquet file of a store, over every byte of it.

The footer holds, as the metadata `memoserve_checksum`, 80 hexadecimal digits: the length of what stands
before the footer (16), the digest of that (32), and the digest of the footer itself with its own digits as
zeros (32). Digests are the first 128 bits of SHA-256. So one file stays one object that is there whole or not
at all, no second file can drift from it, and every Parquet reader reads it as before. Reading the footer
alone finds any damage to it, any truncation, and whatever changes the length; reading all finds the rest.
"""

from __future__ import annotations

import hashlib
import re

KEY = "memoserve_checksum"
PLACEHOLDER = "0" * 80
"""What a writer puts under KEY for `seal` to fill."""

FROM_BEFORE = "written by a version without checksums: nothing says whether it is as it was written"
"""What is wrong with a file that is whole as far as anyone can tell, but older than checksums."""

_HEAD = 16 + 32

# As Thrift's compact protocol writes the pair: a string field is 0x18, its length, its bytes.
_FIELD = re.compile(KEY.encode() + rb"\x18\x50([0-9a-f]{80})")


class NoChecksum(ValueError):
    """A file that carries no checksum: older than these, or damaged just there."""


def seal(content: bytes) -> bytes:
    """The content of a Parquet file with its checksum filled in. Its metadata has KEY: PLACEHOLDER."""
    start = len(content) - footer_length(content, len(content))
    footer = content[start:]
    field = _field(footer)
    head = f"{start:016x}{_digest(content[:start])}"
    own = _own_digest(footer[: field.start(1)] + head.encode() + footer[field.start(1) + len(head) :], field)
    return b"".join((content[: start + field.start(1)], head.encode(), own.encode(), footer[field.end(1) :]))


def footer_length(tail: bytes, size: int) -> int:
    """Bytes from the Parquet footer to the end of a file of `size` bytes that ends in `tail`.

    Raises ValueError if that is no end of a Parquet file.
    """
    if len(tail) < 12 or tail[-4:] != b"PAR1":
        raise ValueError("it does not end as a Parquet file does")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length + 4 > size:
        raise ValueError("its footer is longer than the file")
    return length


def check_footer(footer: bytes, size: int) -> str:
    """Check a footer of a file of `size` bytes by itself, and return the digest of what stands before it.

    Raises ValueError, saying what is wrong, NoChecksum if there is none.
    """
    field = _field(footer)
    written = field[1].decode()
    if _own_digest(footer, field) != written[_HEAD:]:
        raise ValueError("its footer does not match its checksum")
    if int(written[:16], 16) != size - len(footer):
        raise ValueError(f"it should be {int(written[:16], 16) + len(footer):,} bytes long and is {size:,}")
    return written[16:_HEAD]


def check(content: bytes) -> None:
    """Check every byte of a file. Raises ValueError, saying what is wrong."""
    length = footer_length(content, len(content))
    digest = check_footer(content[-length:], len(content))
    if _digest(content[:-length]) != digest:
        raise ValueError("its data does not match its checksum")


def _field(footer: bytes) -> re.Match[bytes]:
    found = _FIELD.search(footer)
    if found is None:
        raise NoChecksum("it carries no checksum")
    return found


def _own_digest(footer: bytes, field: re.Match[bytes]) -> str:
    """The digest of a footer without its own digits, which stand last."""
    return _digest(footer[: field.start(1) + _HEAD] + b"0" * 32 + footer[field.end(1) :])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
