"""`memoserve suite`: which suites there are, what is in one, and whether that is so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from memoserve.checks import Check

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
    suite: Annotated[str, typer.Argument(help="A shipped suite or a suite file.")],
    checkpoints: Annotated[
        str | None, typer.Option(help="Which ones, as in memoserve run.", show_default=False)
    ] = None,
) -> None:
    """Show a suite's models, and the training compute of its checkpoints."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from memoserve.suites import load_suite, select
    from memoserve.terminal import harmless, harmless_lines

    console = Console()
    loaded = load_suite(suite)
    console.print(harmless_lines(f"{loaded.name}: {loaded.description}"), markup=False, highlight=False)
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
        console.print(f"  {harmless(fact)}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("checkpoint")
    for heading in ("parameters", "without emb.", "sequences seen", "tokens seen", "training FLOPs"):
        table.add_column(heading, justify="right")
    for checkpoint in select(loaded, checkpoints):
        table.add_row(
            Text(harmless(str(checkpoint))),
            f"{checkpoint.model.parameters:,}",
            f"{checkpoint.model.parameters_without_embeddings:,}",
            f"{checkpoint.sequences_seen:,}",
            f"{checkpoint.tokens_seen:,}",
            f"{checkpoint.training_flops:.3e}",
        )
    console.print(table)
    console.print("training FLOPs = 6 x parameters (embeddings counted) x tokens seen", highlight=False)


@app.command()
def check(
    suite: Annotated[str, typer.Argument(help="A shipped suite or a suite file.")],
    checkpoints: Annotated[
        str | None, typer.Option(help="Which ones, as in memoserve run.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The sequences, as in memoserve run.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="tokenizer.json, as in memoserve run.", show_default=False)
    ] = None,
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
    from memoserve.run.described_weights import Use
    from memoserve.run.suite_check import check_suite, what_is_read
    from memoserve.suites import load_suite, select
    from memoserve.terminal import harmless

    loaded = load_suite(suite)
    chosen = select(loaded, checkpoints)
    for line in what_is_read(loaded, chosen, data=data, all_steps=all_steps):
        typer.echo(harmless(line), err=output == "json")
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
    """Those that passed in one line a model; all others each with its detail."""
    from collections import Counter

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from memoserve.terminal import harmless

    table = Table(box=None, pad_edge=False)
    for heading in ("check", "of", "result", "detail"):
        table.add_column(heading, overflow="fold")
    passed = Counter((one.name, one.model or one.subject) for one in checks if one.result == "passed")
    said: set[tuple[str, str]] = set()
    for one in checks:
        row = one.name, one.model or one.subject
        if one.result != "passed":
            table.add_row(*(Text(harmless(cell)) for cell in (one.name, one.subject, one.result, one.detail)))
        elif row not in said:
            said.add(row)
            count = passed[row]
            of = f"{one.model}: {count} checkpoints" if one.model and count > 1 else one.subject
            detail = one.detail if count == 1 else ""
            table.add_row(*(Text(harmless(cell)) for cell in (one.name, of, one.result, detail)))
    Console().print(table)
    results = Counter(one.result for one in checks)
    typer.echo(", ".join(f"{count} {result}" for result, count in sorted(results.items())))
