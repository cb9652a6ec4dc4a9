"""Where the published weights lie, and how to be sure of what arrived.

The authors publish neither sizes nor hashes. Where a hash is known, its source is named; where it is not, the first
download writes the hash beside the file and every later call holds the file against it.
"""

from __future__ import annotations

import contextlib
import pathlib
from dataclasses import dataclass

from ..atomic_write import write_text
from ..config import PRESETS, preset
from ..user_cache import user_cache
from .download import Downloaded, IntegrityError, checked_sha256, download

_V1_V2 = "https://github.com/linxuewu/Sparse4D/releases/download/v0.0/"
_V3 = "https://github.com/HorizonRobotics/Sparse4D/releases/download/v3.0/"
_NUIMAGES = "https://download.openmmlab.com/mmdetection3d/v0.1.0_models/nuimages_semseg/"
_R101_NUIMAGES = "cascade_mask_rcnn_r101_fpn_1x_nuim"
_R50_NUIMAGES = "cascade_mask_rcnn_r50_fpn_coco-20e_20e_nuim"


@dataclass(frozen=True)
class PublicFile:
    url: str
    what: str
    sha256: str | None = None  # digest or its leading digits
    hash_source: str = "not published; recorded at the first download"

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


_IN_NAME = "the file name carries the first eight digits"

PUBLIC_FILES: dict[str, PublicFile] = {
    file.name: file
    for file in (
        PublicFile(
            _V3 + "sparse4dv3_r50.pth",
            "v3_r50, whole detector",
            "5beed4d4933ca6448d72586b0f8812863574289ff3c4192de71dc9f46a42f0ed",
            "given alike by independent public projects that use the file; not by the authors",
        ),
        PublicFile(_V1_V2 + "sparse4dv2_r50_HInf_256x704.pth", "v2_r50, whole detector"),
        PublicFile(_V1_V2 + "sparse4dv1_r101_H4_release.pth", "v1_r101_t4, whole detector"),
        PublicFile(_V1_V2 + "fcos3d.pth", "FCOS3D ResNet-101 with deformable convolutions: initial weights of v1"),
        PublicFile(
            "https://download.pytorch.org/models/resnet50-19c8e357.pth",
            "ImageNet ResNet-50: initial weights of v2_r50 and v3_r50",
            "19c8e357",
            _IN_NAME,
        ),
        PublicFile(
            "https://download.pytorch.org/models/resnet101-5d3b4d8f.pth", "ImageNet ResNet-101", "5d3b4d8f", _IN_NAME
        ),
        PublicFile(
            f"{_NUIMAGES}{_R101_NUIMAGES}/{_R101_NUIMAGES}_20201024_134804-45215b1e.pth",
            "nuImages Cascade Mask R-CNN, ResNet-101: initial weights of v2_r101 and v3_r101",
            "45215b1e",
            _IN_NAME,
        ),
        PublicFile(
            f"{_NUIMAGES}{_R50_NUIMAGES}/{_R50_NUIMAGES}_20201009_124951-40963960.pth",
            "nuImages Cascade Mask R-CNN, ResNet-50",
            "40963960",
            _IN_NAME,
        ),
    )
}


SHIPPED = pathlib.Path(__file__).parents[1] / "weights"  # what the package brings: <preset>.pt


class NoWeightsError(ValueError):
    """A preset without trained weights on this machine; the message has the command that gets them."""


def default_folder() -> pathlib.Path:
    """Where `fetch` puts files: `$XDG_CACHE_HOME/sparse4d_ros/checkpoints`, by default under `~/.cache`.

    Raises:
        ValueError: neither is there.
    """
    cache = user_cache()
    if cache is None:
        raise ValueError("this user has no home folder; name a folder with --out, or set XDG_CACHE_HOME")
    return cache / "checkpoints"


