"""What the report says, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoserve.errors import BadInput
from memoserve.report.charts.all import CHARTS
from memoserve.report.charts.base import Chart
from memoserve.report.charts.compute import RECOMMENDED
from memoserve.report.coverage import coverage
from memoserve.report.grammar import Look
from memoserve.report.page import answer_of, drawing, figure, page, table
from memoserve.report.rows import Table, ask, models_of, parameters_for
from memoserve.store import Store

if TYPE_CHECKING:
    import duckdb

    from memoserve.memorized import Piece
    from memoserve.recommend.advisor import Recommended
    from memoserve.recommend.rules import Share

_ROWS = 5000
"""A figure with more rows than this doesn't go on a page, whose links hold them all."""


_BESIDE = {"position": "position_test"}
"""Queries without a picture of their own, by the figure that they stand below."""


@dataclass(frozen=True)
class Text:
    """A memorized window to show: its context and its continuation."""

    sequence_id: int
    occurrences: int
    context: Sequence[Piece]
    continuation: Sequence[Piece]


@dataclass(frozen=True)
class Texts:
    """Memorized texts for the report, or why there are none."""

    shown: Sequence[Text]
    redacted: bool
    missing: str | None = None


def report(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    *,
    suite: str | None = None,
    target: str | None = None,
    texts: Texts | None = None,
    only: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> str:
    """The page as HTML. `only`: these charts, by name; `progress` is told what is being drawn.

    Raises BadInput for a suite or target that was not evaluated, and where nothing was evaluated.
    """
    from memoserve import __version__

    cells = coverage(connection, suite, store.path)
    if not cells:
        raise BadInput(f"{store.path} holds no scores yet: run memoserve run, or memoserve import, first")
    suite = str(cells[0]["suite"])
    answers: dict[str, Table] = {}

    def answer(name: str) -> Table:
        if name not in answers:
            declared = parameters_for_name(name, suite, target)
            answers[name] = ask(connection, name, declared, store.path)
        return answers[name]

    predictors = answer("predictors")
    wanted = target or _last(cells)
    look = Look(models_of(connection, suite, store.path))
    figures, left_out = [], []
    for chart in CHARTS:
        if only is not None and chart.name not in only:
            continue
        progress(chart.name)
        its = answer(chart.query)
        if not chart.drawable(its.rows):
            left_out.append((chart, "the store has nothing to draw for it"))
        elif len(its.rows) > _ROWS:
            left_out.append((chart, f"{len(its.rows):,} rows are too many for a page"))
        else:
            drawn = figure(chart, its, look)
            if chart.name in _BESIDE:
                drawn += answer_of(answer(_BESIDE[chart.name]), unfolded=True)
            figures.append((chart, drawn))
    title = f"Memorization in {suite}: what cheaper runs say about {wanted}"
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return page(
        title,
        [
            "<header>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{escape(_in_a_line(store, suite, cells))}<br>'
            f"memoserve {escape(__version__)}, {made}</p>",
            "</header>",
            _contents([chart for chart, _ in figures], texts is not None),
            "<main>",
            _run(store, suite, cells, answer("counts")),
            _verified(answer("checks"), cells),
            _answer(predictors, wanted),
            _recommendation(connection, store.path, suite, wanted, look if only is None else None),
            '<section id="figures"><h2>Figures</h2>',
            "<p>Each with its table, its SQL and its data. Shares are of sequences (every occurrence "
            "counts) or "
            "of windows (equal sequences count once).</p>",
            '<p class="onpaper">On paper without them: they are in the file that this was printed from.</p>',
            *(drawn for _, drawn in figures),
            _left_out(left_out),
            "</section>",
            _limits(store, suite, cells, predictors),
            "" if texts is None else _texts(texts, wanted),
            "</main>",
        ],
    )


def parameters_for_name(name: str, suite: str, target: str | None) -> dict[str, str]:
    """As parameters_for, by the query's name."""
    from memoserve.queries import find_query

    # The paper's table is about Pythia's suites alone, and finds them itself.
    return {} if name == "predictors_vs_paper" else parameters_for(find_query(name), suite, target)


def _last(cells: Sequence[Mapping[str, Any]]) -> str:
    evaluated = [one for one in reversed(cells) if one["evaluated"]]
    if not evaluated:
        raise BadInput(f"suite {cells[0]['suite']} has no scores in this store yet")
    return str(max(evaluated, key=lambda one: one["same_weights_as"] is None)["checkpoint"])


def _in_a_line(store: Store, suite: str, cells: Sequence[Mapping[str, Any]]) -> str:
    said = store.fingerprint(suite)
    evaluated = [one for one in cells if one["evaluated"]]
    facts = [
        f"Suite {suite}: {len(evaluated)} of {len(cells)} checkpoints",
        f"{evaluated[0]['trained']:,} training sequences",
        f"sample: {said['sample']}" if said.get("sample") else "",
        " ".join(str(said[key]) for key in ("engine", "engine_version", "dtype") if said.get(key)),
        f"{said['mode']} mode" if said.get("mode") else "",
    ]
    return ", ".join(fact for fact in facts if fact)


def _contents(charts: Sequence[Chart], texts: bool) -> str:
    links = [
        ("run", "What was run"),
        ("verified", "What was verified"),
        ("answer", "The answer"),
        ("recommendation", "The recommendation"),
        ("figures", "Figures"),
    ]
    links += [(chart.name, chart.title) for chart in charts]
    links += [("limits", "Limits")] + ([("texts", "Memorized texts")] if texts else [])
    items = "".join(f'<li><a href="#{escape(to)}">{escape(text)}</a></li>' for to, text in links)
    return f'<nav aria-label="Contents"><details><summary>Contents</summary><ul>{items}</ul></details></nav>'


def _percent(share: float | None) -> str:
    return "not defined" if share is None else f"{share:.1%}"


def _interval(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "not defined (nothing memorized)"
    return f"{_percent(row[name])} ({_percent(row[f'{name}_low'])} to {_percent(row[f'{name}_high'])})"


def _answer(predictors: Table, target: str) -> str:
    parts = ['<section id="answer"><h2>The answer</h2>']
    for unit in ("sequences", "windows"):
        rows = [row for row in predictors.rows if row["unit"] == unit]
        if not rows:
            continue
        memorized = max(row["target_memorized"] for row in rows)
        best = max(rows, key=lambda row: row["recall_corpus"] or 0.0)
        words = f"<b>{escape(target)}</b> memorized <b>{memorized:,} {unit}</b>. "
        if memorized and best["recall_corpus"] is not None:
            words += (
                f"Of the smaller models the best predictor is <b>{escape(best['predictor'])}</b>, for "
                f"{_percent(best['flops_share'])} of the training compute: it memorized "
                f"<b>{_interval(best, 'recall_corpus')}</b> of them too (recall), so "
                f"{best['target_memorized'] - best['both_memorized']:,} would have come without "
                f"warning; of what it "
                f"memorized, {_interval(best, 'precision')} was memorized by the target (precision)."
            )
        else:
            words += "Where nothing is memorized, there is nothing to predict."
        parts.append(f'<p class="answer">{words}</p>')
        parts.append(
            table(
                f"Smaller models as predictors of {target}, in {unit}; in brackets 95% intervals",
                (
                    "predictor",
                    "compute",
                    "precision",
                    "recall",
                    "recall of what it has seen",
                    "memorized by both",
                ),
                [
                    (
                        row["predictor"],
                        _percent(row["flops_share"]),
                        _interval(row, "precision"),
                        _interval(row, "recall_corpus"),
                        _interval(row, "recall_seen"),
                        row["both_memorized"],
                    )
                    for row in rows
                ],
            )
        )
    if len(parts) == 1:
        parts.append(f"<p>No smaller model was evaluated, so none predicts {escape(target)}.</p>")
    parts += [answer_of(predictors), "</section>"]
    return "\n".join(parts)


def _recommendation(
    connection: duckdb.DuckDBPyConnection, store: str | Path, suite: str, target: str, look: Look | None
) -> str:
    """What memoserve recommend --grid says, with its default bound on precision, and how forecasts fared.

    Without a `look` nothing is drawn.
    """
    from memoserve.recommend import (
        Advisor,
        Bounds,
        backtest_sentence,
        find_target,
        grid_answers,
        rehearse_largest,
    )

    parts = ['<section id="recommendation"><h2>The recommendation</h2>']
    drawn: list[dict[str, Any]] = []
    for unit in ("sequences", "windows"):
        try:
            chosen = find_target(connection, suite, target)
            advisor = Advisor(connection, store, chosen, Bounds(0.8, None), unit=unit)
        except BadInput as error:
            if unit == "sequences":
                parts.append(f"<p>None: {escape(str(error))}</p>")
            break
        answers, said = grid_answers(advisor)
        shares = [(one.budget_share or 0.0) for one in answers]
        papers = [advisor.paper_rule(share * chosen.training_flops) for share in shares]
        rows = []
        for one, paper in zip(answers, papers, strict=True):
            rows.append(
                (one.answer, one.predictors, one.rule, _percent(one.flops_share), one.flagged,
                 _share(one.precision), _share(one.recall),
                 "" if paper is None else paper.predictors, "" if paper is None else _share(paper.recall))
            )  # fmt: skip
        parts += [f"<h3>In {unit}</h3>", *(f"<p>{escape(line)}</p>" for line in said)]
        if rows:
            parts.append(
                table(
                    f"The best run for each budget, a share of the training compute of {target}, in {unit} "
                    f"(memoserve recommend --grid --unit {unit}; {answers[0].basis})",
                    ("budget", "run", "flag what has", "costs", "flagged", "precision", "recall",
                     "by the paper's rule", "its recall"),
                    rows,
                )
            )  # fmt: skip
        before = None
        kinds: tuple[tuple[str, Sequence[Recommended | None]], ...] = (
            ("any rule", answers),
            ("the paper's rule alone", papers),
        )
        for kind, its in kinds:
            for best in its:
                if best is not None:
                    drawn.append(
                        {
                            "unit": unit, "kind": kind, "budget_share": best.budget_share,
                            "predictors": best.predictors, "rule": best.rule,
                            "changes": best.predictors != before, "recall_corpus": best.recall.value,
                            "recall_corpus_low": best.recall.low, "recall_corpus_high": best.recall.high,
                        }
                    )  # fmt: skip
                    before = best.predictors
    if look is not None and RECOMMENDED.drawable(drawn):
        parts += [
            f'<div class="figure"><h3>{escape(RECOMMENDED.title)}</h3>',
            f'<p class="soft">{escape(RECOMMENDED.reading)}</p>',
            drawing(RECOMMENDED, drawn, look),
            "</div>",
        ]
    try:
        rehearsal = rehearse_largest(connection, store, suite, "sequences")
    except BadInput:
        rehearsal = None
    if rehearsal is not None:
        parts.append(
            "<h3>Before anything is known of the target</h3><p>What smaller models alone recommend, "
            "beside what was then measured (in sequences, at a precision of at least 0.8):</p><ul>"
            + "".join(
                f"<li>{escape(backtest_sentence(rehearsal.choose(share, Bounds(0.8, None))))}</li>"
                for share in (0.1, 0.2, 0.5)
            )
            + "</ul>"
        )
    return "\n".join([*parts, "</section>"])


def _share(share: Share) -> str:
    if share.value is None:
        return "not defined"
    return f"{_percent(share.value)} ({_percent(share.low)} to {_percent(share.high)})"


def _run(store: Store, suite: str, cells: Sequence[Mapping[str, Any]], counts: Table) -> str:
    evaluated = [one for one in cells if one["evaluated"]]
    control = {row["checkpoint"]: row for row in counts.rows}
    held_out = sum(row["control"] or 0 for row in counts.rows)
    found = sum(row["control_memorized"] or 0 for row in counts.rows)
    fingerprint = sorted(store.fingerprint(suite).items())
    rows = []
    for one in evaluated:
        its = control.get(one["checkpoint"], {})
        rows.append(
            (
                one["checkpoint"],
                one["seen"],
                its.get("sequences"),
                its.get("sequences_memorized"),
                its.get("windows"),
                its.get("windows_memorized"),
                its.get("control"),
                its.get("control_memorized"),
            )
        )
    words = (
        f"Control: of {held_out:,} evaluations of held-out sequences, which no model was trained on, "
        f"{found:,} came out as memorized."
        if held_out
        else "No held-out sequences were evaluated: nothing shows how often unseen text is matched."
    )
    return "\n".join(
        [
            '<section id="run"><h2>What was run</h2>',
            f"<p>Suite <b>{escape(suite)}</b>: {len(evaluated)} of its {len(cells)} checkpoints, "
            f"{len({one['model'] for one in evaluated})} models, "
            f"{sum(one['evaluated'] for one in evaluated):,} scores. {escape(words)}</p>",
            table(
                "What was evaluated, and what of it is memorized",
                (
                    "checkpoint",
                    "has seen",
                    "sequences evaluated",
                    "memorized",
                    "windows",
                    "memorized",
                    "control",
                    "memorized",
                ),
                rows,
            ),
            "<details><summary>Fingerprint: what has to be equal for scores to share a store</summary>",
            table("Fingerprint of the run", ("what", "value"), [(k, str(v)) for k, v in fingerprint]),
            "</details></section>",
        ]
    )


def _verified(checks: Table, cells: Sequence[Mapping[str, Any]]) -> str:
    """What was held against what: counts by check and result, and each one that did not pass."""
    parts = ['<section id="verified"><h2>What was verified</h2>']
    twins = [one for one in cells if one["same_weights_as"] is not None]
    parts += [
        f"<p>{escape(one['checkpoint'])} has the weights of {escape(one['same_weights_as'])}: it is offered "
        "neither as a predictor nor as a target.</p>"
        for one in twins
    ]
    if not checks.rows:
        parts.append(
            "<p>This store has no checks: its scores were imported, or made by a version of memoserve that "
            "kept none.</p>"
        )
        return "\n".join([*parts, "</section>"])
    results = ("passed", "warning", "failed", "not checked")
    counted: dict[str, dict[str, int]] = {}
    for row in checks.rows:
        its = counted.setdefault(row["name"], dict.fromkeys(results, 0))
        its[row["result"]] = its.get(row["result"], 0) + 1
    parts.append(
        table(
            "Checks, the newest of each, by result",
            ("what was compared", *results),
            [(name, *(its[result] for result in results)) for name, its in sorted(counted.items())],
        )
    )
    open_ = [row for row in checks.rows if row["result"] != "passed"]
    if open_:
        parts.append(
            table(
                "What did not pass",
                ("result", "what was compared", "of what", "figure", "what was seen"),
                [(row["result"], row["name"], row["subject"], row["figure"], row["detail"]) for row in open_],
            )
        )
    else:
        parts.append("<p>All of them passed.</p>")
    return "\n".join([*parts, answer_of(checks), "</section>"])


def _left_out(charts: Sequence[tuple[Chart, str]]) -> str:
    if not charts:
        return ""
    items = "".join(
        f"<li>{escape(chart.title)}: {escape(why)} (memoserve query {escape(chart.query)})</li>"
        for chart, why in charts
    )
    return f"<h3>Not drawn</h3><ul>{items}</ul>"


def _limits(store: Store, suite: str, cells: Sequence[Mapping[str, Any]], predictors: Table) -> str:
    fingerprint = store.fingerprint(suite)
    said = []
    missing = [str(one["checkpoint"]) for one in cells if not one["evaluated"]]
    if missing:
        listed = ", ".join(missing[:12]) + (" …" if len(missing) > 12 else "")
        said.append(f"Not evaluated: {len(missing):,} of {len(cells):,} checkpoints of the suite ({listed}).")
    partial = [str(one["checkpoint"]) for one in cells if one["evaluated"] and one["evaluated"] < one["seen"]]
    if partial:
        said.append(
            f"Evaluated on a part of what they have seen: "
            f"{', '.join(partial[:12])}{' …' if len(partial) > 12 else ''}. "
            "Shares are of what was evaluated."
        )
    unevaluated = sum(row["not_evaluated"] or 0 for row in predictors.rows)
    if unevaluated:
        said.append(
            "Some sequences were evaluated for the target and not for a predictor; they count nowhere."
        )
    said += [
        "Intervals are Wilson's, 95%, with all occurrences of a window as one cluster. They say how "
        "much another "
        "draw of sequences would change the figure, not how much another training run would.",
        "Memorized means: greedy decoding continues the first tokens of the sequence with exactly its "
        "next 32. "
        "Sampling, other prompts and longer contexts extract more.",
        "Sequences count every occurrence in the training order, windows each distinct text once. Where "
        "a few "
        "texts are repeated often, the two differ much; which one matters depends on what is at stake.",
        f"Computed with {fingerprint.get('engine')} in {fingerprint.get('dtype')}. Rounding depends on "
        f"hardware and "
        "batch shape: where the two most likely tokens are closer than that, another machine may decide "
        "otherwise.",
    ]
    if str(fingerprint.get("engine", "")).startswith("imported"):
        said.append(
            "Imported scores: windows are not numbered, so each sequence counts as a cluster of its own. "
            "Where windows repeat, intervals are too narrow."
        )
    if fingerprint.get("mode") == "extract":
        said.append("Extract mode: only the matched prefix was measured, so there are no scores below it.")
    items = "".join(f"<li>{escape(one)}</li>" for one in said)
    return f'<section id="limits"><h2>Limits</h2><ul>{items}</ul></section>'


def _texts(texts: Texts, target: str) -> str:
    parts = [
        f'<section id="texts"><h2>Memorized texts</h2><p>Some of what {escape(target)} memorized: context, '
        "then, set apart, the continuation that it outputs."
    ]
    if texts.redacted:
        parts.append(
            " What looks like addresses, numbers of people or credentials is masked; this goes by "
            "shapes and "
            "misses what has none, such as names."
        )
    parts.append("</p>")
    if texts.missing is not None:
        parts.append(f"<p>Not shown: {escape(texts.missing)}</p>")
    elif not texts.shown:
        parts.append("<p>There are none.</p>")
    for one in texts.shown:
        times = f", occurs {one.occurrences:,} times" if one.occurrences > 1 else ""
        context, continuation = (
            escape("".join(piece.text for piece in side)) for side in (one.context, one.continuation)
        )
        parts.append(
            f"<h3>Sequence {one.sequence_id:,}{times}</h3>"
            f'<div class="text">{context}<b>{continuation}</b></div>'
        )
    return "\n".join([*parts, "</section>"])
