"""Kinds of files that hold tokens and are not read: what they are, and what to do with them."""

from __future__ import annotations

import re

_WRITE = (
    "write its token ids, in the order in which training read them, as a .npy [sequences, tokens], or as "
    "Parquet with a list column `tokens`"
)

_BY_NAME: tuple[tuple[str, str], ...] = (
    (r"\.jsonl?\.(zst|zstd|gz|bz2|xz|lz4)$", "is compressed JSONL: unpack it and give the .jsonl"),
    (
        r"\.(npy|bin|idx|parquet)\.(zst|zstd|gz|bz2|xz|lz4)$",
        "is compressed: unpack it and give what is in it",
    ),
    (r"\.json$", "is JSON: give one object a line, as a .jsonl"),
    (r"\.ndjson$", "is JSONL by another name: name it .jsonl"),
    (
        r"\.arrow$",
        "is an Arrow file of Hugging Face datasets: datasets.load_from_disk(FOLDER).to_parquet(FILE) makes "
        "Parquet of it",
    ),
    (r"\.(mds|mds\.zstd?)$", f"is an MDS shard (MosaicML streaming): {_WRITE}"),
    (r"\.tar(\.\w+)?$", f"is a tar archive (WebDataset): {_WRITE}"),
    (r"\.tfrecords?$", f"is a TFRecord file: {_WRITE}"),
    (r"\.ds(\.index|\.metadata)?$", f"is a tokenized file of datatrove: {_WRITE}"),
    (r"\.(pt|pth|pkl|pickle)$", f"is a pickle, which is not opened: {_WRITE}"),
)


def foreign_kind(name: str, beside: tuple[str, ...] = ()) -> str | None:
    """What a file of this name is, and what to do, to be read after the name; None for what is not known.

    `beside` are the names in its folder.
    """
    lowered = name.lower()
    if re.search(r"(^|[-_])chunk-\d+-\d+(\.\w+)?\.bin$", lowered) and "index.json" in beside:
        return f"is a chunk of litdata: {_WRITE}"
    return next((description for pattern, description in _BY_NAME if re.search(pattern, lowered)), None)


def foreign_folder(names: list[str]) -> str | None:
    """What a folder that holds these names is, and what to do, to be read after its name; None: not known."""
    if "index.json" in names and any(re.search(r"\.mds(\.zstd?)?$", name) for name in names):
        return f"is a data set of MosaicML streaming (MDS): {_WRITE}"
    if "index.json" in names and any(name.startswith("chunk-") for name in names):
        return f"is a data set of litdata: {_WRITE}"
    known = [
        (name, description)
        for name in names
        if (description := foreign_kind(name)) and not name.endswith(".json")
    ]
    return f"holds {known[0][0]}, which {known[0][1]}" if known else None
