"""Weights, held against all that says something about them, before an engine starts.

Whether they are whole, a checkpoint's own, and those of the model that the suite describes. Local folders are
read as far as it takes; of weights on the hub only what the hub says about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from memoserve.checks import Check, CheckResult
from memoserve.engines.weight_contents import Contents
from memoserve.engines.weights import LocalWeights, ModelFolder, identity_of, open_folder
from memoserve.errors import EngineFailed
from memoserve.run.described_weights import Use, findings
from memoserve.run.equal_weights import OWN, Held, compare
from memoserve.suites import Checkpoint, Suite, Weights

SMALL = 64 << 20
"""Bytes of weights that are hashed for their identity without need."""

StoredIdentities = Mapping[tuple[str, int], str]
"""(model, step) -> the identity of the weights that a store's scores were made with."""


@dataclass
class WeightsReport:
    """What came of it.

    checks: every comparison, passed ones too; same_as: checkpoints whose weights are those of a later step of
    their model, and of which: they are not to be evaluated, and where a store has their scores, these are the
    other's; refused: checkpoints that can't be evaluated, with a reason that names them; stops: what is wrong
    with the suite or the command itself, so that nothing should be run; identities: as
    LocalWeights.identity, where that is known already; vocabularies: token ids of each model that is here.
    """

    checks: list[Check] = field(default_factory=list)
    same_as: dict[Checkpoint, Checkpoint] = field(default_factory=dict)
    refused: dict[Checkpoint, str] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    identities: dict[Checkpoint, str] = field(default_factory=dict)
    vocabularies: dict[Checkpoint, int] = field(default_factory=dict)

    @property
    def vocabulary_size(self) -> int | None:
        """Of the smallest vocabulary, None if none is known."""
        return min(self.vocabularies.values(), default=None)

    def say(
        self,
        name: str,
        checkpoint: Checkpoint,
        result: CheckResult,
        detail: str,
        figure: float | None = None,
    ) -> None:
        """Add a check of one checkpoint."""
        model, step = checkpoint.model.name, checkpoint.step
        self.checks.append(Check(name, str(checkpoint), result, detail, figure, model, step))


def check_weights(
    suite: Suite,
    checkpoints: Iterable[Checkpoint],
    *,
    use: Use,
    allow_pickle: bool = False,
    stored: StoredIdentities | None = None,
) -> WeightsReport:
    """Check the weights of `checkpoints`, which are of `suite`, for what they are wanted for."""
    report = WeightsReport()
    stored = stored or {}
    chosen = tuple(checkpoints)
    local = [checkpoint for checkpoint in chosen if checkpoint.weights.folder is not None]
    opened = _opened(local, allow_pickle, report)
    _describe(suite, {checkpoint: contents.model for checkpoint, contents in opened.items()}, use, report)
    _identify(opened, stored, report)
    _compare_local(suite, opened, allow_pickle, stored, report)
    return report


def check_fetched(
    suite: Suite, checkpoint: Checkpoint, weights: LocalWeights, *, use: Use, allow_pickle: bool = False
) -> WeightsReport:
    """What could be checked only now that `weights` have come from the hub: whole, and as the suite says."""
    report = WeightsReport()
    here = replace(checkpoint, weights=Weights(folder=weights.folder))
    opened = _opened([here], allow_pickle, report)
    _describe(suite, {here: contents.model for here, contents in opened.items()}, use, report)
    report.refused = dict.fromkeys((checkpoint,), report.refused[here]) if report.refused else {}
    return report


def _describe(
    suite: Suite, models: Mapping[Checkpoint, ModelFolder], use: Use, report: WeightsReport
) -> None:
    """Against the suite."""
    for checkpoint, folder in models.items():
        if isinstance(size := folder.text_config.get("vocab_size"), int):
            report.vocabularies[checkpoint] = size
        for found in findings(suite, checkpoint.model, folder, use):
            report.say(found.name, checkpoint, found.result, found.detail, found.figure)
            if found.result == "failed":
                report.refused.setdefault(checkpoint, f"{checkpoint}: {found.detail}")
                stop = f"{checkpoint.model.name}: {found.detail}"
                if found.of_suite and stop not in report.stops:
                    report.stops.append(stop)


