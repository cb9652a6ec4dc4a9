"""Small rendered scenes and bags that the ROS tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL_SAMPLES = tuple(ROOT.parent / "shared" / name for name in ("real_sample", "real_sample_2"))
SEED = 123_000  # rendered worlds of tests; seeds below 10,000 are for training


@pytest.fixture
def ros_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID for this test alone, whatever else runs on the machine."""
    from sparse4d_ros.middleware import claimed_domain

    with claimed_domain() as domain:
        yield domain


@pytest.fixture(scope="module")
def module_domain() -> Iterator[int]:
    """The same for the tests of one file, which share a node or a context."""
    from sparse4d_ros.middleware import claimed_domain

    with claimed_domain() as domain:
        yield domain


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """One rendered scene of 1.5 s, 176x99 pixels, ten sets per second."""
    from sparse4d_core.data.synthetic import __main__ as synthetic

    out = tmp_path_factory.mktemp("tiny") / "world"
    size = ["--image-size", "176", "99"]
    synthetic.main(
        ["--out", str(out), "--scenes", "1", "--seed", str(SEED), "--duration", "1.5", "--workers", "1", *size]
    )
    return out


@pytest.fixture
def dataset_copy(tiny_dataset, tmp_path) -> Path:
    """A copy of the tiny dataset to damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "world"))


@pytest.fixture(scope="session")
def tiny_bag(tiny_dataset, tmp_path_factory) -> Path:
    """The tiny dataset as a bag."""
    pytest.importorskip("rosbags")
    from sparse4d_core.data.nuscenes.tables import load_scenes
    from sparse4d_ros.nuscenes_to_rosbag import write_scenes

    out = tmp_path_factory.mktemp("bags") / "tiny"
    write_scenes(load_scenes(tiny_dataset, "v1.0-mini"), str(out), progress=False)
    return out


def pytest_generate_tests(metafunc):
    """`real_sample` runs over the folders of `--real-sample`."""
    if "real_sample" in metafunc.fixturenames:
        folders = metafunc.config.getoption("--real-sample") or REAL_SAMPLES
        metafunc.parametrize(
            "real_sample", folders, ids=[folder.name for folder in folders], scope="module", indirect=True
        )


@pytest.fixture(scope="module")
def real_sample(request) -> Path:
    """Folder of a real nuScenes keyframe (v1.0-mini tables)."""
    folder = request.param.resolve()
    if not (folder / "v1.0-mini" / "sample.json").is_file():
        pytest.skip(f"no real nuScenes sample in {folder}; give one with --real-sample")
    return folder
