"""Checkpoints of a run: written whole or not at all, checked before they are trusted.

RUN/checkpoints/000001000.pt        torch file
RUN/checkpoints/000001000.json      its size and SHA-256, written first
"""

from __future__ import annotations

import json
import logging
import pathlib

import torch

from ...atomic_write import atomic_write, write_json
from ...file_digest import file_sha256

log = logging.getLogger(__name__)

FORMAT = 3  # of what is stored


class CheckpointStore:
    """The newest `keep` checkpoints of a run folder."""

    def __init__(self, folder: pathlib.Path, keep: int = 3):
        self.folder = folder
        self.keep = keep

    def save(self, iteration: int, content: dict) -> pathlib.Path:
        """Write a checkpoint atomically; older ones are removed only after it is complete.

        Raises:
            OSError: where the disk is full or not writable; what was saved before is untouched.
        """
        path = self.folder / f"{iteration:09d}.pt"
        try:
            with atomic_write(path) as unfinished:
                torch.save({"format": FORMAT, **content}, unfinished)
                record = {"bytes": unfinished.stat().st_size, "sha256": file_sha256(unfinished)}
                write_json(path.with_suffix(".json"), record)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OSError(f"{path}: checkpoint could not be written ({error}); earlier checkpoints are kept") from error
        self._remove_old(path)
        return path

    def exists(self) -> bool:
        """Whether the folder holds any checkpoint."""
        return any(self.folder.glob("*.pt"))

    def newest(self, after: int | None = None) -> dict | None:
        """The newest checkpoint that is intact; damaged ones are named in the log and passed over.

        Args:
            after: an iteration; only checkpoints of later ones count.

        Raises:
            ValueError: it was written by another version.
        """
        for path in sorted(self.folder.glob("*.pt"), reverse=True):
            if after is not None and path.stem <= f"{after:09d}":
                break
            if reason := damage(path):
                log.warning("%s: %s; using the checkpoint before it", path, reason)
                continue
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content.get("format") != FORMAT:
                raise ValueError(
                    f"{path}: has format {content.get('format')}, this version reads {FORMAT}; finish the run with the "
                    "version that began it, or give another --out"
                )
            return content
        return None

    def _remove_old(self, newest: pathlib.Path) -> None:
        """All but the newest and those before it. Later ones are damaged, as the run went on from an earlier one: they
        are not counted, and stay for whoever wants to look at them."""
        earlier = [path for path in sorted(self.folder.glob("*.pt")) if path <= newest]
        for path in earlier[: -self.keep]:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)


def damage(path: pathlib.Path) -> str | None:
    """Why a checkpoint cannot be trusted; None if it is intact."""
    try:
        record = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return "has no readable size and SHA-256 beside it"
    size = path.stat().st_size
    if size != record.get("bytes"):
        return f"holds {size} bytes instead of {record.get('bytes')}"
    if file_sha256(path) != record.get("sha256"):
        return "has another SHA-256 than when it was written"
    return None
