"""A command for each query, made from its header, for `memoserve query NAME --help` and shell completion."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from memoserve.cli.answer_options import FormatOption, MemoryOption, OutputOption, chosen_format
from memoserve.cli.completion import (
    stored_checkpoint_list,
    stored_checkpoints,
    stored_models,
    stored_suites,
)
from memoserve.errors import BadInput, did_you_mean
from memoserve.terminal import without_markup

if TYPE_CHECKING:
    from memoserve.queries import Parameter, Query

_OF_THE_GROUP = ("--list", "-l", "--queries")
_FLAGS = ("--list", "-l", "--sql", "--help", "-h")
_OF_EVERY_QUERY = ("--format", "-f", "--output", "-o", "--memory", "--sql", "--help", "-h", "--compare")

_StoreArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[DIR]", help="The store. Default: memoserve-out.", show_default=False),
]
_SqlOption = Annotated[bool, typer.Option("--sql", help="Print the query file instead of running it.")]


class QueryGroup(TyperGroup):
    """`memoserve query`: its commands are the query files, each read when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the queries."""
        from memoserve.queries import list_queries

        return [query.name for query in list_queries(_own(ctx))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a query, or of a file. Raises BadInput if there is none."""
        from memoserve.queries import find_query

        return _command(find_query(cmd_name, _own(ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What the command line says, in an order in which the query's name comes before its options."""
        # While a shell completes a line, it isn't whole yet.
        return super().parse_args(ctx, args if ctx.resilient_parsing else _arranged(args))


def _own(ctx: Any) -> Path | None:
    """The folder that --queries names."""
    found = ctx.params.get("queries")
    return None if found is None else Path(found)


def _arranged(args: list[str]) -> list[str]:
    """The group's own options, the query's name, and the rest, each option with its value.

    Raises BadInput for an option that neither memoserve query nor the query has, that lacks its value, or is
    given twice.
    """
    words, options = _split(args)
    group = [one for one in options if one[0] in _OF_THE_GROUP]
    others = [one for one in options if one[0] not in _OF_THE_GROUP]
    compared = [value for name, value in others if name == "--compare"]
    if compared and (words[:1], compared) != (["predictors"], ["paper"]):
        raise BadInput(
            "--compare sets predictors beside the paper: memoserve query predictors --compare paper"
        )
    if compared:
        words[0] = "predictors_vs_paper"
        others = [one for one in others if one[0] != "--compare"]
    if words:
        _check_options(words[0], group, others)
    return [*_joined(group), *words[:1], *_joined(others), *words[1:]]


def _split(args: list[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Plain words, and options with their values (None for a flag)."""
    words: list[str] = []
    options: list[tuple[str, str | None]] = []
    rest = iter(args)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            words.append(argument)
        elif argument in _FLAGS:
            options.append((argument, None))
        elif not argument.startswith("--") and argument[:2] in ("-f", "-o") and len(argument) > 2:
            options.append((argument[:2], argument[2:]))
        elif not argument.startswith("--") and argument not in ("-f", "-o"):
            raise BadInput(
                f"{argument!r} is no option of memoserve query; a parameter is given as --name value"
            )
        elif equals:
            options.append((name, value))
        else:
            following = next(rest, None)
            if following is None:
                raise BadInput(f"{name} lacks its value{did_you_mean(name, _FLAGS)}")
            options.append((name, following))
    return words, options


def _check_options(
    query: str, group: list[tuple[str, str | None]], options: list[tuple[str, str | None]]
) -> None:
    from memoserve.queries import find_query, typed_values

    own = dict(group).get("--queries")
    found = find_query(query, None if own is None else Path(own))
    names = [name for name, _ in options if name not in _OF_EVERY_QUERY]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{name} is given twice")
    typed_values(found, {name.removeprefix("--"): value for name, value in options if name in names})


def _joined(options: list[tuple[str, str | None]]) -> list[str]:
    words: list[str] = []
    for name, value in options:
        if value is None:
            words.append(name)
        elif name.startswith("--"):
            words.append(f"{name}={value}")
        else:
            words += [name, value]
    return words


def _command(query: Query) -> Any:
    """What click runs for a query: an option for each of its parameters, with meaning and default."""
    taken = {"format", "output", "memory", "sql", "help", "list", "queries", "compare"}
    for parameter in query.parameters:
        if parameter.name in taken:
            raise BadInput(
                f"{query.path}: a parameter can't be called {parameter.name}, which is an option here"
            )
    # Names of one's own choice are no names of Python's: counted.
    named = {f"parameter_{number}": one for number, one in enumerate(query.parameters)}

    def ask(
        store: list[str] | None,
        form: Any,
        output: Path | None,
        show_sql: bool,
        memory: str | None,
        **values: str | None,
    ) -> None:
        given = {named[key].name: value for key, value in values.items() if value is not None}
        _ask(query, store or [], form, output, show_sql, memory, given)

    options: dict[str, tuple[Any, Any]] = {
        "store": (_StoreArgument, None),
        **{key: (_option(one), None) for key, one in named.items()},
        "form": (FormatOption, None),
        "output": (OutputOption, None),
        "show_sql": (_SqlOption, False),
        "memory": (MemoryOption, None),
    }
    ask.__annotations__ = {key: annotation for key, (annotation, _) in options.items()}
    ask.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for key, (annotation, default) in options.items()
        ]
    )
    one = typer.Typer(add_completion=False, rich_markup_mode="rich")
    one.command(query.name, help=without_markup(_help(query)))(ask)
    return typer.main.get_command(one)


def _option(parameter: Parameter) -> Any:
    option = typer.Option(
        f"--{parameter.name}",
        help=without_markup(parameter.meaning),
        metavar=parameter.type.upper(),
        show_default=parameter.default,
        autocompletion=_completion(parameter),
    )
    return Annotated[str | None, option]


def _completion(parameter: Parameter) -> Callable[..., list[str]] | None:
    if "|" in parameter.type:
        return lambda: parameter.type.split("|")
    by_type: dict[str, Callable[..., list[str]]] = {
        "checkpoint": stored_checkpoints,
        "checkpoint names": stored_checkpoint_list,
        "model": stored_models,
    }
    return stored_suites if parameter.name == "suite" else by_type.get(parameter.type)


def _help(query: Query) -> str:
    """The question, what it takes to understand the answer, the columns, an example."""
    columns = "\n".join(f"{column.name}: {column.meaning}" for column in query.columns)
    parts = [query.question, " ".join(query.description.split())]
    if columns:
        parts += ["Columns:", f"\b\n{columns}"]
    return "\n\n".join([*(part for part in parts if part), f"Example: {query.example}"])


def _ask(
    query: Query,
    stores: list[str],
    form: Any,
    output: Path | None,
    show_sql: bool,
    memory: str | None,
    values: dict[str, str],
) -> None:
    from memoserve.catalog import Catalog, explained
    from memoserve.queries.output import write_answer
    from memoserve.store import DEFAULT_STORE

    if show_sql:
        typer.echo(query.sql, nl=False)
        return
    if len(stores) > 1:
        raise BadInput(f"one query and one store at a time, not {' '.join([query.name, *stores])}")
    store = stores[0] if stores else os.environ.get("MEMOSERVE_OUT") or DEFAULT_STORE
    form = chosen_format(form, output)
    with Catalog.open(store, memory_limit=memory) as catalog, explained(store):
        write_answer(catalog.query(query, **values), form, output, query.question)
