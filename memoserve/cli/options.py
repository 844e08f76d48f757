"""The options that several commands have, each with what a shell completes it to."""

from __future__ import annotations

from typing import Annotated

import typer

from memoserve.cli.completion import stored_checkpoints, stored_suites, suites

StoreArgument = Annotated[
    str, typer.Argument(metavar="[DIR]", help="The store: a directory or a URL.", envvar="MEMOSERVE_OUT")
]
SuiteOption = Annotated[
    str | None,
    typer.Option(
        "--suite",
        help="The suite. Default: the first evaluated one.",
        show_default=False,
        autocompletion=stored_suites,
    ),
]
SuiteOrFileOption = Annotated[
    str | None,
    typer.Option(
        "--suite", help="The suite, by name or file.", show_default=False, autocompletion=stored_suites
    ),
]
SuiteArgument = Annotated[
    str, typer.Argument(help="A shipped suite or a suite file.", autocompletion=suites, show_default=False)
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="The checkpoint to predict. Default: the largest model's last evaluated one.",
        show_default=False,
        autocompletion=stored_checkpoints,
    ),
]
TextDataOption = Annotated[
    str | None,
    typer.Option("--data", help="The training sequences, for the texts.", show_default=False),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option("--tokenizer", help="tokenizer.json, or the folder that holds it.", show_default=False),
]
