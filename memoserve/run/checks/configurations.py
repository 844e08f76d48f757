"""Do the steps of a model have one configuration? What it computes depends on it as on its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from memoserve.checks import Check
from memoserve.domain import Checkpoint
from memoserve.engines.weights.config_identity import changed_fields
from memoserve.engines.weights.contents import Contents

NAME = "configuration"


def check_configurations(
    contents: Mapping[Checkpoint, Contents], chosen: Collection[Checkpoint]
) -> Iterator[Check]:
    """Hold the config.json of each chosen step of one model against that of the latest other step here.

    Another one may be meant, as in a stage with longer contexts: a warning. Each step is evaluated with its
    own.
    """
    steps = sorted(contents, key=lambda checkpoint: checkpoint.step)
    for one in steps:
        if one not in chosen:
            continue
        others = [other for other in steps if other != one]
        model, step = one.model.name, one.step
        if not others:
            detail = f"no other step of {model} is here to compare its config.json with"
            yield Check(NAME, str(one), "not checked", detail, None, model, step)
            continue
        latest = others[-1]
        changes = changed_fields(contents[latest].model.config, contents[one].model.config)
        if not changes or contents[one].computes_as(contents[latest]):
            detail = f"config.json says what that of {latest} does"
            yield Check(NAME, str(one), "passed", detail, None, model, step)
            continue
        detail = f"config.json is not that of {latest}: {'; '.join(changes)}: is that meant?"
        yield Check(NAME, str(one), "warning", detail, len(changes), model, step)
