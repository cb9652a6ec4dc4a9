"""Pass or fail: measured values against the bounds of a YAML file, for the CI of a vehicle team.

    python -m sparse4d_core.evaluation.criteria config/criteria_example.yaml --measured out/scores/metrics.json

A criteria file bounds values by name, from below, from above or both. `annotated` lists those that exist only where
there are annotations to score against; without them they are skipped, and the outcome tells so. So are those of
tracking where it is null, because no annotation is of a tracked class:

    always:
      sets: {min: 10}
      boxes_per_set.median: {min: 1, max: 200}
    annotated:
      detection.nds: {min: 0.3}
      tracking.ids: {max: 20}

Measured files are JSON: metrics.json of an evaluation, or statistics.json of a bag. Names are paths in them, such as
`detection.class_ap.car`. Exit status 0: all hold. 1: one does not, or its value is not a number. 2: wrong input.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..command_line import FAILED, OK, refuse
from .junit import TestCase, write_junit

SECTIONS = ("always", "annotated")
ANNOTATED_BY = "detection"  # what a measured file has if, and only if, there were annotations


class CriteriaError(ValueError):
    """A criteria file or a measured file that cannot be used."""


@dataclass(frozen=True)
class Criterion:
    name: str  # path in the measured values
    least: float | None
    most: float | None
    annotated: bool = False

    @property
    def bounds(self) -> str:
        words = ([f"at least {self.least:g}"] if self.least is not None else []) + (
            [f"at most {self.most:g}"] if self.most is not None else []
        )
        return " and ".join(words)


@dataclass(frozen=True)
class Outcome:
    criterion: Criterion
    verdict: Literal["pass", "fail", "skip"]
    text: str


def read_criteria(path: str | Path) -> list[Criterion]:
    """The criteria of a file.

    Raises:
        CriteriaError: names what is wrong and what is expected instead.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CriteriaError(f"criteria: {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping) or not content or content.keys() - set(SECTIONS):
        names = ", ".join(map(str, content)) if isinstance(content, Mapping) and content else "none"
        raise CriteriaError(f"criteria: {path}: expected the sections {' and '.join(SECTIONS)}, got {names}")
    found = []
    for section, entries in content.items():
        if not isinstance(entries, Mapping) or not entries:
            raise CriteriaError(f"criteria: {path}: {section}: expected `name: {{min: NUMBER, max: NUMBER}}`")
        found += [_criterion(f"{path}: {section}", name, bounds, section) for name, bounds in entries.items()]
    names = [criterion.name for criterion in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise CriteriaError(f"criteria: {path}: {', '.join(sorted(twice))} stands in both sections")
    return found


def _criterion(where: str, name: Any, bounds: Any, section: str) -> Criterion:
    known = isinstance(bounds, Mapping) and bounds and not bounds.keys() - {"min", "max"}
    numbers = known and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in bounds.values())
    if not numbers or not all(map(math.isfinite, bounds.values())):
        raise CriteriaError(
            f"criteria: {where}: {name}: expected {{min: NUMBER, max: NUMBER}} or one of them, got {bounds}"
        )
    least, most = bounds.get("min"), bounds.get("max")
    if least is not None and most is not None and least > most:
        raise CriteriaError(f"criteria: {where}: {name}: min {least:g} is above max {most:g}")
    return Criterion(str(name), least, most, section == "annotated")


def read_measured(path: str | Path) -> dict[str, Any]:
    """The values of a measured file by their paths, numbers and None.

    Raises:
        CriteriaError: no such file, or no object of JSON.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CriteriaError(f"measured: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CriteriaError(f"measured: {path}: expected an object of JSON, got {type(content).__name__}")
    return flat(content)


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; only what is a number, or None where a value could be."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            values[f"{prefix}{name}"] = value
    return values


def judge(criteria: Sequence[Criterion], measured: Mapping[str, Any]) -> list[Outcome]:
    """One outcome a criterion, in their order.

    Raises:
        CriteriaError: a criterion names what the measured values do not have.
    """
    has_truth = any(name.startswith(f"{ANNOTATED_BY}.") for name in measured)
    null = tuple(f"{name}." for name, value in measured.items() if value is None)
    outcomes = []
    for criterion in criteria:
        if criterion.annotated and (not has_truth or criterion.name.startswith(null)):
            reason = f"{criterion.name}: no annotations of its classes to score against"
            outcomes.append(Outcome(criterion, "skip", reason))
            continue
        if criterion.name not in measured:
            known = ", ".join(sorted(measured))
            raise CriteriaError(f"criteria: {criterion.name} was not measured; there are {known}")
        outcomes.append(_judge(criterion, measured[criterion.name]))
    return outcomes


def _judge(criterion: Criterion, value: float | None) -> Outcome:
    if value is None or not math.isfinite(value):
        return Outcome(criterion, "fail", f"{criterion.name} has no value, expected {criterion.bounds}")
    holds = (criterion.least is None or value >= criterion.least) and (
        criterion.most is None or value <= criterion.most
    )
    text = f"{criterion.name} is {value:g}, expected {criterion.bounds}"
    return Outcome(criterion, "pass" if holds else "fail", text)


def cases(subject: str, outcomes: Sequence[Outcome]) -> list[TestCase]:
    """Test cases of a JUnit file: the subject, such as a bag, is their class."""
    kinds = {"pass": None, "fail": "failure", "skip": "skipped"}
    return [TestCase(subject, outcome.criterion.name, kinds[outcome.verdict], outcome.text) for outcome in outcomes]


def report(subject: str, outcomes: Sequence[Outcome]) -> str:
    """The outcomes as lines of text."""
    return "\n".join([subject, *(f"  {outcome.verdict:<5} {outcome.text}" for outcome in outcomes)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.evaluation.criteria",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("criteria", type=Path, help="YAML file of bounds, such as config/criteria_example.yaml")
    parser.add_argument("--measured", type=Path, nargs="+", required=True, help="files to judge, each by all criteria")
    parser.add_argument("--junit", type=Path, metavar="FILE.xml", help="write the outcomes as a JUnit file")
    options = parser.parse_args(arguments)
    try:
        criteria = read_criteria(options.criteria)
        judged = {str(path): judge(criteria, read_measured(path)) for path in options.measured}
        if options.junit:
            every = [case for subject, outcomes in judged.items() for case in cases(subject, outcomes)]
            write_junit(options.junit, options.criteria.stem, every)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    print("\n".join(report(subject, outcomes) for subject, outcomes in judged.items()))
    failed = sum(outcome.verdict == "fail" for outcomes in judged.values() for outcome in outcomes)
    print(f"{failed} of {sum(map(len, judged.values()))} criteria failed" if failed else "all criteria hold")
    return FAILED if failed else OK


if __name__ == "__main__":
    sys.exit(main())
