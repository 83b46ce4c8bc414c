"""Quality of the outputs: metrics with their intervals, and which classes are taken for which."""

from __future__ import annotations

from stratoscope.report import format as fmt
from stratoscope.report.markup import Markup, element, join
from stratoscope.report.sections.base import Section, quantity, table
from stratoscope.spec.record import AccuracySection, RunRecord

#: With more classes than this the confusion table is not readable: the most frequent confusions are listed instead.
MOST_CLASSES = 30


def section(record: RunRecord) -> Section | None:
    """Metrics and confusion; None where accuracy was not measured."""
    accuracy = record.accuracy
    if accuracy is None:
        return None
    metrics = [
        (name, quantity(value, percent=value.unit == "1"), fmt.count(value.n))
        for name, value in accuracy.metrics.items()
    ]
    caption = f"{fmt.count(accuracy.samples)} samples of {accuracy.dataset}"
    parts = [table(("metric", "value", "n"), metrics, numbers=(1, 2), caption=caption)]
    if accuracy.confusion is not None:
        readable = len(accuracy.confusion) <= MOST_CLASSES
        parts.append(_matrix(accuracy, accuracy.confusion) if readable else _pairs(accuracy, accuracy.confusion))
    return Section("accuracy", "Accuracy", element("div", parts, class_="columns"))


def _matrix(accuracy: AccuracySection, confusion: tuple[tuple[int, ...], ...]) -> Markup:
    head = element(
        "tr",
        element("th", "truth \\ predicted", scope="col"),
        [element("th", _label(accuracy, index), scope="col", class_="n") for index in range(len(confusion))],
    )
    rows = []
    for truth, row in enumerate(confusion):
        total = sum(row)
        cells = [
            element(
                "td",
                fmt.count(number) if number else "·",
                class_="n heat" + (" hit" if truth == guess else " some" if number else ""),
                style=f"--part:{number / total if total else 0:.3f}",
                title=f"{_label(accuracy, truth)} taken for {_label(accuracy, guess)}: {number} of {total}",
            )
            for guess, number in enumerate(row)
        ]
        rows.append(element("tr", element("th", _label(accuracy, truth), scope="row"), cells))
    body = join(element("caption", "Confusion"), element("thead", head), element("tbody", rows))
    content = element("table", body, class_="confusion")
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label="Confusion table")


def _pairs(accuracy: AccuracySection, confusion: tuple[tuple[int, ...], ...]) -> Markup:
    wrong = [
        (number, truth, guess)
        for truth, row in enumerate(confusion)
        for guess, number in enumerate(row)
        if number and truth != guess
    ]
    shown = sorted(wrong, reverse=True)[:20]
    rows = [(_label(accuracy, truth), _label(accuracy, guess), fmt.count(number)) for number, truth, guess in shown]
    caption = f"The {len(shown)} most frequent of {len(wrong)} confusions between {len(confusion)} classes"
    return table(("truth", "taken for", "samples"), rows, numbers=(2,), caption=caption)


def _label(accuracy: AccuracySection, index: int) -> str:
    return accuracy.labels[index] if index < len(accuracy.labels) else str(index)
