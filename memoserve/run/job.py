"""A run as an object: how the command line, the service and Python start one.

`prepare` finds what is asked for and what can evaluate it; a Job's `inputs` are checked when they are first
asked for, with all that a suite says of them. Nothing here prints, ends the process or handles signals.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

from memoserve.domain import CONTINUATION, Checkpoint
from memoserve.engines import Diagnosis, EngineSettings, diagnose, fetch_weights, known_engine, require
from memoserve.errors import BadInput, StoreConflict
from memoserve.run.checks.doubtful import doubtful
from memoserve.run.checks.inputs import Inputs, check_inputs
from memoserve.run.checks.selection import refuse_empty_selection
from memoserve.run.checks.weights import check_weights
from memoserve.run.cluster import Cluster, Work, on_every_node
from memoserve.run.dispatch import Scored
from memoserve.run.estimate import Estimate, estimate
from memoserve.run.events import End, Notice, OnEvent, PlanEvent, Setting
from memoserve.run.execute import execute, execute_on
from memoserve.run.fingerprint import fingerprint_of
from memoserve.run.indexing import make_lists
from memoserve.run.local import devices_for
from memoserve.run.options import Options, refuse_wrong
from memoserve.run.outcome import FailedCheckpoint, Outcome, why_incomplete
from memoserve.run.plan import Plan, make_plan, part_size_for
from memoserve.run.worker import Fetch, WorkerSetup
from memoserve.sequences import Selection, SequenceSource, open_sequences, parse_range
from memoserve.store import Store
from memoserve.store.verify import mend
from memoserve.suites import Suite, load_suite, select


def prepare(options: Options) -> Job:
    """The run that `options` ask for.

    Connects to the Ray cluster, if that is to evaluate. Raises BadInput for options that don't go together, a
    suite or a selector; EngineFailed if no engine can run.
    """
    refuse_wrong(options)
    if options.loglik and options.mode != "extract":
        raise BadInput(
            "--loglik needs --mode extract: generation gives no likelihood of the true continuation"
        )
    known_engine(options.engine)
    suite = load_suite(options.suite)
    checkpoints = select(suite, options.checkpoints)
    if options.executor == "ray" and not options.dry_run:
        cluster = Cluster(options.address)
        return Job(options, suite, checkpoints, cluster.diagnose(options.engine), cluster)
    diagnosis = diagnose(options.engine) if options.dry_run else require(options.engine)
    return Job(options, suite, checkpoints, diagnosis)


@dataclass(frozen=True)
class Job:
    """A run: what is asked for, and what can evaluate it. `cluster`: None for this machine.

    What takes weights and sequences is found out once, when it is first asked for.
    """

    options: Options
    suite: Suite
    checkpoints: tuple[Checkpoint, ...]
    diagnosis: Diagnosis
    cluster: Cluster | None = None

    @cached_property
    def source(self) -> SequenceSource:
        """The sequences. Raises BadInput if they can't be read, or nobody says where they are."""
        return open_sequences(self._data, self._tokenizer, self._column)

    @cached_property
    def selection(self) -> Selection:
        """Those of them to be evaluated. Raises BadInput for a range or share that makes no sense."""
        options, sequences = self.options, self.suite.sequences
        last = max(sequences.trained, sequences.control[1] if sequences.control else 0)
        span = (
            parse_range(options.sequences, self.source.count)
            if options.sequences
            else (0, min(self.source.count, last))
        )
        fraction = 1.0 if options.sample is None else options.sample
        return Selection(*span, fraction=fraction, seed=options.seed, skip_short=options.skip_short)

    @cached_property
    def devices(self) -> list[str]:
        """What each engine here runs on, see devices_for. Raises BadInput."""
        return devices_for(self._settings, self.options.devices) if self.cluster is None else []

    @cached_property
    def inputs(self) -> Inputs:
        """Weights and sequences, held against each other, the suite and the store.

        Raises StoreConflict if the store has the scores of an unlike run, BadInput for what stops a run.
        """
        source, selection, _ = self.source, self.selection, self.devices
        existing = self._existing()
        if existing is not None and self._dtype_is_known and _is_whole(existing, self.suite.name):
            existing.refuse_unlike(self.suite.name, self._fingerprint(self._settings))
        inputs = check_inputs(
            self.suite,
            self.checkpoints,
            source,
            self._settings,
            existing,
            check_weights=check_weights if self.cluster is None else self.cluster.check_weights,
            partial=self.options.partial_data,
            skip_short=self.options.skip_short,
        )
        length = self.options.context + CONTINUATION
        refuse_empty_selection(self.suite, self.checkpoints, source, selection, length, self.options.unseen)
        return inputs

    @cached_property
    def settings(self) -> EngineSettings:
        """What engines are started with. On a GPU, `auto` takes the type that the largest weights are in."""
        if self._dtype_is_known or not self.inputs.chosen:
            return self._settings
        return replace(self._settings, dtype=self._fetch(self.inputs.chosen[-1]).dtype)

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """What its scores have in common with all that may stand beside them."""
        return self._fingerprint(self.settings)

    @property
    def setting(self) -> Setting:
        """With what it evaluates, and where to."""
        options = self.options
        return Setting(
            options.out,
            options.mode,
            options.engine,
            self.diagnosis.version,
            self.diagnosis.device,
            self.settings.dtype,
            options.executor,
        )

    def plan(self, store: Store | None) -> Plan:
        """What is missing in `store`, of which None has nothing."""
        part_size = self.options.part_size or part_size_for(self.selection)
        unseen = self.options.unseen
        return make_plan(self.suite, self.inputs.chosen, self.selection, store, part_size, unseen)

    def estimate(self) -> tuple[Plan, Estimate]:
        """What is missing, and what it would cost. Raises StoreConflict as `inputs`."""
        fingerprint = self.fingerprint
        existing = Store.open(self.options.out) if Store.is_at(self.options.out) else None
        if existing is not None:
            existing.refuse_unlike(self.suite.name, fingerprint)
        plan = self.plan(existing)
        return plan, estimate(plan, self.source, self.settings)

    def run(self, on_event: OnEvent = lambda _: None) -> Outcome:
        """Make what is missing. Each event is told as it happens, one at a time, from several threads.

        What is there already is kept, and so is every whole part, whatever ends a run: KeyboardInterrupt too.
        The store is held meanwhile. A checkpoint that fails is in the outcome, and others continue. Raises
        StoreConflict if the store is held or of an unlike run, StorageFailed if it can't be written,
        EngineFailed if no engine can run at all, BadInput for sequences or weights that stop a run.
        """
        if self.options.dry_run:
            raise ValueError("a job prepared with dry_run can be estimated, not run")
        inputs, fingerprint = self.inputs, self.fingerprint
        store = Store.create(self.options.out)
        with store.lock():
            for damage in mend(store, self.suite.name, [(c.model.name, c.step) for c in self.checkpoints]):
                on_event(Notice(f"{damage.name} is damaged ({damage.problem}): moved aside and made again"))
            store.claim(self.suite, fingerprint)
            store.note_weights(self.suite.name, inputs.notes)
            store.write_checks(self.suite.name, inputs.checks)
            plan = self.plan(store)
            make_lists(plan, store)
            on_event(PlanEvent(plan, inputs, self.setting))
            scored = self._execute(plan, store, on_event) if plan.todo or plan.index else Scored()
            outcome = self._outcome(plan, scored, store)
        on_event(End("incomplete" if outcome.incomplete else "done", outcome.exit_code, outcome=outcome))
        return outcome

    def _execute(self, plan: Plan, store: Store, on_event: OnEvent) -> Scored:
        refused = self.inputs.weights.refused
        setup = WorkerSetup(self.source, self.selection, store, self.suite, self.settings, self._fetch)
        if self.cluster is None:
            devices, verbose = self.devices, self.options.verbose
            return execute(plan, setup, on_event, refused, devices=devices, verbose=verbose)
        work = Work(
            suite=self.suite,
            fingerprint=self.fingerprint,
            data=on_every_node(self._data),
            tokenizer=on_every_node(self._tokenizer),
            column=self._column,
            selection=self.selection,
            store=on_every_node(self.options.out),
            settings=self.settings,
            engine_version=self.diagnosis.version,
        )
        return execute_on(self.cluster, work, plan, setup, on_event, refused)

    def _outcome(self, plan: Plan, scored: Scored, store: Store) -> Outcome:
        failed = {failure.checkpoint for failure in scored.failures}
        failures = (
            *scored.failures,
            # Their scores are whole, and are not of what is there now.
            *(FailedCheckpoint(*one) for one in self.inputs.weights.refused.items() if one[0] not in failed),
        )
        doubts = doubtful(plan, store)
        allowed = self.options.allow_implausible
        reasons = why_incomplete(self.inputs, failures, doubts, str(store.logs), allowed)
        return Outcome(
            plan,
            self.inputs,
            scored.sequences,
            scored.windows,
            scored.seconds,
            failures,
            doubts,
            reasons,
        )

    @property
    def _data(self) -> str:
        path = self.options.data or self.suite.sequences.path
        if path is None:
            raise BadInput(
                f"suite {self.suite.name} doesn't say where its sequences are: give --data,"
                " such as the document.idx of the training data"
            )
        return path

    @property
    def _tokenizer(self) -> str | None:
        return self.options.tokenizer or self.suite.sequences.tokenizer

    @property
    def _column(self) -> str | None:
        return self.options.tokens_column or self.suite.sequences.column

    @property
    def _dtype_is_known(self) -> bool:
        return self.diagnosis.device == "cpu" or self.options.dtype != "auto"

    @property
    def _settings(self) -> EngineSettings:
        """As `settings`, before weights may have decided the dtype."""
        options = self.options
        return EngineSettings(
            engine=options.engine,
            mode=options.mode,
            context=options.context,
            dtype="float32" if options.dtype == "auto" else options.dtype,
            banned_token_id=self.suite.banned_token_id,
            device=self.diagnosis.device,
            loglik=options.loglik,
            deterministic=options.deterministic,
            tensor_parallel=options.tensor_parallel,
            allow_pickle=options.allow_pickle_weights,
            verify=options.verify,
        )

    @cached_property
    def _fetch(self) -> Fetch:
        """Weights, each fetched once, here or by a node."""
        fetch = fetch_weights if self.cluster is None else self.cluster.fetch
        found: Fetch = cache(partial(fetch, allow_pickle=self.options.allow_pickle_weights))
        return found

    def _fingerprint(self, settings: EngineSettings) -> dict[str, str | int | None]:
        return fingerprint_of(self.suite, self.source, self.selection, settings, self.diagnosis.version)

    def _existing(self) -> Store | None:
        """The store that is there already. What is there instead is told when one is made."""
        with suppress(StoreConflict):
            return Store.open(self.options.out)
        return None


def _is_whole(store: Store, suite: str) -> bool:
    """Whether a suite's fingerprint can be read; a damaged one is mended before it is compared."""
    with suppress(StoreConflict):
        store.fingerprint(suite)
        return True
    return False
