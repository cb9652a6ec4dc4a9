"""The writer of nuScenes tables, which rendered and recorded scenes share."""

from __future__ import annotations

import json

import pytest

from sparse4d_core.data.nuscenes.table_writer import TableWriter, token, visibility_token
from sparse4d_core.data.nuscenes.tables import MODEL_CHANNEL, load_scenes

POSE = ([1.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0])
CAMERA = "CAM_FRONT"


def annotation(name: str, sample: str) -> dict:
    return {
        "token": name, "sample_token": sample, "visibility_token": "4", "attributes": ["vehicle.towed"],
        "translation": [0.0, 0.0, 0.0], "size": [1.0, 2.0, 1.0], "rotation": [1.0, 0.0, 0.0, 0.0],
        "num_lidar_pts": 1, "num_radar_pts": 0,
    }  # fmt: skip


@pytest.fixture
def writer() -> TableWriter:
    """Two scenes of two samples, one camera, one object of a category that nuScenes does not have."""
    writer = TableWriter()
    for scene in ("first", "second"):
        samples = [(token(scene, i), 1_600_000_000_000_000 + i * 500_000) for i in range(2)]
        writer.add_scene(scene, samples, "van")
        for channel, intrinsic in ((CAMERA, [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]), (MODEL_CHANNEL, [])):
            calibration = writer.add_calibration(scene, channel, *POSE, intrinsic)
            suffix = "jpg" if intrinsic else "pcd.bin"
            records = [
                {"sample_token": sample, "timestamp": stamp, "is_key_frame": True, "pose": POSE,
                 "filename": f"samples/{channel}/{scene}-{stamp}.{suffix}"}
                for sample, stamp in samples
            ]  # fmt: skip
            writer.add_stream(scene, channel, calibration, records, (640, 480))
        rows = [annotation(token(scene, "box", i), sample) for i, (sample, _) in enumerate(samples)]
        writer.add_instance(token(scene, "object"), "vehicle.tank", rows)
    return writer


def read(root, table: str) -> list[dict]:
    return json.loads((root / "v1.0-mini" / f"{table}.json").read_text())


def test_records_are_linked_within_their_scene(writer, tmp_path):
    writer.write(tmp_path, "v1.0-mini")
    for table, chains in (("sample", 2), ("sample_data", 4), ("sample_annotation", 2)):
        records = {record["token"]: record for record in read(tmp_path, table)}
        starts = [record for record in records.values() if not record["prev"]]
        assert len(starts) == chains and len(records) == 2 * chains
        assert all(records[start["next"]]["prev"] == start["token"] for start in starts)
        assert all(records[start["next"]]["next"] == "" for start in starts)


def test_what_is_named_has_a_record(writer, tmp_path):
    writer.write(tmp_path, "v1.0-mini")
    tables = load_scenes(tmp_path, "v1.0-mini")
    (box,) = tables.annotations[token("first", 0)]
    assert tables.category_name(box) == "vehicle.tank"
    assert tables.attribute[box["attribute_tokens"][0]]["name"] == "vehicle.towed"
    assert len(tables.category) == 15 and len(tables.attribute) == 9 and len(tables.sensor) == 2
    assert [record["fileformat"] for record in read(tmp_path, "sample_data")] == ["jpg", "jpg", "pcd", "pcd"] * 2
    assert read(tmp_path, "log")[0]["date_captured"] == "2020-09-13"


def test_tables_that_are_there_are_not_overwritten(writer, tmp_path):
    writer.write(tmp_path, "v1.0-mini")
    before = read(tmp_path, "scene")
    with pytest.raises(OSError, match="v1.0-mini"):
        TableWriter().write(tmp_path, "v1.0-mini")
    assert read(tmp_path, "scene") == before and sorted(p.name for p in tmp_path.iterdir()) == ["maps", "v1.0-mini"]


@pytest.mark.parametrize(("share", "level"), [(0.0, "1"), (0.39, "1"), (0.4, "2"), (0.79, "3"), (0.8, "4"), (1.0, "4")])
def test_visibility(share, level):
    assert visibility_token(share) == level
