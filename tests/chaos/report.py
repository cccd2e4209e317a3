"""The verdict as text, JSON and Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from .verdict import Found


def write(found: Found, folder: Path) -> None:
    (folder / "report.json").write_text(
        json.dumps({**asdict(found), "holds": found.holds}, indent=2, default=str) + "\n"
    )
    (folder / "report.md").write_text(as_markdown(found))
    print(f"report: {folder}/report.md, report.json")


def as_text(found: Found) -> str:
    lines = ["", *(f"  {name:<42} {_plain(value)}" for name, value in found.figures.items()), ""]
    lines += [
        f"  {kind:<26} {count:>4} x   {_recovered(found, kind)}" for kind, count in found.faults.items()
    ]
    lines += ["", *found.notes]
    lines += [f"BROKEN  {text}" for text in found.broken[:60]]
    outcome = "everything holds" if found.holds else f"{len(found.broken)} broken"
    lines.append(f"{found.name}: {outcome}, {found.took_s:.0f} s")
    return "\n".join(lines)


def as_markdown(found: Found) -> str:
    lines = [f"# Chaos {found.name}, seed {found.seed}", "", f"{found.machine}; {found.took_s:.0f} s.", ""]
    lines += [
        "| figure | |",
        "|---|---|",
        *(f"| {name} | {_plain(value)} |" for name, value in found.figures.items()),
    ]
    lines += [
        "",
        "Recovery: seconds from the end of the fault until the work that it found under way went on.",
        "",
    ]
    lines += ["| fault | times | blocks under way | p50 | p99 | max |", "|---|---|---|---|---|---|"]
    for kind, count in found.faults.items():
        r = found.recovery.get(kind, {})
        lines.append(
            f"| {kind} | {count} | "
            + " | ".join(str(r.get(of, "")) for of in ("blocks", "p50", "p99", "max"))
            + " |"
        )
    lines += ["", *found.notes, "", *(f"- BROKEN {text}" for text in found.broken)]
    lines += ["" if found.broken else "Everything holds.", ""]
    return "\n".join(lines)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    return str(value)


def _recovered(found: Found, kind: str) -> str:
    r = found.recovery.get(kind, {})
    if not r.get("blocks"):
        return "found no work under way"
    return f"{r['blocks']} blocks under way: p50 {r['p50']} s, p99 {r['p99']} s, max {r['max']} s"
