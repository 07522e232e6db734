"""The report on a recogniser as text and as one page of HTML."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anemone.cli.table import table
from anemone.errors import DataError

if TYPE_CHECKING:
    from anemone.metrics.recognition import Heard

WORST = 50  # utterances on the page
MISTAKES = {"confusions": "taken for another", "deleted": "left out", "inserted": "put in"}

Tree = dict[str, Any]


def compared(system: "tuple[str, Sequence[Heard]]", against: "tuple[str, Sequence[Heard] | None]") -> Tree:
    """Compares two systems, whose utterances may stand in different order.

    Args:
        system: name and answers of the one that is reported on.
        against: those of the other; it has none where it is no recogniser.

    Returns:
        ``against``: the name of the other, its rates, and ``contrast`` of the two, as `anemone.metrics.recognition`
        gives it: a difference below 0 says that the one that is reported on is better.

    Raises:
        DataError: they did not hear the same utterances, or the references differ.
    """
    from anemone.metrics.recognition import contrast, overall

    (name, heard), (other_name, other) = system, against
    if other is None:
        raise DataError(f"`{other_name}` must be a recogniser, to be compared with one.")
    ours, theirs = ({row.id: row for row in rows} for rows in (heard, other))
    if len(ours) < len(heard) or len(theirs) < len(other):
        raise DataError("utterances must have different names to be compared: give them an `id` in the manifest.")
    if alone := sorted(ours.keys() ^ theirs.keys()):
        raise DataError(f"`{name}` and `{other_name}` must have heard the same, but only one has heard {alone[:3]}.")
    if changed := [i for i in ours if ours[i].reference != theirs[i].reference]:
        raise DataError(f"`{name}` and `{other_name}` must have the same references, but {changed[0]!r} has two.")
    pairs = [theirs[i] for i in ours]
    return {"against": {"model": other_name, "all": overall(pairs), "contrast": contrast(pairs, heard)}}


def as_text(found: Tree) -> str:
    """Returns the report as tables."""
    parts = [table(list(overview(found)))]
    for column, slices in found["slices"].items():
        parts.append(table([{column: name, **_line(rates)} for name, rates in slices.items()]))
    parts += [table(found[kind]) for kind in MISTAKES if found[kind]]
    if "against" in found:
        parts.append(verdict(found))
    return "\n\n".join(parts)


def overview(found: Tree) -> "Sequence[Tree]":
    """Rows of the first table: what is measured, its value, where it lies in 95 % of the draws."""
    rates, more = found["all"], {k: v for k, v in found.items() if isinstance(v, int | float)}
    rows = [
        {"metric": "wer", "value": percent(rates["wer"]), "95 %": between(rates["wer_interval"])},
        *(
            {"metric": f"  {kind}", "value": percent(rates[kind])}
            for kind in ("substitutions", "deletions", "insertions")
        ),
        {"metric": "cer", "value": percent(rates["cer"]), "95 %": between(rates["cer_interval"])},
        {"metric": "sentences_wrong", "value": percent(rates["sentences_wrong"])},
        {"metric": "utterances", "value": str(rates["utterances"])},
        {"metric": "words", "value": str(rates["words"])},
    ]
    if found["plain"]["wer"] != rates["wer"]:
        bare = found["plain"]
        value = {"value": percent(bare["wer"]), "95 %": between(bare["wer_interval"])}
        rows.insert(4, {"metric": "wer without case and punctuation", **value})
    shown = ("wer", "cer", "utterances")
    rows += [{"metric": name, "value": f"{value:.4g}"} for name, value in more.items() if value and name not in shown]
    return rows


def verdict(found: Tree) -> str:
    """Says in words which of two systems is better."""
    other, told = found["against"], found["against"]["contrast"]
    wer = told["wer"]
    sure, more = wer["p_value"] < 0.05, "fewer" if wer["difference"] < 0 else "more"
    judged = f"significantly {more} word errors" if sure else "no significant difference"
    return (
        f"against {other['model']}: wer {percent(other['all']['wer'])}; difference {percent(wer['difference'])} "
        f"({between(wer['interval'])}), p = {wer['p_value']:.2g}: {judged}.\n"
        f"{told['better']} utterances have fewer word errors here, {told['worse']} more, {told['equal']} as many."
    )


def as_page(found: Tree, heard: "Sequence[Heard]") -> str:
    """Returns the report as a page without scripts: tables, then the utterances with the most word errors, marked."""
    from anemone.data.quality.page import POLICY, STYLE, clean

    def rows(items: Sequence[Tree]) -> str:
        columns = list(dict.fromkeys(key for item in items for key in item))
        head = "".join(f"<th>{clean(column)}</th>" for column in columns)
        body = "".join("<tr>" + "".join(f"<td>{clean(i.get(c, ''))}</td>" for c in columns) + "</tr>" for i in items)
        return f"<table><tr>{head}</tr>{body}</table>"

    slices = "".join(
        f"<h2>by {clean(column)}</h2>" + rows([{column: name, **_line(rates)} for name, rates in parts.items()])
        for column, parts in found["slices"].items()
    )
    mistakes = "".join(f"<h2>{title}</h2>{rows(found[kind])}" for kind, title in MISTAKES.items() if found[kind])
    against = f"<p>{clean(verdict(found))}</p>" if "against" in found else ""
    title = f"Recognition by {found['model']}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{clean(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE} del {{ color: var(--error) }} '
        f"ins {{ color: var(--bar) }}</style></head><body><h1>{clean(title)}</h1>"
        f"<p>{clean(', '.join(map(str, found['data'])))}</p>{against}{rows(list(overview(found)))}{slices}{mistakes}"
        f"<h2>most word errors</h2>{_worst(heard)}</body></html>\n"
    )


def _worst(heard: "Sequence[Heard]") -> str:
    """The utterances with the most word errors: what was missed struck out, what was heard instead underlined."""
    from anemone.data.quality.page import clean
    from anemone.metrics.wer import alignment

    ways = [(row, alignment(row.hypothesis.split(), row.reference.split())) for row in heard]
    ways.sort(key=lambda item: -sum(said != found for said, found in item[1]))
    lines = "".join(
        f'<tr><td><code>{clean(row.id)}</code></td><td class="n">{sum(a != b for a, b in way)}</td>'
        f"<td>{' '.join(_marked(*step) for step in way)}</td></tr>"
        for row, way in ways[:WORST]
    )
    return f"<table><tr><th>utterance</th><th>errors</th><th></th></tr>{lines}</table>"


def _marked(said: str | None, found: str | None) -> str:
    """A word as it was said and heard."""
    from anemone.data.quality.page import clean

    if said == found:
        return clean(said)
    parts = (("del", said), ("ins", found))
    return " ".join(f"<{tag}>{clean(word)}</{tag}>" for tag, word in parts if word is not None)


def _line(rates: Tree) -> Tree:
    """A slice as a row of a table."""
    return {
        "utterances": rates["utterances"],
        "words": rates["words"],
        "wer": percent(rates["wer"]),
        "95 %": between(rates["wer_interval"]),
        "cer": percent(rates["cer"]),
    }


def percent(rate: float) -> str:
    """Returns a rate in percent.

    Example:
        >>> percent(0.1234)
        '12.3 %'
    """
    return f"{100 * rate:.1f} %"


def between(interval: Sequence[float]) -> str:
    """Returns an interval in percent.

    Example:
        >>> between((0.1, 0.205))
        '10.0 to 20.5'
    """
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
