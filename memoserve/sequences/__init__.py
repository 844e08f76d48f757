"""Training sequences: token ids by sequence id, at random access, without holding the data in memory."""

from memoserve.sequences.checks import check_sequences, length_range, short_sequences
from memoserve.sequences.opening import open_sequences
from memoserve.sequences.packing import write_pack
from memoserve.sequences.selection import Selection, parse_range
from memoserve.sequences.source import SequenceSource, check_tokens
from memoserve.sequences.tokenizer import load_tokenizer, printable

__all__ = [
    "Selection",
    "SequenceSource",
    "check_sequences",
    "check_tokens",
    "length_range",
    "load_tokenizer",
    "open_sequences",
    "parse_range",
    "printable",
    "short_sequences",
    "write_pack",
]
