"""The suite file: a TOML description of models trained on the same sequences in the same order."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memoserve.domain import Checkpoint, Model, Weights
from memoserve.errors import BadInput

LARGEST = 1 << 20
"""Bytes of a suite file; thousands of checkpoints take a tenth of it."""

SHIPPED = Path(__file__).parent / "shipped"

PositiveInt = Annotated[int, Field(gt=0)]
Step = Annotated[int, Field(ge=0)]


_EqualSteps = Annotated[list[Step], Field(min_length=2)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ModelTable(_Table):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    parameters: PositiveInt
    parameters_without_embeddings: PositiveInt
    hub: str | None = None
    revision: str = "step{step}"
    folder: str | None = None
    equal_steps: list[_EqualSteps] = []

    @model_validator(mode="after")
    def _one_location(self) -> _ModelTable:
        if (self.hub is None) == (self.folder is None):
            raise ValueError('give either hub = "owner/name" or folder = "path/step{step}"')
        template = self.folder if self.folder is not None else self.revision
        if "{step}" not in template:
            raise ValueError(f"{template!r} lacks {{step}}: every checkpoint would load the same weights")
        return self


class _SequencesTable(_Table):
    path: str | None = None
    tokenizer: str | None = None
    column: str | None = None
    trained: PositiveInt
    control: tuple[Step, Step] | None = None

    @model_validator(mode="after")
    def _control_is_unseen(self) -> _SequencesTable:
        if self.control is not None and not self.trained <= self.control[0] < self.control[1]:
            raise ValueError("control must be a range [first, end] of sequences after the trained ones")
        return self


DefectKind = Literal["weights of another step", "chimera", "equal steps", "missing", "suspect"]


class _DefectTable(_Table):
    """`of` is a step, or a revision on the hub such as main."""

    model: str | None = None
    steps: list[Step] = []
    kind: DefectKind
    of: Step | str | None = None
    source: Annotated[str, Field(min_length=1)]
    note: str = ""


class _SuiteTable(_Table):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    batch_size: PositiveInt
    sequence_length: PositiveInt
    eos: Literal["allow", "ban"]
    eos_token_id: Step
    steps: Annotated[list[Step], Field(min_length=1)]
    default_steps: Annotated[list[Step], Field(min_length=1)] | None = None
    equal_steps: list[_EqualSteps] = []
    sequences: _SequencesTable
    models: Annotated[list[_ModelTable], Field(min_length=1)]
    defects: list[_DefectTable] = []

    @model_validator(mode="after")
    def _steps_and_models_in_order(self) -> _SuiteTable:
        if self.steps != sorted(set(self.steps)):
            raise ValueError("steps must increase, each once")
        unknown = sorted(set(self.default_steps or ()) - set(self.steps))
        if unknown:
            raise ValueError(f"default_steps {unknown} are not among steps")
        for equal in (*self.equal_steps, *(steps for model in self.models for steps in model.equal_steps)):
            if unknown := sorted(set(equal) - set(self.steps)):
                raise ValueError(f"equal_steps {unknown} are not among steps")
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("two models have one name")
        for defect in self.defects:
            if defect.model is not None and defect.model not in names:
                raise ValueError(f"defects name {defect.model!r}, which is no model of the suite")
            steps = {*defect.steps, *([defect.of] if isinstance(defect.of, int) else ())}
            if unknown := sorted(steps - set(self.steps)):
                raise ValueError(f"defects name steps {unknown}, which are not among steps")
        sizes = [model.parameters for model in self.models]
        if sizes != sorted(sizes):
            raise ValueError("models must stand in order of size (parameters)")
        return self


@dataclass(frozen=True)
class SuiteSequences:
    """The training data: `path` may be missing (then the user gives it), `column` is the Parquet column of
    tokens if it has a name of its own, `control` is half-open.
    """

    path: str | None
    tokenizer: str | None
    column: str | None
    trained: int
    control: tuple[int, int] | None


@dataclass(frozen=True)
class Defect:
    """What others reported of published checkpoints. It is looked for; that it is listed proves nothing.

    model: None where all are meant; steps: empty where the report names none; of: whose weights they are
    said to be, a step or a revision on the hub.
    """

    model: str | None
    steps: tuple[int, ...]
    kind: DefectKind
    of: int | str | None
    source: str
    note: str

    def names(self, checkpoint: Checkpoint) -> bool:
        """Whether the report is about this checkpoint."""
        return self.model in (None, checkpoint.model.name) and checkpoint.step in self.steps


@dataclass(frozen=True)
class Suite:
    """A suite as its file says it. Paths in it are relative to the file."""

    file: Path
    table: _SuiteTable

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def description(self) -> str:
        return self.table.description

    @property
    def batch_size(self) -> int:
        return self.table.batch_size

    @property
    def sequence_length(self) -> int:
        return self.table.sequence_length

    @property
    def eos(self) -> Literal["allow", "ban"]:
        return self.table.eos

    @property
    def eos_token_id(self) -> int:
        return self.table.eos_token_id

    @property
    def banned_token_id(self) -> int | None:
        """The token that no engine may generate, or None."""
        return self.eos_token_id if self.eos == "ban" else None

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(self.table.steps)

    @property
    def default_steps(self) -> tuple[int, ...]:
        return tuple(self.table.steps if self.table.default_steps is None else self.table.default_steps)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        return tuple(
            Model(m.name, order, m.parameters, m.parameters_without_embeddings)
            for order, m in enumerate(self.table.models)
        )

    @property
    def trained(self) -> int:
        """Sequences that training read, in all."""
        return self.table.sequences.trained

    @cached_property
    def sequences(self) -> SuiteSequences:
        table = self.table.sequences
        return SuiteSequences(
            path=self._beside(table.path),
            tokenizer=self._beside(table.tokenizer),
            column=table.column,
            trained=table.trained,
            control=table.control,
        )

    @cached_property
    def defects(self) -> tuple[Defect, ...]:
        """Reported, not checked by whoever wrote the suite."""
        return tuple(
            Defect(d.model, tuple(d.steps), d.kind, d.of, d.source, d.note) for d in self.table.defects
        )

    def checkpoint(self, model: Model, step: int) -> Checkpoint:
        """The checkpoint of `model` at `step`. Raises BadInput for a step the suite doesn't have."""
        if step not in self.steps:
            raise BadInput(
                f"suite {self.name} has no step {step} of {model.name}: its steps are {_span(self.steps)}"
            )
        table = self.table.models[model.order]
        if table.folder is not None:
            weights = Weights(folder=Path(self._beside(_filled(table.folder, step)) or ""))
        else:
            weights = Weights(hub=table.hub, revision=_filled(table.revision, step))
        seen = min(step * self.batch_size, self.sequences.trained)
        return Checkpoint(self.name, model, step, seen, seen * self.sequence_length, weights)

    def all_checkpoints(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint, smallest model first, steps ascending."""
        return tuple(self.checkpoint(model, step) for model in self.models for step in self.steps)

    def declared_equal(self, model: Model, one: int, other: int) -> bool:
        """Whether the suite says that the weights of `model` are the same at these two steps."""
        declared = (*self.table.equal_steps, *self.table.models[model.order].equal_steps)
        return any({one, other} <= set(steps) for steps in declared)

    def _beside(self, path: str | None) -> str | None:
        """A path of the suite file, made absolute; hub names and URLs stay as they are."""
        if path is None or "://" in path:
            return path
        return str((self.file.parent / path).resolve())


def _filled(template: str, step: int) -> str:
    """Not str.format: other braces in a path are just letters of it."""
    return template.replace("{step}", str(step))


def _span(steps: tuple[int, ...]) -> str:
    if len(steps) <= 12:
        return ", ".join(map(str, steps))
    return f"{', '.join(map(str, steps[:4]))} ... {', '.join(map(str, steps[-2:]))} ({len(steps)} in all)"


def shipped_suites() -> dict[str, Path]:
    """Name -> file of the suites that come with memoserve."""
    files = [*SHIPPED.glob("*.toml"), *SHIPPED.glob("*/suite.toml")]
    return dict(sorted((f.parent.name if f.name == "suite.toml" else f.stem, f) for f in files))


def _read(file: Path) -> str:
    """The text of a suite file. A pipe or a device has no size, and is not read."""
    if file.exists() and not file.is_file():
        raise BadInput(f"{file} is not a file")
    with open(file, "rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise BadInput(f"{file} has more than {LARGEST:,} bytes: too large for a suite")
    return content.decode("utf-8")


def load_suite(name_or_file: str | Path) -> Suite:
    """Load a shipped suite by name, or a suite file by path.

    Raises BadInput, naming the file and the field, if it can't be read or doesn't make sense.
    """
    shipped = shipped_suites()
    file = shipped.get(str(name_or_file)) or Path(name_or_file)
    try:
        if file.is_dir():
            file = file / "suite.toml"
        content: dict[str, Any] = tomllib.loads(_read(file))
    except FileNotFoundError:
        raise BadInput(
            f"no suite {str(name_or_file)!r}: not a file,"
            f" and the shipped suites are {', '.join(sorted(shipped))}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} can't be read as a suite: {error}") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # Nesting without end, and numbers of thousands of digits, are no TOMLDecodeError.
        raise BadInput(f"{file} is not valid TOML: {error}") from None
    try:
        return Suite(file, _SuiteTable.model_validate(content))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'suite'}: {e['msg']}" for e in error.errors()]
        raise BadInput(f"{file} is not a suite:\n" + "\n".join(lines)) from None
