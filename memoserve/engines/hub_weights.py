"""Weights on the Hugging Face hub: what a revision holds, and downloading no more than is read."""

from __future__ import annotations

import glob
from pathlib import Path

from memoserve.engines.weight_files import CONFIGURATION, NoWeights, choose_weight_files
from memoserve.errors import (
    GOES_ON,
    EngineFailed,
    EngineStorageFailed,
    StorageFailed,
    advice_on,
    in_words,
)
from memoserve.suites import Checkpoint


def download(checkpoint: Checkpoint, allow_pickle: bool) -> Path:
    """The folder, named like the commit, with the configuration and the weight files of a checkpoint.

    What is in the hub's cache is not downloaded again, and is enough where the hub can't be reached.
    Raises EngineFailed or EngineStorageFailed, naming the checkpoint.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise EngineFailed(
            f"{checkpoint} is on the Hugging Face hub, and huggingface_hub is not installed:"
            " pip install 'memoserve[cpu]' or 'memoserve[cuda]'"
        ) from None
    weights = checkpoint.weights
    hub, revision = str(weights.hub), weights.revision

    def read(name: str) -> bytes:
        return Path(hf_hub_download(hub, name, revision=revision)).read_bytes()

    try:
        try:
            names = [file.rfilename for file in HfApi().model_info(hub, revision=revision).siblings or ()]
        except (HfHubHTTPError, OSError) as error:
            if not unreachable(error):
                raise
            try:
                return Path(snapshot_download(hub, revision=revision, local_files_only=True))
            except (LocalEntryNotFoundError, OSError):
                raise error from None
        chosen = choose_weight_files(names, read, allow_pickle)
        wanted = [*CONFIGURATION, *chosen.files, *((chosen.index,) if chosen.index else ())]
        return Path(snapshot_download(hub, revision=revision, allow_patterns=[*map(glob.escape, wanted)]))
    except NoWeights as error:
        raise EngineFailed(f"{checkpoint}: {weights} {error}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(in_words(error), StorageFailed):
            raise EngineStorageFailed(
                f"{checkpoint}: {weights} can't be kept: {reason} ({advice_on(error)}, or let the environment"
                f" variable HF_HOME name a folder on another disk).\n{GOES_ON}"
            ) from None
        raise EngineFailed(f"{checkpoint}: {weights} can't be fetched from the hub: {reason}") from None


def unreachable(error: Exception) -> bool:
    """Whether the hub said nothing, or that it is busy, rather than that something isn't there."""
    response = getattr(error, "response", None)
    return response is None or response.status_code == 429 or response.status_code >= 500
