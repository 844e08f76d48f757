"""Weights on the Hugging Face hub: what a revision holds, and downloading no more than is read."""

from __future__ import annotations

import glob
from pathlib import Path

from memoserve.domain import Checkpoint
from memoserve.engines.weights.files import CONFIGURATION, NoWeights, choose_weight_files
from memoserve.engines.weights.hub_client import HubFailed, cached, commit_of, small_file, tree
from memoserve.errors import (
    GOES_ON,
    EngineFailed,
    EngineStorageFailed,
    StorageFailed,
    advice_on,
    as_user_error,
)


def download(checkpoint: Checkpoint, allow_pickle: bool) -> Path:
    """The folder, named like the commit, with the configuration and the weight files of a checkpoint.

    What is in the hub's cache is not downloaded again, and is enough where the hub can't be reached.
    Raises EngineFailed or EngineStorageFailed, naming the checkpoint.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise EngineFailed(
            f"{checkpoint} is on the Hugging Face hub, and huggingface_hub is not installed:"
            " pip install 'memoserve[cpu]' or 'memoserve[cuda]'"
        ) from None
    weights = checkpoint.weights
    hub, revision = str(weights.hub), str(weights.revision)
    try:
        commit = commit_of(hub, revision)
        names = tree(hub, commit)
        chosen = choose_weight_files(names, lambda name: small_file(hub, name, commit), allow_pickle)
        wanted = [*CONFIGURATION, *chosen.files, *((chosen.index,) if chosen.index else ())]
        return Path(snapshot_download(hub, revision=revision, allow_patterns=[*map(glob.escape, wanted)]))
    except NoWeights as error:
        raise EngineFailed(f"{checkpoint}: {weights} {error}") from None
    except HubFailed as error:
        if not error.missing and (kept := cached(hub, revision)):
            return kept
        raise EngineFailed(f"{checkpoint}: {weights} can't be fetched from the hub: {error}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(as_user_error(error), StorageFailed):
            raise EngineStorageFailed(
                f"{checkpoint}: {weights} can't be kept: {reason} ({advice_on(error)}, or let the environment"
                f" variable HF_HOME name a folder on another disk).\n{GOES_ON}"
            ) from None
        raise EngineFailed(f"{checkpoint}: {weights} can't be fetched from the hub: {reason}") from None
