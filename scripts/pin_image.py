"""Of the Dockerfile: check the image's vLLM against pyproject.toml, and pin all that the image brings.

Reads pyproject.toml, writes requirements.txt and constraints.txt, all in the current folder.
"""

import importlib.metadata
import tomllib
from contextlib import suppress
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

EXTRAS = ("forecast", "ray", "report", "serve")

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for line in project["optional-dependencies"]["cuda"]:
    needed = Requirement(line)
    here = importlib.metadata.version(needed.name)
    if not needed.specifier.contains(here, prereleases=True):
        raise SystemExit(f"the image has {needed.name} {here}; memoserve needs {needed}")

pins: dict[str, Version] = {}
for distribution in importlib.metadata.distributions():
    # A package of the operating system may have a version, or no name, that no Python package could have.
    with suppress(AttributeError, InvalidVersion):
        # The first one found is the one that Python imports.
        pins.setdefault(distribution.metadata["Name"].lower(), Version(distribution.version))
extras = project["optional-dependencies"]
# The image answers too, and is a node of a Ray cluster. Not `remote`: s3fs wants an fsspec of its own
# version, and the image pins another.
wanted = [*project["dependencies"], *(line for name in EXTRAS for line in extras[name])]
Path("requirements.txt").write_text("".join(f"{line}\n" for line in wanted))
Path("constraints.txt").write_text("".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))
