"""`memoserve suite`: which suites there are, and what is in one."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at suites: models, checkpoints, training compute.")


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
