"""Markup: what is text stays text, what is opened is closed."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from stratoscope.report.markup import element, join, script_data


def test_text_and_attributes_are_escaped_and_markup_is_not_escaped_again() -> None:
    inner = element("b", "a < b & c")
    assert element("p", inner, "<script>", title='"x" <y>') == (
        '<p title="&quot;x&quot; &lt;y&gt;"><b>a &lt; b &amp; c</b>&lt;script&gt;</p>'
    )


def test_absent_children_and_attributes_leave_nothing() -> None:
    assert element("details", None, [], open=True, hidden=False, id=None) == "<details open></details>"
    assert element("input", type="search") == '<input type="search">'
    assert element("td", class_="n", aria_label="x", data_v="1") == '<td class="n" aria-label="x" data-v="1"></td>'


def test_nested_lists_are_flattened() -> None:
    assert join("a", ["b", None, [element("i")]]) == "ab<i></i>"


@given(st.text())
def test_script_data_cannot_leave_its_element_and_reads_back(text: str) -> None:
    data = script_data(json.dumps({"name": text}))
    assert "<" not in data
    assert json.loads(data) == {"name": text}