def _opened(
    checkpoints: Iterable[Checkpoint], allow_pickle: bool, report: WeightsReport
) -> dict[Checkpoint, Contents]:
    """Those whose files are whole."""
    found = {}
    for checkpoint in checkpoints:
        assert checkpoint.weights.folder is not None
        try:
            model = open_folder(checkpoint, checkpoint.weights.folder, allow_pickle)
        except EngineFailed as error:
            report.refused[checkpoint] = str(error)
            report.say("weight files", checkpoint, "failed", str(error))
            continue
        found[checkpoint] = Contents(model)
        files = model.chosen.files
        whole = ", ".join(files[:2]) + (f" to {files[-1]}" if len(files) > 2 else "") + ": whole"
        if model.chosen.index:
            whole += f", as {model.chosen.index} says"
        if others := ", ".join(model.chosen.left_out):
            report.say(
                "weight files",
                checkpoint,
                "warning",
                f"{whole}; {others}, beside it in {model.folder}, is read by no engine",
                len(files),
            )
        else:
            report.say("weight files", checkpoint, "passed", whole, len(files))
    return found


def _identify(opened: Mapping[Checkpoint, Contents], stored: StoredIdentities, report: WeightsReport) -> None:
    """Hash what is small, or may have been evaluated already under another step."""
    scored = {model for model, _ in stored}
    for checkpoint, contents in opened.items():
        size = sum(file.stat().st_size for file in contents.model.files)
        if size <= SMALL or checkpoint.model.name in scored:
            report.identities[checkpoint] = identity_of(contents.model)


def _compare_local(
    suite: Suite,
    opened: Mapping[Checkpoint, Contents],
    allow_pickle: bool,
    stored: StoredIdentities,
    report: WeightsReport,
) -> None:
    """With each other, and with the other steps of their models that are here."""
    held = []
    models = {checkpoint.model for checkpoint in opened}
    for checkpoint in suite.all_checkpoints():
        contents = opened.get(checkpoint)
        if contents is None and checkpoint.model in models:
            contents = _if_there(checkpoint, allow_pickle)
        if contents is not None:
            is_stored = (checkpoint.model.name, checkpoint.step) in stored
            held.append(Held(checkpoint, str(checkpoint), contents, checkpoint in opened, is_stored))
    checks, same_as = compare(suite, held, "blocks of their values")
    report.checks += checks
    report.same_as |= same_as
    for checkpoint, identity in report.identities.items():
        _compare_stored(suite, checkpoint, identity, stored, report)


def _compare_stored(
    suite: Suite, checkpoint: Checkpoint, identity: str, stored: StoredIdentities, report: WeightsReport
) -> None:
    """With the weights that another step was scored with, wherever these are now."""
    for (model, step), other in stored.items():
        if model != checkpoint.model.name or step == checkpoint.step or other != identity:
            continue
        if step not in suite.steps or suite.declared_equal(checkpoint.model, checkpoint.step, step):
            continue
        scored = suite.checkpoint(checkpoint.model, step)
        earlier, later = sorted((checkpoint, scored), key=lambda one: one.step)
        if earlier in report.same_as:
            continue
        report.same_as[earlier] = later
        report.say(
            OWN,
            checkpoint,
            "failed",
            f"{checkpoint} has the weights that the store's scores of {scored} were made with, so {earlier}"
            " is left out; if folders were exchanged, put them right and begin a new store",
        )


def _if_there(checkpoint: Checkpoint, allow_pickle: bool) -> Contents | None:
    folder = checkpoint.weights.folder
    try:
        return Contents(open_folder(checkpoint, folder, allow_pickle)) if folder else None
    except EngineFailed:
        return None
