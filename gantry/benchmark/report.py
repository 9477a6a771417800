"""A benchmark's report: one page that needs nothing beside it, and the same as Markdown, CSV and LaTeX."""

import base64
import csv
import functools
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gantry.benchmark.comparison import THRESHOLD, Comparison, Entry
from gantry.benchmark.films import FILMS, SECONDS
from gantry.benchmark.reference import published
from gantry.benchmark.results import Missing, Training
from gantry.benchmark.statistics import Interval, TimeToThreshold
from gantry.envs.registry import registered_id
from gantry.files import write_json, write_text
from gantry.plots.comparison import Estimate, Line, draw_estimates, draw_lines
from gantry.types import Json

MIDDLE_GRAY = "#767676"
"""Ink of figures by themselves, readable on light and on dark pages."""
VERSUS = (
    "In how many environments our agent's mean final score is at or above that of the other library's, and in how many "
    "the 95 % interval of the difference lies above or below zero."
)

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --page: #ffffff; --soft: #f3f5f7; --line: #d5dae0; --link: #1f5fc4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --page: #14171a; --soft: #20252a; --line: #39414a; --link: #7fb0ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1rem; }
a { color: var(--link); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.text { text-align: left; } td.reason { text-align: left; white-space: normal; }
td.best { font-weight: 700; }
small { opacity: 0.75; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.figures svg, video { width: 100%; height: auto; color: var(--ink); }
details { margin: 0.5rem 0; } pre { overflow-x: auto; background: var(--soft); padding: 0.6rem; font-size: 0.8rem; }
"""


class Report:
    """Everything that a report is made of.

    Args:
        comparison: the numbers.
        missing: cells without a result.
        about: what was run: `command`, `protocol`, and `wall_seconds` where known.
        folder: the benchmark's, for films.
    """

    def __init__(self, comparison: Comparison, missing: Sequence[Missing], about: Json, folder: Path) -> None:
        self.comparison, self.missing, self.about, self.folder = comparison, list(missing), about, folder
        self.aggregates = comparison.aggregates()
        self.improvements = comparison.improvements()
        self.versus = comparison.versus()

    def write(self, folder: Path) -> Path:
        """Write `report.html`, `report.md`, `results.csv`, `curves.csv`, `table.tex`, `results.json` and `figures/`.

        The figures are those over all environments, one SVG each.

        Returns:
            The page.

        Raises:
            GantryError: a file cannot be written.
        """
        write_text(folder / "report.md", self.markdown())
        write_text(folder / "results.csv", self.results_csv())
        write_text(folder / "curves.csv", self.curves_csv())
        write_text(folder / "table.tex", self.latex())
        write_json(folder / "results.json", self.to_json())
        for title, figure in self._aggregate_figures.items():
            name = title.replace(" ", "_").lower()
            write_text(folder / "figures" / f"{name}.svg", figure.replace("currentColor", MIDDLE_GRAY))
        page = folder / "report.html"
        write_text(page, self.html())
        return page

    # Tables

    def _headline(self) -> tuple[list[str], list[list[tuple[str, bool]]]]:
        """Return header and rows of the table of final scores; of each cell, text and whether it is among the best."""
        entries = {(entry.environment, entry.algorithm): entry for entry in self.comparison.entries}
        rows = []
        for environment in self.comparison.environments:
            row = [(environment, False)]
            for algorithm in self.comparison.algorithms:
                entry = entries.get((environment, algorithm))
                row.append(("–", False) if entry is None else (_score(entry.score), entry.best))
            rows.append(row)
        for name, values in self.aggregates.items():
            title = f"{name} of normalized scores" if name != "optimality gap" else "optimality gap (lower is better)"
            rows.append([(title, False), *((_score(values[each]), False) for each in self.comparison.algorithms)])
        return ["environment", *self.comparison.algorithms], rows

    def _details(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of the table of every algorithm in every environment."""
        header = [
            "environment", "algorithm", "seeds", "score", "lowest", "highest", "share of reference", "success",
            "steps to threshold", "seconds to threshold", "reached", "steps/s", "cores used",
        ]  # fmt: skip
        rows = []
        for entry in self.comparison.entries:
            steps, seconds = entry.to_threshold_steps, entry.to_threshold_seconds
            rows.append(
                [
                    entry.environment,
                    entry.algorithm,
                    str(len(entry.finals)),
                    _score(entry.score),
                    _number(float(entry.finals.min())),
                    _number(float(entry.finals.max())),
                    f"{entry.share:.0%}",
                    "" if entry.success is None else f"{entry.success:.0%}",
                    _number(steps.median),
                    "" if seconds is None else _number(seconds.median),
                    f"{steps.reached}/{steps.seeds}",
                    "" if entry.steps_per_second is None else _number(entry.steps_per_second),
                    "" if entry.cores_used is None else f"{entry.cores_used:.1f}",
                ]
            )
        return header, rows

    def _against_others(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of the table that counts in how many environments our agents end above others'."""
        header = ["agent", "against", "environments", "at or above", "clearly above", "clearly below"]
        rows = []
        for each in self.versus:
            count = max(1, each.environments)
            rows.append(
                [
                    each.first,
                    each.second,
                    str(each.environments),
                    f"{len(each.at_or_above)} ({len(each.at_or_above) / count:.0%})",
                    str(len(each.clearly_above)),
                    f"{len(each.clearly_below)}{': ' if each.clearly_below else ''}{', '.join(each.clearly_below)}",
                ]
            )
        return header, rows

    def _scales(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of the table of what scores are measured by."""
        header = ["environment", "0 stands for", "score", "1 stands for", "score", "threshold"]
        rows = [
            [name, scale.low_name, _number(scale.low), scale.high_name, _number(scale.high), _number(scale.threshold)]
            for name, scale in self.comparison.scales.items()
        ]
        return header, rows

    def _failures(self) -> tuple[list[str], list[list[str]]]:
        header = ["environment", "algorithm", "seed", "reason"]
        return header, [[each.environment, each.algorithm, str(each.seed), each.reason] for each in self.missing]

    def _costs(self) -> str:
        """Return in words what the runs and the harness took."""
        details = [each.details for each in self.comparison.trainings if each.details]
        if not details:
            return ""
        training = sum(each["training_seconds"] for each in details)
        evaluation = sum(each["evaluation_seconds"] for each in details)
        whole = sum(each["wall_seconds"] for each in details)
        share = (whole - training - evaluation) / whole
        filming = sum(each.get("film_seconds", 0.0) for each in details)
        return (
            f"Training took {training:,.0f} s in all, evaluation {evaluation:,.0f} s, which no clock counts; "
            f"preparing and saving took {share:.1%} of the cells' time. Filming took {filming:,.0f} s beside it."
        )

    # Formats

    def markdown(self) -> str:
        """Return the report as Markdown."""
        header, rows = self._headline()
        parts = ["# Benchmark", "", self._introduction(), "", "## Final scores", "", self._explanation(), ""]
        parts += _markdown(header, [[f"**{text}**" if best else text for text, best in row] for row in rows])
        if self.versus:
            parts += ["", "## Against the same algorithm of others", "", VERSUS, ""]
            parts += _markdown(*self._against_others())
        parts += ["", "## Probability of improvement", ""]
        parts += _markdown(
            ["first", "second", "P(first ends above second)"],
            [[first, second, _share(found)] for first, second, found in self.improvements],
        )
        parts += ["", "## Every algorithm in every environment", "", *_markdown(*self._details())]
        parts += ["", "## What scores are measured by", "", *_markdown(*self._scales())]
        if self.missing:
            parts += ["", "## Cells without a result", "", *_markdown(*self._failures())]
        parts += ["", "## Settings", "", *(f"- {line}" for line in self._settings_lines())]
        parts += ["", "## Machine", "", f"{self._machine()}. {self._costs()}", ""]
        return "\n".join(parts)

    def latex(self) -> str:
        """Return the table of final scores for LaTeX with the package booktabs."""
        header, rows = self._headline()
        lines = [
            "% needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            "\\toprule",
            " & ".join(_latex(each) for each in header) + " \\\\",
            "\\midrule",
        ]
        for number, row in enumerate(rows):
            if number == len(self.comparison.environments):
                lines.append("\\midrule")
            cells = [f"\\textbf{{{_latex(text)}}}" if best else _latex(text) for text, best in row]
            lines.append(" & ".join(cells) + " \\\\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])

    def results_csv(self) -> str:
        """Return one line for each training, failed ones with their reason."""
        columns = [
            "environment", "algorithm", "seed", "score", "normalized", "success", "steps", "training_seconds",
            "cpu_seconds", "cores", "num_envs", "source", "reason",
        ]  # fmt: skip
        rows: list[Json] = [
            {
                "environment": each.environment,
                "algorithm": each.algorithm,
                "seed": each.seed,
                "score": each.final,
                "normalized": float(self.comparison.scales[each.environment].normalized(np.array(each.final))),
                "success": each.success,
                "steps": int(each.steps[-1]),
                "source": each.source,
                **{name: each.details.get(name) for name in columns[7:11]},
            }
            for each in self.comparison.trainings
        ]
        rows += [
            {"environment": each.environment, "algorithm": each.algorithm, "seed": each.seed, "reason": each.reason}
            for each in self.missing
        ]
        return _csv(columns, rows)

    def curves_csv(self) -> str:
        """Return one line for each checkpoint; `--include` reads the file back."""
        rows: list[Json] = [
            {
                "environment": each.environment,
                "algorithm": each.algorithm,
                "seed": each.seed,
                "steps": int(each.steps[index]),
                "seconds": None if each.seconds is None else float(each.seconds[index]),
                "score": float(each.scores[index]),
            }
            for each in self.comparison.trainings
            for index in range(len(each.steps))
        ]
        return _csv(["environment", "algorithm", "seed", "steps", "seconds", "score"], rows)

    def to_json(self) -> Json:
        """Return all numbers as JSON values."""
        return {
            "about": self.about,
            "entries": [_entry_json(entry) for entry in self.comparison.entries],
            "shared_environments": self.comparison.shared,
            "aggregates": {
                name: {algorithm: _interval_json(found) for algorithm, found in values.items()}
                for name, values in self.aggregates.items()
            },
            "improvements": [
                {"first": first, "second": second, **_interval_json(found)}
                for first, second, found in self.improvements
            ],
            "versus": [vars(each) for each in self.versus],
            "scales": {name: vars(scale) for name, scale in self.comparison.scales.items()},
            "cells": [each.details for each in self.comparison.trainings if each.details],
            "missing": [vars(each) for each in self.missing],
        }

    def html(self) -> str:
        """Return the report as a page that opens from disk and needs no network and no script."""
        header, rows = self._headline()
        comparison = self.comparison
        parts = [
            "<h1>Benchmark</h1>",
            f"<p>{html.escape(self._introduction())}</p>",
            f"<p>{self._downloads()}</p>",
            "<h2>Final scores</h2>",
            f"<p>{html.escape(self._explanation())}</p>",
            _table(header, rows),
            *self._against_others_html(),
            "<h2>Over all environments</h2>",
            f"<p>{html.escape(self._about_aggregates())}</p>",
            f'<div class="figures">{"".join(self._aggregate_figures.values())}</div>',
            "<h2>Learning curves</h2>",
            "<p>Mean over seeds of the deterministic policy's score on evaluation episodes, with its 95 % interval. "
            "Over seconds, a training that ended by itself keeps its score. Films show one evaluation episode with the "
            f"policy of each algorithm's first training; those longer than {SECONDS:g} s play faster.</p>",
        ]
        for environment in comparison.environments:
            figures = "".join(self._curve_figures(environment))
            parts.append(
                f'<h3>{html.escape(environment)}</h3><div class="figures">{figures}{self._film(environment)}</div>'
            )
        parts += [self._published_sources(), "<h2>Every algorithm in every environment</h2>", _table(*self._details())]
        parts += ["<h2>What scores are measured by</h2>", _table(*self._scales())]
        if self.missing:
            parts += ["<h2>Cells without a result</h2>", _table(*self._failures(), reasons=True)]
        parts += ["<h2>Settings</h2>", *self._settings_details()]
        parts += ["<h2>Machine</h2>", f"<p>{html.escape(f'{self._machine()}. {self._costs()}')}</p>"]
        body = "\n".join(parts)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>Benchmark</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )

    def _against_others_html(self) -> list[str]:
        if not self.versus:
            return []
        return [
            "<h2>Against the same algorithm of others</h2>",
            f"<p>{html.escape(VERSUS)}</p>",
            _table(*self._against_others(), reasons=True),
        ]

    # Texts

    def _introduction(self) -> str:
        comparison = self.comparison
        seeds = sorted({len(entry.finals) for entry in comparison.entries})
        count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        text = (
            f"{_count(len(comparison.algorithms), 'algorithm')} in "
            f"{_count(len(comparison.environments), 'environment')}, seeds of each: {count}."
        )
        protocol = self.about.get("protocol")
        if protocol:
            limits = [
                f"{protocol['steps']:,} environment steps" if protocol.get("steps") else "",
                f"{protocol['seconds']:g} s of training" if protocol.get("seconds") else "",
            ]
            text += (
                f" Each trained for at most {' and '.join(filter(None, limits))} on "
                f"{_count(protocol['cores'], 'core')}, was "
                f"evaluated {protocol['checkpoints']} times on {protocol['episodes']} episodes with the clock stopped, "
                f"and in the end on {protocol['final_episodes']} test episodes. All share these episodes."
            )
        if self.about.get("command"):
            text += f" Command: {self.about['command']}"
        return text

    def _explanation(self) -> str:
        return (
            "Mean over seeds of the score on test episodes, and its 95 % interval (a t interval around the estimate, "
            "with the stratified bootstrap's standard error). Bold: not clearly below the best of its row, that is, "
            "the 95 % interval of the difference holds zero. Scores of Gantry's tasks are 1000 times the mean reward, "
            "others are returns."
        )

    def _about_aggregates(self) -> str:
        shared, all_of = self.comparison.shared, self.comparison.environments
        return (
            f"Normalized scores: 0 and 1 as in “What scores are measured by”. {len(shared)} of "
            f"{_count(len(all_of), 'environment')} count: those in which every algorithm has a result. "
            "IQM: mean of the middle half of all trainings. "
            "Performance profile: share of trainings above a score. Probability of improvement: that a "
            "training of the first ends above one of the second."
        )

    def _settings_lines(self) -> list[str]:
        lines = []
        for training in self._one_per_entry():
            where = f"{training.algorithm} in {training.environment}"
            details = training.details
            if not details:
                lines.append(f"{where}: from {training.source}")
                continue
            settings = json.dumps(details["settings"], sort_keys=True)
            options = f", options {json.dumps(details['env_options'])}" if details["env_options"] else ""
            lines.append(f"{where}: {details['note']}{options}, {details['num_envs']} environments: `{settings}`")
        return lines

    def _settings_details(self) -> list[str]:
        parts = []
        for training in self._one_per_entry():
            details = training.details
            name = html.escape(f"{training.algorithm} in {training.environment}")
            if not details:
                parts.append(f"<p>{name}: from {html.escape(training.source)}</p>")
                continue
            shown = {"environment options": details["env_options"], **details["settings"]}
            text = html.escape(json.dumps(shown, indent=2))
            note = html.escape(f"{details['note']}, {details['num_envs']} environments")
            parts.append(f"<details><summary>{name} <small>({note})</small></summary><pre>{text}</pre></details>")
        return parts

    def _one_per_entry(self) -> list[Training]:
        first: dict[tuple[str, str], Training] = {}
        for training in self.comparison.trainings:
            first.setdefault((training.environment, training.algorithm), training)
        return [*first.values()]

    def _machine(self) -> str:
        machines = {
            json.dumps(each.details["machine"], sort_keys=True)
            for each in self.comparison.trainings
            if "machine" in each.details
        }
        words = []
        for text in sorted(machines):
            known = json.loads(text)
            versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
            words.append(f"{known['processor']}, {known['cores']} cores, {known['system']}; {versions}")
        return "; and ".join(words) or "not known"

    # Figures

    @functools.cached_property
    def _aggregate_figures(self) -> dict[str, str]:
        """Return title → SVG."""
        order = self.comparison.algorithms
        figures = {}
        for name, values in self.aggregates.items():
            estimates = [_estimate(algorithm, values[algorithm]) for algorithm in order]
            label = "lower is better" if name == "optimality gap" else "normalized score"
            figures[name] = draw_estimates(estimates, order, label, name)
        if self.improvements:
            estimates = [_estimate(f"{first} > {second}", found) for first, second, found in self.improvements]
            title = "probability of improvement"
            figures[title] = draw_estimates(estimates, order, "P(first ends above second)", title, 0.5)
        thresholds, profiles = self.comparison.profiles()
        if profiles:
            lines = [
                Line(name, thresholds, found.value, np.clip(found.low, 0.0, 1.0), np.clip(found.high, 0.0, 1.0))
                for name, found in profiles.items()
            ]
            title = "performance profiles"
            figures[title] = draw_lines(lines, order, "normalized score τ", "share of trainings above τ", title)
        return figures

    def _curve_figures(self, environment: str) -> list[str]:
        figures = []
        marks = [(name, value) for name, value, _ in published(environment)]
        scale = self.comparison.scales[environment]
        if scale.high_name != "best here" and not scale.high_name.startswith("published"):
            marks.append((scale.high_name, scale.high))
        for against, label in (("steps", "environment steps"), ("seconds", "seconds of training")):
            bands = self.comparison.bands(environment, against)
            if bands:
                lines = [Line(each.algorithm, each.x, each.mean, each.low, each.high) for each in bands]
                title = f"{environment} over {against}"
                figures.append(draw_lines(lines, self.comparison.algorithms, label, "score", title, marks))
        return figures

    def _film(self, environment: str) -> str:
        """Return the environment's film, where `films/` holds one, else why there is none."""
        for path in (self.folder / FILMS).glob("*.mp4"):
            if path.stem == registered_id(environment).rpartition("/")[2]:
                data = base64.b64encode(path.read_bytes()).decode()
                return f'<video controls muted loop src="data:video/mp4;base64,{data}"></video>'
        for training in self.comparison.trainings:
            if training.environment == environment and training.details.get("no_film"):
                return f"<p><small>No film: {html.escape(training.details['no_film'])}</small></p>"
        return ""

    def _published_sources(self) -> str:
        sources = sorted({source for name in self.comparison.environments for _, _, source in published(name)})
        if not sources:
            return ""
        items = "".join(f"<li>{html.escape(source)}</li>" for source in sources)
        return f"<p><small>Dotted lines with names: scores that others published.</small></p><ul>{items}</ul>"

    def _downloads(self) -> str:
        files = {
            "results.csv": ("text/csv", self.results_csv()),
            "curves.csv": ("text/csv", self.curves_csv()),
            "results.json": ("application/json", json.dumps(_finite(self.to_json()), indent=1)),
            "table.tex": ("text/plain", self.latex()),
            "report.md": ("text/plain", self.markdown()),
        }
        links = [
            f'<a download="{name}" href="data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}">'
            f"{name}</a>"
            for name, (kind, text) in files.items()
        ]
        return f"The data: {', '.join(links)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _number(value: float) -> str:
    if math.isinf(value):
        return "not reached"
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def _score(found: Interval) -> str:
    value, low, high = (float(each) for each in (found.value, found.low, found.high))
    return _number(value) if math.isnan(low) else f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _share(found: Interval) -> str:
    value, low, high = (float(each) for each in (found.value, found.low, found.high))
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _estimate(label: str, found: Interval) -> Estimate:
    return Estimate(label, float(found.value), float(found.low), float(found.high))


def _interval_json(found: Interval) -> Json:
    return _finite({"value": float(found.value), "low": float(found.low), "high": float(found.high)})


def _entry_json(entry: Entry) -> Json:
    def times(found: TimeToThreshold | None) -> Json | None:
        return None if found is None else _finite(vars(found))

    return {
        "environment": entry.environment,
        "algorithm": entry.algorithm,
        "finals": entry.finals.tolist(),
        "score": _interval_json(entry.score),
        "share_of_reference": entry.share,
        "best": entry.best,
        "success": entry.success,
        "steps_to_threshold": times(entry.to_threshold_steps),
        "seconds_to_threshold": times(entry.to_threshold_seconds),
        "threshold_share": THRESHOLD,
        "steps_per_second": entry.steps_per_second,
        "cores_used": entry.cores_used,
    }


def _finite(content: Json) -> Json:
    """Return JSON values with null for what JSON has no number for."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    result = plain(content)
    assert isinstance(result, dict)
    return result


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return [line(header), line(["---"] + ["---:"] * (len(header) - 1)), *map(line, rows)]


def _latex(text: str) -> str:
    special = {"_": "\\_", "%": "\\%", "&": "\\&", "#": "\\#", "$": "\\$", "–": "--", "{": "\\{", "}": "\\}"}
    return "".join(special.get(each, each) for each in text)


def _csv(columns: Sequence[str], rows: Sequence[Json]) -> str:
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def _table(header: Sequence[str], rows: Sequence[Sequence[str | tuple[str, bool]]], reasons: bool = False) -> str:
    """Return a table as HTML; a cell is a text, or a text and whether it is among the best."""
    lines = []
    for row in rows:
        cells = []
        for number, cell in enumerate(row):
            text, best = (cell, False) if isinstance(cell, str) else cell
            kind = ' class="best"' if best else ' class="reason"' if reasons and number == len(row) - 1 else ""
            cells.append(f"<td{kind}>{html.escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(each)}</th>" for each in header)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
