"""A report as one page of HTML: no scripts, nothing from a network, and all that comes from data escaped."""

from collections.abc import Mapping
from html import escape
from typing import Any

from anemone.data.quality.texts import ascii_controls

STYLE = """
:root { color-scheme: light dark; --line: #8885; --bar: #4a7fb5; --error: #c0392b; --warning: #b9770e; --info: #5d6d7e }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .9em; overflow-wrap: anywhere }
.error { color: var(--error) } .warning { color: var(--warning) } .info { color: var(--info) }
figure { display: inline-block; margin: 0 2rem 1rem 0 } figcaption { font-size: .85em }
svg text { font-size: 10px; fill: currentColor } rect { fill: var(--bar) }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
WIDTH, HEIGHT = 300, 90


def page(report: Mapping[str, Any], title: str = "Validation") -> str:
    """Returns a page about what `Report.as_dict` gives."""
    sets = "".join(_set(name, found) for name, found in report["sets"].items())
    rules = "".join(_rule(name, found) for name, found in report["rules"].items())
    summary = f"{report['errors']:,} errors, {report['warnings']:,} warnings"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{clean(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{clean(title)}</h1><p>{summary}</p>{_overview(report)}{sets}{rules or '<p>No rule is broken.</p>'}"
        "</body></html>\n"
    )


def clean(value: object) -> str:
    """Returns a value as text of HTML, with codes in the place of what cannot be seen."""
    return escape(ascii_controls(str(value)), quote=True)


def _overview(report: Mapping[str, Any]) -> str:
    """The table of broken rules."""
    rows = "".join(
        f'<tr><td class="{found["severity"]}">{found["severity"]}</td><td><a href="#{name}">{name}</a></td>'
        f'<td class="n">{found["count"]:,}</td><td>{clean(found["what"])}</td></tr>'
        for name, found in report["rules"].items()
    )
    head = '<tr><th></th><th>rule</th><th class="n">rows</th><th>what is wrong</th></tr>'
    return f"<table>{head}{rows}</table>" if rows else ""


def _set(name: str, found: Mapping[str, Any]) -> str:
    """Size and histograms of a set."""
    read = "" if found["recordings_read"] else "; recordings were not read"
    left_out = f"; {found['left_out']:,} lines cannot be used" if found["left_out"] else ""
    figures = "".join(
        f"<figure><figcaption>{clean(label)}</figcaption>{histogram(spread['histogram'])}</figure>"
        for label, spread in found["spreads"].items()
    )
    numbers = f"{found['rows']:,} rows, {found['hours']:.2f} h; {found['good']:,} without errors"
    return f"<h2>{clean(name)}</h2><p>{numbers}{left_out}{read}</p>{figures}"


def histogram(found: Mapping[str, Any]) -> str:
    """Returns a histogram as a small drawing (SVG)."""
    counts, edges = found["counts"], found["edges"]
    if not counts:
        return "<p>none</p>"
    highest, width = max(*counts, 1), WIDTH / len(counts)
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{HEIGHT * (1 - count / highest):.1f}" width="{width - 1:.1f}"'
        f' height="{HEIGHT * count / highest:.1f}">'
        f"<title>{edges[i]:.3g} to {edges[i + 1]:.3g}: {count:,}</title></rect>"
        for i, count in enumerate(counts)
    )
    labels = (
        f'<text x="0" y="{HEIGHT + 12}">{edges[0]:.3g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 12}" text-anchor="end">{edges[-1]:.3g}</text>'
    )
    size = f'width="{WIDTH}" height="{HEIGHT + 16}" viewBox="0 0 {WIDTH} {HEIGHT + 16}"'
    return f'<svg {size} role="img" aria-label="histogram">{bars}{labels}</svg>'


def _rule(name: str, found: Mapping[str, Any]) -> str:
    """A rule, what to do, and rows that break it."""
    rows = "".join(
        f"<tr><td>{clean(item['set'])}</td><td><code>{clean(item['source'])}:{item['line']}</code></td>"
        f"<td><code>{clean(item['audio'])}</code></td><td>{clean(item['detail'])}</td></tr>"
        for item in found["examples"]
    )
    more = f", {len(found['examples']):,} of them below" if len(found["examples"]) < found["count"] else ""
    head = "<tr><th>set</th><th>line</th><th>recording</th><th></th></tr>"
    return (
        f'<h2 id="{name}"><span class="{found["severity"]}">{found["severity"]}</span> {name}</h2>'
        f"<p>{clean(found['what'])}. To do: {clean(found['fix'])}. {found['count']:,} rows{more}.</p>"
        f"<table>{head}{rows}</table>"
    )
