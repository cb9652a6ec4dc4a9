"""The outcomes of a fault campaign as a document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from .catalogue.fault import Outcome

HEAD = """# Faults

What `make faults` put on the running node, and how it bore it: node, player and recorder as processes, the cameras
published live at 5 Hz, one fault after another on one node. Made by that command on {day:%Y-%m-%d},
on {hardware}.

A fault is survived if the node lives on (or ends as asked and is started again), counts what was lost under a cause
that tells why ([causes.md](causes.md)), logs no traceback, and gives good output again. The cause stands first;
`superseded` beside it are sets for which the model was not free, as on a machine that has other work. The last column
is the time from the end of the fault to the first result of images taken after it; of a node that was started again it
begins with the new process.

{survived} of {tried} survived{skipped}.

| fault | what happens | node alive | counted meanwhile | good output after |
|---|---|---|---|---|
"""
SHOWN = 4  # causes of one fault
IGNORED = ("sets.complete",)  # of sets that lost nothing


def document(outcomes: Sequence[Outcome], day: date, hardware: str) -> str:
    """Markdown."""
    tried = [outcome for outcome in outcomes if not outcome.skipped]
    left = len(outcomes) - len(tried)
    head = HEAD.format(
        day=day,
        hardware=hardware,
        survived=sum(outcome.survived for outcome in tried),
        tried=len(tried),
        skipped=f"; {left} could not be tried there" if left else "",
    )
    return head + "".join(map(row, outcomes))


def row(outcome: Outcome) -> str:
    """One line of the table."""
    if outcome.skipped:
        return f"| {outcome.name} | {outcome.description} | not tried: {outcome.skipped} | | |\n"
    counts = {cause: n for cause, n in outcome.counted.items() if cause not in IGNORED}
    first = sorted(counts.items(), key=lambda entry: (entry[0] not in outcome.signs, -entry[1]))[:SHOWN]
    texts = [sign for sign in outcome.signs if "diagnostics" in sign]
    counted = ", ".join([*texts, *(f"`{cause}` {n}" for cause, n in first)]) or "nothing"
    after = "never" if outcome.recovery_s is None else f"{outcome.recovery_s:.1f} s"
    alive = "yes" if outcome.alive else "no"
    if outcome.problem:
        return f"| {outcome.name} | {outcome.description} | {alive} | {outcome.problem} | NOT SURVIVED, {after} |\n"
    return f"| {outcome.name} | {outcome.description} | {alive} | {counted} | {after} |\n"
