"""What the numbers belong to: machine, software, options, scenario, seeds, digests; and the command for a repeat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.report.markup import Child, Markup, element
from stratoscope.report.sections.base import Section, prose, quantity, table
from stratoscope.spec.record import NoiseRecord, RunRecord


def section(record: RunRecord) -> Section:
    """Identity and environment of the run, in full."""
    parts = [
        _reproduce(record),
        element("div", _noise_tables(record), class_="columns"),
        element(
            "div",
            _group("Hardware", _facts(record.hardware), open_=True),
            _group("Software", _facts(record.software), open_=True),
            class_="columns",
        ),
        element(
            "div",
            _group("Scenario and seeds", _settings(record.scenario.model_dump(mode="json", by_alias=True))),
            _group("Back end", _settings(record.backend.model_dump(mode="json"))),
            _group("Model", _settings(record.model.model_dump(mode="json", by_alias=True, exclude_none=True))),
            _group("Digests", [*_settings(record.digests.model_dump()), ("key of the five", record.key)]),
            _group("LoadGen's own results", _settings(record.load.loadgen))
            if record.load and record.load.loadgen
            else None,
            class_="columns",
        ),
    ]
    return Section("environment", "Environment", element("div", parts))


def _reproduce(record: RunRecord) -> Markup:
    run = prose("Run ", element("code", record.id), f", {record.created_at.isoformat(timespec='seconds')}")
    if not record.command:
        return element("div", run, prose("The command of this run was not recorded."))
    command = element("pre", element("code", record.command), tabindex="0")
    return element("div", run, prose("The command that reproduces it:"), command)


def _noise_tables(record: RunRecord) -> list[Markup]:
    named = (("load", record.load), ("profile", record.profile))
    return [_noise(f"Noise during the {name}", section.noise) for name, section in named if section is not None]


def _noise(caption: str, noise: NoiseRecord) -> Markup:
    verdict = wording.noise(noise)
    rows: list[tuple[Child, Child]] = [
        ("verdict", f"{verdict.word}: {verdict.reason}"),
        *([("reason", noise.reason)] if noise.reason and noise.reason != verdict.reason else []),
        ("wall time", quantity(noise.wall_s)),
        ("CPU time of the thread", quantity(noise.thread_cpu_s)),
        ("waiting in the run queue", quantity(noise.run_queue_wait_s)),
        ("involuntary switches", quantity(noise.involuntary_switches)),
        ("stolen by the hypervisor", quantity(noise.steal_s)),
        ("load average", quantity(noise.load_average)),
        ("throttled", quantity(noise.throttled)),
    ]
    state = (("CPU clock", noise.cpu_clock), ("CPU temperature", noise.temperature), ("CPU power", noise.power))
    rows += [(name, quantity(value)) for name, value in state if value is not None]
    return table((), rows, caption=caption)


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, Child]]:
    return [
        (
            fact.path,
            element("span", f"{fact.value}: {fact.reason}", class_="unavailable") if fact.reason else fact.value,
        )
        for fact in wording.facts(manifest)
    ]


def _settings(values: Mapping[str, Any]) -> list[tuple[str, Child]]:
    """Options as they were given: exact numbers, nothing rounded."""
    return [(str(key), value if isinstance(value, str) else json.dumps(value)) for key, value in values.items()]


def _group(title: str, rows: Sequence[tuple[str, Child]], *, open_: bool = False) -> Markup:
    items = [element("div", element("dt", name), element("dd", value)) for name, value in rows]
    body = element("dl", items, class_="facts") if items else prose("none")
    summary = element("summary", title, element("small", f" {fmt.count(len(items))}"))
    return element("details", summary, body, open=open_, class_="group")
