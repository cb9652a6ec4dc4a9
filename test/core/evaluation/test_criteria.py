"""Bounds, their outcomes, the exit status and the JUnit file."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from sparse4d_core.evaluation import criteria as command
from sparse4d_core.evaluation.criteria import CriteriaError, flat, judge, read_criteria

MEASURED = {"sets": 12, "tracks": {"count": 3}, "gap": None, "detection": {"nds": 0.5, "class_ap": {"car": 0.6}}}
CRITERIA = "always:\n  sets: {min: 10}\nannotated:\n  detection.nds: {min: 0.4}\n  detection.class_ap.car: {max: 0.7}\n"


@pytest.fixture
def files(tmp_path):
    """(criteria file, measured file), to change."""
    (tmp_path / "bounds.yaml").write_text(CRITERIA)
    (tmp_path / "measured.json").write_text(json.dumps(MEASURED))
    return tmp_path / "bounds.yaml", tmp_path / "measured.json"


def status(files, *more):
    return command.main([str(files[0]), "--measured", str(files[1]), *map(str, more)])


def test_all_hold(files, capsys):
    assert status(files) == 0
    assert "detection.class_ap.car is 0.6, expected at most 0.7" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bounds, verdict",
    [
        ("{min: 12}", "pass"), ("{max: 12}", "pass"), ("{min: 12, max: 12}", "pass"),
        ("{min: 12.5}", "fail"), ("{max: 11}", "fail"), ("{min: 1, max: 2}", "fail"),
    ],
)  # fmt: skip
def test_bounds_include_their_ends(files, bounds, verdict):
    files[0].write_text(f"always:\n  sets: {bounds}\n")
    assert [outcome.verdict for outcome in judge(read_criteria(files[0]), flat(MEASURED))] == [verdict]
    assert status(files) == (verdict == "fail")


def test_a_value_that_is_none_fails(files):
    files[0].write_text("always:\n  gap: {max: 1}\n")
    assert status(files) == 1


def test_without_annotations_their_criteria_are_skipped(files, tmp_path):
    files[1].write_text(json.dumps({"sets": 12}))
    assert status(files, "--junit", tmp_path / "out.xml") == 0
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "0", "2")
    assert [case.find("skipped") is not None for case in suite] == [False, True, True]


def test_criteria_of_tracking_are_skipped_where_no_tracked_class_is_annotated(files):
    files[0].write_text(
        "annotated:\n  detection.nds: {min: 0.4}\n  tracking.ids: {max: 3}\n  tracking.class_amota.car: {min: 0}\n"
    )
    outcomes = judge(read_criteria(files[0]), flat(MEASURED | {"tracking": None}))
    assert [outcome.verdict for outcome in outcomes] == ["pass", "skip", "skip"]
    with pytest.raises(CriteriaError, match="tracking.ids was not measured"):
        judge(read_criteria(files[0]), flat(MEASURED))
    files[0].write_text("annotated:\n  gap: {max: 1}\n")
    assert [outcome.verdict for outcome in judge(read_criteria(files[0]), flat(MEASURED))] == ["fail"]


def test_junit_names_what_failed(files, tmp_path):
    files[0].write_text("always:\n  sets: {min: 100}\n  tracks.count: {min: 1}\n")
    assert status(files, "--junit", tmp_path / "out.xml") == 1
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert suite.get("name") == "bounds" and suite.get("failures") == "1"
    failed = suite[0].find("failure")
    assert failed.get("message") == "sets is 12, expected at least 100"
    assert suite[0].get("name") == "sets" and suite[0].get("classname").endswith("measured.json")
    assert suite[1].find("failure") is None


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "always and annotated"),
        ("sometimes: {}\n", "sometimes"),
        ("always: {}\n", "name"),
        ("always:\n  sets: 3\n", "sets"),
        ("always:\n  sets: {least: 3}\n", "min: NUMBER"),
        ("always:\n  sets: {min: yes}\n", "True"),
        ("always:\n  sets: {min: .nan}\n", "nan"),
        ("always:\n  sets: {min: 3, max: 2}\n", "above max"),
        ("always:\n  sets: {min: 3}\nannotated:\n  sets: {min: 3}\n", "both"),
        ("always: [\n", "cannot be read"),
    ],
)
def test_what_is_wrong_with_criteria_is_named(files, capsys, text, word):
    files[0].write_text(text)
    assert status(files) == 2
    assert word in capsys.readouterr().err


def test_a_name_that_was_not_measured_is_an_error(files, capsys):
    files[0].write_text("always:\n  detection.nsd: {min: 0.4}\n")
    assert status(files) == 2
    assert "detection.nsd was not measured" in (text := capsys.readouterr().err) and "detection.nds" in text


def test_measured_files_that_are_none(files, tmp_path, capsys):
    files[1].write_text("[1]")
    assert status(files) == 2 and "expected an object" in capsys.readouterr().err
    with pytest.raises(CriteriaError, match="none.json"):
        command.read_measured(tmp_path / "none.json")
