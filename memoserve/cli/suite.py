"""`memoserve suite`: which suites there are, what is in one, and whether that is so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memoserve.cli.completion import selectors
from memoserve.cli.options import SuiteArgument, TokenizerOption

if TYPE_CHECKING:
    from memoserve.checks import Check

_CheckpointsOption = Annotated[
    str | None,
    typer.Option(help="Which ones, as in memoserve run.", show_default=False, autocompletion=selectors),
]

app = typer.Typer(
    no_args_is_help=True, help="Look at suites: models, checkpoints, training compute; check them."
)


@app.command("list")
def list_suites() -> None:
    """List the suites that come with memoserve."""
    from rich.console import Console
    from rich.table import Table

    from memoserve.suites import load_suite, shipped_suites

    table = Table(box=None, pad_edge=False)
    for heading in ("suite", "models", "steps", "checkpoints", "description"):
        table.add_column(heading, justify="left" if heading in ("suite", "description") else "right")
    for name in shipped_suites():
        suite = load_suite(name)
        table.add_row(
            name,
            str(len(suite.models)),
            str(len(suite.steps)),
            str(len(suite.models) * len(suite.steps)),
            suite.description,
        )
    Console().print(table)


@app.command()
def show(
    suite: SuiteArgument,
    checkpoints: _CheckpointsOption = None,
) -> None:
    """Show a suite's models, and the training compute of its checkpoints."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from memoserve.suites import load_suite, select
    from memoserve.terminal import escape_for_terminal, escape_lines_for_terminal

    console = Console()
    loaded = load_suite(suite)
    console.print(
        escape_lines_for_terminal(f"{loaded.name}: {loaded.description}"), markup=False, highlight=False
    )
    facts = [
        f"batch size {loaded.batch_size:,} sequences of {loaded.sequence_length:,} tokens",
        f"end of text: {loaded.eos} (token {loaded.eos_token_id})",
        f"steps: {len(loaded.steps)}, {loaded.steps[0]} to {loaded.steps[-1]}",
        f"sequences: {loaded.sequences.path or 'given with --data'}, {loaded.sequences.trained:,} trained on",
    ]
    if loaded.sequences.control is not None:
        first, stop = loaded.sequences.control
        facts.append(f"control: sequences {first:,} to {stop - 1:,}, which no model saw")
    for fact in facts:
        console.print(f"  {escape_for_terminal(fact)}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("checkpoint")
    for heading in ("parameters", "without emb.", "sequences seen", "tokens seen", "training FLOPs"):
        table.add_column(heading, justify="right")
    for checkpoint in select(loaded, checkpoints):
        table.add_row(
            Text(escape_for_terminal(str(checkpoint))),
            f"{checkpoint.model.parameters:,}",
            f"{checkpoint.model.parameters_without_embeddings:,}",
            f"{checkpoint.sequences_seen:,}",
            f"{checkpoint.tokens_seen:,}",
            f"{checkpoint.training_flops:.3e}",
        )
    console.print(table)
    console.print("training FLOPs = 6 x parameters (embeddings counted) x tokens seen", highlight=False)
    if loaded.defects:
        console.print("reported of these checkpoints, not checked by us (memoserve suite check looks):")
    for defect in loaded.defects:
        steps = ", ".join(map(str, defect.steps[:6]))
        more = f" and {len(defect.steps) - 6} more" if len(defect.steps) > 6 else ""
        named = f"{defect.model or 'every model'}{f', steps {steps}{more}' if defect.steps else ''}"
        what = defect.kind + (f" ({defect.of})" if defect.of is not None else "")
        line = f"  {named}: {what}{f', {defect.note}' if defect.note else ''}. {defect.source}"
        console.print(escape_for_terminal(line), markup=False, highlight=False, soft_wrap=True)


@app.command()
def check(
    suite: SuiteArgument,
    checkpoints: _CheckpointsOption = None,
    data: Annotated[
        str | None, typer.Option(help="The sequences, as in memoserve run.", show_default=False)
    ] = None,
    tokenizer: TokenizerOption = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of context.")] = 32,
    all_steps: Annotated[
        bool, typer.Option("--all", help="Compare with every step on the hub, not with the chosen ones.")
    ] = False,
    allow_pickle_weights: Annotated[
        bool, typer.Option("--allow-pickle-weights", help="Look at .bin weights too; they are not loaded.")
    ] = False,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Check weights and data against the suite and each other. No engine is started.

    Exit code 3 says that a check failed.
    """
    from memoserve.checks import failures
    from memoserve.errors import BadInput
    from memoserve.run.checks.described_weights import Use
    from memoserve.run.checks.suite import check_suite, what_is_read
    from memoserve.suites import load_suite, select
    from memoserve.terminal import escape_for_terminal

    loaded = load_suite(suite)
    chosen = select(loaded, checkpoints)
    for line in what_is_read(loaded, chosen, data=data, all_steps=all_steps):
        typer.echo(escape_for_terminal(line), err=output == "json")
    checks = check_suite(
        loaded,
        chosen,
        use=Use(context=context),
        data=data,
        tokenizer=tokenizer,
        allow_pickle=allow_pickle_weights,
        all_steps=all_steps,
    )
    if output == "json":
        import json
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(one) for one in checks], indent=1))
    else:
        _print_checks(checks)
    if failed := failures(checks):
        raise BadInput(f"{len(failed)} of {len(checks)} checks failed")


def _print_checks(checks: Sequence[Check]) -> None:
    """A line each; what passed, or says the same, for several checkpoints of a model takes one."""
    from collections import Counter, defaultdict

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from memoserve.terminal import escape_for_terminal

    rows: dict[tuple[str, str, str, str], list[Check]] = defaultdict(list)
    for one in checks:
        detail = "" if one.result == "passed" and one.step is not None else one.detail
        rows[one.name, one.model or one.subject, one.result, detail].append(one)
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "of", "result", "detail"):
        table.add_column(heading, overflow="fold")
    for (name, of, result, _), those in rows.items():
        subject = those[0].subject if len(those) == 1 else f"{of}: {len(those)} checkpoints"
        # Details of several that passed differ, if at all, in no more than a name.
        cells = name, subject, result, those[0].detail if len(those) == 1 or result != "passed" else ""
        table.add_row(*(Text(escape_for_terminal(cell)) for cell in cells))
    Console().print(table)
    results = Counter(one.result for one in checks)
    typer.echo(", ".join(f"{count} {result}" for result, count in sorted(results.items())))