def find_weights(model: str) -> pathlib.Path:
    """Trained weights of a preset on this machine: those that the package ships, else those that `fetch` brought.

    Raises:
        ValueError: unknown preset.
        NoWeightsError: there are none; the message has the command that gets them.
    """
    published = preset(model).published.checkpoint
    candidates = [SHIPPED / f"{model}.pt"]
    if published:
        with contextlib.suppress(ValueError):  # no home folder: nothing was fetched to it
            candidates.append(default_folder() / published)
    found = next((path for path in candidates if path.is_file()), None)
    if found is not None:
        return found
    if published:
        remedy = f"get the published ones with `python -m sparse4d_core.checkpoint fetch {model}`"
    else:
        remedy = "none were published for this preset: train it (docs/training.md)"
    raise NoWeightsError(
        f"model {model}: no trained weights in {' or '.join(str(path.parent) for path in candidates)}; {remedy}, "
        "or name a file with `checkpoint`. `allow_untrained` runs random weights, for tests and benchmarks"
    )


def find_weights_if_any(model: str, allow_untrained: bool) -> pathlib.Path | None:
    """The same; None where there are none and random ones are allowed."""
    try:
        return find_weights(model)
    except NoWeightsError:
        if not allow_untrained:
            raise
        return None


def public_file(name: str) -> PublicFile:
    """A file by its own name or by the preset whose weights it holds.

    Raises:
        ValueError: unknown name, or a preset without published weights; the message lists what there is.
    """
    known = ", ".join([*(n for n, c in PRESETS.items() if c.published.checkpoint), *PUBLIC_FILES])
    if name in PRESETS:
        checkpoint = PRESETS[name].published.checkpoint
        if checkpoint is None:
            raise ValueError(f"{name}: no weights were ever published for this preset. Published: {known}")
        return PUBLIC_FILES[checkpoint]
    if name not in PUBLIC_FILES:
        raise ValueError(f"{name!r}: unknown checkpoint. Published: {known}")
    return PUBLIC_FILES[name]


def fetch(
    name: str, folder: pathlib.Path | None = None, sha256: str | None = None, mirror: str | None = None
) -> tuple[Downloaded, str]:
    """Download a published file, or check the one that is already there.

    Args:
        name: preset or file name.
        folder: where it goes; `~/.cache/sparse4d_ros/checkpoints` by default.
        sha256: digest to insist on, for example from a colleague who has the file.
        mirror: address of a folder that holds the same file names, instead of the public release.

    Returns:
        what lies there now, and in words what it was checked against.

    Raises:
        ValueError: unknown name, or no folder given and no home folder.
        DownloadError, IntegrityError: see `download`.
    """
    file = public_file(name)
    path = (folder or default_folder()) / file.name
    record = path.with_name(path.name + ".sha256")
    expected, source = _expected_hash(file, record, sha256)
    present = path.exists()
    if present:
        digest = checked_sha256(path, f"checking {path.name}")
        if expected is not None and not digest.startswith(expected):
            raise IntegrityError(
                f"{path}: expected sha256 {expected} ({source}), got {digest}; delete it and fetch again"
            )
        result = Downloaded(path, path.stat().st_size, digest, path.stat().st_size)
    else:
        url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
        result = download(url, path, expected)
    noted = "It is recorded now and will be checked from now on"
    line = f"{result.sha256}  {path.name}\n"  # the format of sha256sum, so that `sha256sum -c` reads it
    if not record.exists() or record.read_text() != line:
        try:
            write_text(record, line)
        except OSError as error:
            if not present:
                raise
            # In a folder for reading only, of an image or of another user, the file can be used all the same.
            noted = f"It cannot be recorded: {error.strerror}"
    if expected is None:
        source = f"nothing: no hash is known. {noted}"
    return result, source


def _expected_hash(file: PublicFile, record: pathlib.Path, sha256: str | None) -> tuple[str | None, str]:
    """The digest to insist on and where it comes from: the caller, the catalogue, the record of an earlier download."""
    if sha256 is not None:
        return sha256.lower(), "given by the caller"
    recorded = record.read_text().split()[0] if record.exists() else None
    if recorded is not None and (file.sha256 is None or recorded.startswith(file.sha256)):
        return recorded, f"recorded at the first download in {record.name}"
    return file.sha256, file.hash_source
