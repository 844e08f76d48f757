"""What in a text looks private: addresses, numbers of people and machines, credentials.

A table of patterns of its own rather than a library: those on PyPI that need no language model know either
people (datafog's core: e-mail, phone, SSN, cards, IP) or keys (detect-secrets, which reads files); none finds
credentials in URLs, and together they would bring more dependencies than patterns. It errs on the side of
masking too much. It finds what has a shape, not names or addresses in prose, and not what a window's edge
has cut beyond recognition: a masked listing is not an anonymous one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Redaction:
    """Characters start..end-1 of a text, and what they look like."""

    start: int
    end: int
    kind: str


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_phone(text: str) -> bool:
    return 8 <= sum(c.isdigit() for c in text) <= 15


_LEFT = r"(?<![A-Za-z0-9])"
_RIGHT = r"(?![A-Za-z0-9])"

# Kind, pattern (group `it`, where there is one, is what gets masked), and a check of what was found. In order
# of who wins where two begin at one position and are equally long.
_SHAPES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool] | None], ...] = (
    # PEM: to the end of the block, or of the text where the window cuts it.
    (
        "private key",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL
        ),
        None,
    ),
    # https://user:password@host
    ("credentials", re.compile(r"(?<=://)(?P<it>[^\s/@:]*:[^\s/@]+)@"), None),
    # AWS access key ids.
    ("key", re.compile(rf"{_LEFT}(?:AKIA|ASIA|AGPA|AIDA|AROA|ABIA|ACCA)[A-Z0-9]{{16}}{_RIGHT}"), None),
    # GitHub, GitLab, Slack, Google, Stripe, OpenAI and Anthropic, Hugging Face, npm, PyPI, SendGrid.
    ("key", re.compile(rf"{_LEFT}(?:gh[pousr]_[A-Za-z0-9]{{30,}}|github_pat_\w{{30,}})"), None),
    ("key", re.compile(rf"{_LEFT}glpat-[\w-]{{20,}}"), None),
    ("key", re.compile(rf"{_LEFT}xox[abeoprs]-[A-Za-z0-9-]{{10,}}"), None),
    ("key", re.compile(rf"{_LEFT}AIza[\w-]{{35}}"), None),
    ("key", re.compile(rf"{_LEFT}[srp]k_(?:live|test)_[A-Za-z0-9]{{16,}}"), None),
    ("key", re.compile(rf"{_LEFT}sk-[\w-]{{20,}}"), None),
    ("key", re.compile(rf"{_LEFT}(?:hf|npm)_[A-Za-z0-9]{{30,}}"), None),
    ("key", re.compile(rf"{_LEFT}pypi-[\w-]{{16,}}"), None),
    ("key", re.compile(rf"{_LEFT}SG\.[\w-]{{16,}}\.[\w-]{{16,}}"), None),
    # JSON Web Tokens: base64 of {" at the beginning of the first two parts.
    ("key", re.compile(rf"{_LEFT}eyJ[\w-]{{8,}}\.eyJ[\w-]{{8,}}(?:\.[\w-]*)?"), None),
    # Authorization headers, and assignments to names that say so: api_key = "...", password: ...
    ("key", re.compile(r"(?i)\b(?:bearer|basic)\s+(?P<it>[A-Za-z0-9+/._~-]{16,}=*)"), None),
    (
        "key",
        re.compile(
            r"(?i)(?:api[_-]?key|secret(?:[_-]?key)?|passw(?:or)?d|access[_-]?token|auth[_-]?token)"
            r"[\"']?\s*[:=]\s*[\"']?(?P<it>[^\s\"',;(){}\[\]<>]{8,})"
        ),
        None,
    ),
    # The end of the domain may lie beyond the window, so a dot is not asked for.
    ("email", re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]*[\w+-]@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"), None),
    ("ip address", re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)"), _is_ip),
    (
        "ip address",
        re.compile(
            r"(?<![\w:.])(?=[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]{2,45}(?:%\w+)?(?<![.])(?![\w:])"
        ),
        lambda text: _is_ip(text) and sum(c.isalnum() for c in text) >= 3,
    ),
    # US social security numbers.
    ("number", re.compile(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"), None),
    # International, North American, and national ones that begin with 0. Not 2013-04-01.
    ("phone", re.compile(r"(?<![\w+])\+\d(?:[ ().\-/]{0,2}\d){7,14}(?!\d)"), _is_phone),
    ("phone", re.compile(r"(?<![\w.-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\d)"), None),
    ("phone", re.compile(r"(?<![\w.:-])0\d{1,4}(?:[ /-]\d{2,8}){1,4}(?!\d)"), _is_phone),
    # Cards and accounts in groups of four.
    ("number", re.compile(r"(?<!\d)\d{4}(?:[ -]\d{4}){2,}(?:[ -]\d{1,4})?(?!\d)"), None),
    # IBAN.
    (
        "number",
        re.compile(rf"{_LEFT}[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]{{4}}){{3,7}}(?: ?[A-Z0-9]{{1,3}})?{_RIGHT}"),
        None,
    ),
    ("number", re.compile(r"\d{9,}"), None),
)


def find_private(text: str) -> list[Redaction]:
    """The private-looking spans of `text`, in order, none overlapping.

    Of overlapping ones the union is one span, of the kind of the first.
    """
    found = []
    for rank, (kind, pattern, check) in enumerate(_SHAPES):
        for match in pattern.finditer(text):
            start, end = match.span("it" if "it" in pattern.groupindex else 0)
            if start < end and (check is None or check(text[start:end])):
                found.append((start, -end, rank, kind))
    merged: list[Redaction] = []
    for start, negative_end, _, kind in sorted(found):
        end = -negative_end
        if merged and start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Redaction(last.start, max(last.end, end), last.kind)
        else:
            merged.append(Redaction(start, end, kind))
    return merged
