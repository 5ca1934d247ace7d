"""The kit's result as one HTML page that needs nothing else: no script, no network, no fonts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from windlass.testing.conformance.cases import Outcome
from windlass.testing.conformance.report import Report
from windlass.testing.conformance.run import LEVELS

_STATES = ("passed", "failed", "skipped", "absent")

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --bad: #b3261e; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7ee787; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; margin: 0 0 1rem; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0;
  text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.failed { color: var(--bad); font-weight: 600; }
.passed { color: var(--good); }
.verdict { font-size: 1.5rem; font-weight: 600; }
summary { cursor: pointer; padding: .25rem 0; }
.skip-link { position: absolute; left: -100rem; }
.skip-link:focus { position: static; }
"""

_TEMPLATE = """\
{% macro table(id, caption, headings) -%}
<div class="scroll" role="region" aria-labelledby="{{ id }}" tabindex="0">
<table>
<caption id="{{ id }}">{{ caption }}</caption>
<thead><tr>{% for heading in headings %}<th scope="col"\
{% if heading in numbers %} class="number"{% endif %}>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>
{{ caller() }}</tbody>
</table>
</div>
{%- endmacro %}
{% macro status(outcome) -%}
<span class="{{ outcome.status }}">{{ outcome.status }}</span>
{%- endmacro %}
{% macro said(outcome) -%}
{{ outcome.reason }}{% for name, value in outcome.measured.items() %}\
{{ "; " if outcome.reason or not loop.first }}{{ name }} {{ "%.4g" | format(value) }}{% endfor %}
{%- endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Conformance of {{ report.backend }}: {{ verdict }}</title>
<style>{{ style }}</style>
</head>
<body>
<a class="skip-link" href="#cases">Skip to the cases</a>
<header>
<h1>Conformance of {{ report.backend }}</h1>
<p class="verdict {{ "passed" if report.proven else "failed" }}">{{ verdict }}</p>
<p>Windlass {{ report.windlass }}, {{ report.outcomes | length }} cases in \
{{ "%.1f" | format(report.seconds) }} s.</p>
</header>
<main>
{% if report.failures %}
<section>
<h2>Failures</h2>
{% call table("failures", "Cases that do not hold", \
["level", "case", "provider", "reason", "seconds"]) %}
{% for o in report.failures %}
<tr><td>{{ o.level }}</td><th scope="row">{{ o.case }}</th><td>{{ o.provider }}</td>\
<td class="failed">{{ o.reason }}</td><td class="number">{{ "%.3f" | format(o.seconds) }}</td></tr>
{% endfor %}
{% endcall %}
</section>
{% endif %}
<section>
<h2>Levels</h2>
{% call table("levels", "How the cases of each level ended", \
["level", "proves"] + states + ["seconds"]) %}
{% for row in levels %}
<tr><th scope="row">{{ row.level }}</th><td>{{ row.subject }}</td>\
{% for state in states %}<td class="number">{{ row.counts[state] }}</td>{% endfor %}\
<td class="number">{{ "%.1f" | format(row.seconds) }}</td></tr>
{% endfor %}
{% endcall %}
</section>
{% if rejections %}
<section>
<h2>Rejections</h2>
{% call table("rejections", "What the backend says that it does not do, or does not have", \
["level", "provider", "reason", "cases"]) %}
{% for (level, provider, reason), count in rejections %}
<tr><td>{{ level }}</td><td>{{ provider }}</td><th scope="row">{{ reason }}</th>\
<td class="number">{{ count }}</td></tr>
{% endfor %}
{% endcall %}
</section>
{% endif %}
<section id="cases">
<h2>Cases</h2>
{% for group in groups %}
<details{% if group.counts["failed"] %} open{% endif %}>
<summary>{{ group.title }}: {{ group.said }}</summary>
{% call table("group-%d" | format(loop.index), group.title, ["case"] + group.columns) %}
{% for case, cells in group.rows %}
<tr><th scope="row">{{ case }}</th>{% for o in cells %}<td>{% if o %}{{ status(o) }} in \
{{ "%.3f" | format(o.seconds) }} s{% if o.reason or o.measured %}: {{ said(o) }}{% endif %}\
{% else %}not run{% endif %}</td>{% endfor %}</tr>
{% endfor %}
{% endcall %}
</details>
{% endfor %}
</section>
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class _Level:
    level: str
    subject: str
    counts: Counter[str]
    seconds: float


@dataclass(frozen=True)
class _Group:
    """One table: cases down, providers across; None where a provider has no such case."""

    title: str
    columns: list[str]
    rows: tuple[tuple[str, tuple[Outcome | None, ...]], ...]
    counts: Counter[str]

    @property
    def said(self) -> str:
        """The counts in words."""
        return ", ".join(f"{self.counts[state]} {state}" for state in _STATES if self.counts[state])


def to_html(report: Report) -> str:
    """The page: verdict, failures, counts by level, reasons of rejections, then every case.

    The cases of L2 stand in a table for each op, providers side by side.
    """
    skipped = Counter((o.level, o.provider, o.reason) for o in (*report.skips, *report.absences))
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string(_TEMPLATE).render(
        report=report,
        style=_STYLE,
        states=list(_STATES),
        numbers=frozenset({*_STATES, "seconds", "cases"}),
        verdict=_verdict(report),
        levels=[_level(report, level) for level in report.levels],
        rejections=skipped.most_common(),
        groups=_groups(report),
    )


def _verdict(report: Report) -> str:
    if report.proven:
        return "proven"
    if report.failures:
        return f"not proven: {len(report.failures)} cases failed"
    return f"not proven: nothing ran of {', '.join(report.idle)}"


def _level(report: Report, level: str) -> _Level:
    mine = [outcome for outcome in report.outcomes if outcome.level == level]
    counts: Counter[str] = Counter(outcome.status for outcome in mine)
    return _Level(level, LEVELS[level], counts, sum(outcome.seconds for outcome in mine))


def _groups(report: Report) -> list[_Group]:
    """A group for each level, in L2 for each op; those with failures first."""
    outcomes: dict[str, list[Outcome]] = {}
    for outcome in report.outcomes:
        title = f"{outcome.level} {LEVELS[outcome.level]}"
        if outcome.level == "L2":
            title = f"L2 {outcome.case.split()[0]}"
        outcomes.setdefault(title, []).append(outcome)
    groups = [_group(title, mine) for title, mine in outcomes.items()]
    return sorted(groups, key=lambda group: not group.counts["failed"])


def _group(title: str, outcomes: list[Outcome]) -> _Group:
    columns = tuple(dict.fromkeys(outcome.provider for outcome in outcomes))
    cells = {(outcome.case, outcome.provider): outcome for outcome in outcomes}
    cases = dict.fromkeys(outcome.case for outcome in outcomes)
    rows = tuple((case, tuple(cells.get((case, name)) for name in columns)) for case in cases)
    counts: Counter[str] = Counter(outcome.status for outcome in outcomes)
    return _Group(title, [name or "result" for name in columns], rows, counts)
