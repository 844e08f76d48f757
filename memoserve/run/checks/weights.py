"""Weights, held against all that says something about them, before an engine starts.

Whether they are whole, a checkpoint's own, and those of the model that the suite describes. Local folders are
read as far as it takes; of weights on the hub only what the hub says about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from memoserve.checks import Check, CheckResult
from memoserve.domain import Checkpoint, Weights
from memoserve.engines.weights.contents import Contents
from memoserve.engines.weights.files import listed
from memoserve.engines.weights.hub_client import HubFailed
from memoserve.engines.weights.hub_listing import HubContents
from memoserve.engines.weights.local import LocalWeights, ModelFolder, identity_of, open_folder
from memoserve.errors import EngineFailed
from memoserve.run.checks.configurations import check_configurations
from memoserve.run.checks.described_weights import Use, findings, of_size
from memoserve.run.checks.equal_weights import OWN, Held, compare
from memoserve.run.checks.hub import held_on_hub
from memoserve.run.checks.reported_defects import reported
from memoserve.run.checks.step_order import check_step_order
from memoserve.suites import Suite

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
    LocalWeights.identity, where that is known already; vocabulary_size: the smallest of those that are known.
    """

    checks: list[Check] = field(default_factory=list)
    same_as: dict[Checkpoint, Checkpoint] = field(default_factory=dict)
    refused: dict[Checkpoint, str] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    identities: dict[Checkpoint, str] = field(default_factory=dict)
    vocabulary_size: int | None = None

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
    all_steps: bool = False,
    stored: StoredIdentities | None = None,
) -> WeightsReport:
    """Check the weights of `checkpoints`, which are of `suite`, for what they are wanted for.

    all_steps: compare those on the hub with every step of their models, not just with the last; steps on
    disk are all compared. A hub that can't be reached makes checks `not checked`.
    """
    report = WeightsReport()
    stored = stored or {}
    chosen = tuple(checkpoints)
    local = [checkpoint for checkpoint in chosen if checkpoint.weights.folder is not None]
    opened = _opened(local, allow_pickle, report)
    _describe(suite, {checkpoint: contents.model for checkpoint, contents in opened.items()}, use, report)
    _identify(opened, stored, report)
    here = _contents_here(suite, opened, allow_pickle)
    held = [
        Held(one, str(one), contents, one in opened, (one.model.name, one.step) in stored)
        for one, contents in here.items()
    ]
    _compare(suite, held, "blocks of their values", report)
    for model in dict.fromkeys(checkpoint.model for checkpoint in opened):
        steps = {one: contents for one, contents in here.items() if one.model == model}
        report.checks.append(check_step_order(model, steps, opened))
        report.checks += check_configurations(steps, opened)
    there, found = held_on_hub(suite, chosen, allow_pickle, all_steps, stored)
    _listed(found, report)
    _compare(suite, there, "the digests of their files on the hub", report)
    for checkpoint, identity in report.identities.items():
        _compare_stored(suite, checkpoint, identity, stored, report)
    for checkpoint, result, detail in reported(suite, chosen, [*held, *there]):
        report.say("reported defect", checkpoint, result, detail)
        if result == "failed" and checkpoint not in report.same_as:
            report.refused.setdefault(checkpoint, detail)
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
        size = folder.text_config.get("vocab_size")
        if isinstance(size, int):
            report.vocabulary_size = min(size, report.vocabulary_size or size)
        try:
            found_here = list(findings(suite, checkpoint, folder, use))
        except (TypeError, ValueError, AttributeError) as error:
            detail = f"{folder.folder / 'config.json'} says what can't be read: {error}"
            report.say("weight files", checkpoint, "failed", detail)
            report.refused.setdefault(checkpoint, f"{checkpoint}: {detail}")
            continue
        for found in found_here:
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


def _contents_here(
    suite: Suite, opened: Mapping[Checkpoint, Contents], allow_pickle: bool
) -> dict[Checkpoint, Contents]:
    """Those, and the other steps of their models that are here."""
    here = {}
    models = {checkpoint.model for checkpoint in opened}
    for checkpoint in suite.all_checkpoints() if models else ():
        contents = opened.get(checkpoint)
        if contents is None and checkpoint.model in models:
            contents = _if_there(checkpoint, allow_pickle)
        if contents is not None:
            here[checkpoint] = contents
    return here


def _compare(suite: Suite, held: Sequence[Held], how: str, report: WeightsReport) -> None:
    checks, same_as = compare(suite, held, how)
    report.checks += checks
    report.same_as |= same_as


def _listed(found: Mapping[Checkpoint, HubContents | HubFailed], report: WeightsReport) -> None:
    """What the hub's metadata says of each checkpoint there."""
    for checkpoint, contents in found.items():
        where = checkpoint.weights
        if isinstance(contents, HubContents):
            report.identities[checkpoint] = contents.identity
            names = listed(contents.chosen.files)
            detail = f"{names}, on the hub as {contents.identity}: whole once it is downloaded"
            report.say("weight files", checkpoint, "not checked", detail, len(contents.chosen.files))
            total = sum(contents.files[name][0] for name in contents.chosen.files)
            size = of_size(checkpoint.model, total, "the hub", "counted once they are downloaded")
            report.say(size.name, checkpoint, size.result, size.detail, size.figure)
            if size.result == "failed":
                report.refused[checkpoint] = f"{checkpoint}: {size.detail}"
        elif contents.missing:
            report.refused[checkpoint] = f"{checkpoint}: {where} can't be used: {contents}"
            report.say("weight files", checkpoint, "failed", f"{where} can't be used: {contents}")
        else:
            report.say(OWN, checkpoint, "not checked", f"the hub says nothing about {where.hub}: {contents}")


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
