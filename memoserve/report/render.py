"""Vega-Lite to pictures, with vl-convert: Vega and its fonts come inside it, nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.errors import BadInput
from memoserve.files.whole import writing

if TYPE_CHECKING:
    from types import ModuleType

    from memoserve.report.grammar import Spec

FORMATS = ("png", "svg", "pdf", "json")

_VERSION = "6.1"


def to_svg(spec: Spec) -> str:
    """An SVG document, its text as text."""
    return str(_converter().vegalite_to_svg(spec, vl_version=_VERSION))


def write_picture(spec: Spec, path: Path) -> None:
    """Write a picture, whole or not at all, in the format that the name's end says.

    Raises BadInput for another ending, or where the renderer is not installed (JSON needs none).
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind == "json":
        content = (json.dumps(spec, indent=1, ensure_ascii=False) + "\n").encode()
    elif kind == "svg":
        content = to_svg(spec).encode()
    elif kind == "png":
        content = bytes(_converter().vegalite_to_png(spec, vl_version=_VERSION, scale=2))
    elif kind == "pdf":
        content = bytes(_converter().vegalite_to_pdf(spec, vl_version=_VERSION))
    else:
        raise BadInput(f"{path}: pictures are written as .png, .svg, .pdf, .json (Vega-Lite) or .html")
    with writing(path) as temporary:
        temporary.write_bytes(content)


def _converter() -> ModuleType:
    try:
        import vl_convert
    except ImportError:
        raise BadInput(
            "drawing needs vl-convert, which is not installed: pip install 'memoserve[report]'\n"
            "(Vega-Lite, -o FILE.json, needs nothing more.)"
        ) from None
    return vl_convert
