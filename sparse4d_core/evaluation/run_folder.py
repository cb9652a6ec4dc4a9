"""The folder of a run over a data set: what it was asked for, what each scene gave, and the submissions in the end.

    out/run.json                settings that decide the results; another run must not mix with them
    out/scenes/NAME.json        boxes of a scene, written at once when it is done
    out/scenes/NAME.state.pt    memory at the end of a scene, where the next scene of its stream begins with it
    out/results.json, tracking.json

An interrupted run leaves whole scenes; going on needs no more than the list of those.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..atomic_write import atomic_write, write_bytes, write_json
from ..network.aggregation import CameraFeatures
from ..network.state import CachedInstances, PastFrame, TemporalState
from .results import MODALITY, ResultsWriter

# All that a state file may contain beside tensors.
torch.serialization.add_safe_globals([TemporalState, CachedInstances, PastFrame, CameraFeatures])


class RunFolderError(ValueError):
    """A folder that this run must not write to, or that it cannot be finished from."""


def begin_folder(file: Path, kind: str, settings: dict[str, Any], resume: bool) -> dict[str, Any]:
    """A new folder, or one of earlier work with the same settings.

    Args:
        file: keeps the settings in the folder.
        kind: what the folder is for, a word for the messages: run, sheet.
        settings: plain values that JSON has a form for.

    Returns:
        The settings as JSON gives them back.

    Raises:
        RunFolderError: it contains such work and `resume` is off, the work had other settings, or it contains
            something else.
    """
    path, now = file.parent, json.loads(json.dumps(settings))
    if not file.is_file():
        if path.is_dir() and any(path.iterdir()):
            raise RunFolderError(f"out: {path} is not empty and contains no {kind}; choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        write_json(file, now, indent=2)
        return now
    if not resume:
        raise RunFolderError(f"out: {path} contains a {kind}; go on with it by --resume, or choose another folder")
    before = _read_json(file)
    other = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if other:
        changed = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in other)
        raise RunFolderError(f"resume: the {kind} in {path} had other settings: {changed}")
    return now


@dataclass(frozen=True)
class RunFolder:
    path: Path
    settings: dict[str, Any]  # plain values that JSON has a form for

    @classmethod
    def begin(cls, path: Path, settings: dict[str, Any], resume: bool) -> RunFolder:
        """A new folder, or one of an earlier run with the same settings.

        Raises:
            RunFolderError: it contains a run and `resume` is off, or the run there had other settings.
        """
        folder = cls(path, begin_folder(path / "run.json", "run", settings, resume))
        (path / "scenes").mkdir(exist_ok=True)
        return folder

    def withdraw(self) -> None:
        """For a run that is refused: before its first scene its settings bind nobody, and nothing is left of it."""
        scenes = self.path / "scenes"
        if not any(scenes.iterdir()):
            scenes.rmdir()
            (self.path / "run.json").unlink()
            with contextlib.suppress(OSError):  # something else is in there
                self.path.rmdir()

    def has(self, scene: str) -> bool:
        """Whether the scene is done."""
        return self._scene(scene).is_file()

    def write_scene(self, scene: str, content: bytes) -> None:
        """What a scene gave, of `scene_content`; appears when it is complete.

        Raises:
            OSError: such as a full disk; nothing of the scene is left then.
        """
        write_bytes(self._scene(scene), content)

    def write_state(self, scene: str, content: bytes) -> None:
        """The memory at the end of a scene, of `state_content`; to be written before the scene, so that a done scene
        has one."""
        write_bytes(self._state(scene), content)

    def read_state(self, scene: str) -> bytes:
        """The memory at the end of a scene that is done, for `state_of`.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        path = self._state(scene)
        try:
            content = path.read_bytes()
            state_of(content)
            return content
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise RunFolderError(
                f"resume: {path} cannot be read ({error}); delete the scenes of this stream and resume again"
            ) from error

    def drop_state(self, scene: str) -> None:
        """Removes a memory that no scene needs any more."""
        self._state(scene).unlink(missing_ok=True)

    def assemble(self, scenes: Sequence[str], notes: dict[str, str], tracking: bool = True) -> tuple[Path, Path | None]:
        """Writes the submissions of all scenes; returns their paths (tracking: None for a model without ids).

        Raises:
            RunFolderError: a scene is missing, damaged, or has samples that another one has too.
        """
        if missing := [scene for scene in scenes if not self.has(scene)]:
            raise RunFolderError(f"out: {len(missing)} scenes are not done, the first is {missing[0]}; use --resume")
        files = {"detection": self.path / "results.json"}
        if tracking:
            files["tracking"] = self.path / "tracking.json"
        for kind, file in files.items():
            self._write_submission(file, kind, scenes, notes)
        return files["detection"], files.get("tracking")

    def _write_submission(self, file: Path, kind: str, scenes: Sequence[str], notes: dict[str, str]) -> None:
        """One scene in memory at a time: the boxes of a whole split take gigabytes."""
        with atomic_write(file) as unfinished, unfinished.open("w", encoding="utf-8") as text:
            text.write(f'{{"meta": {json.dumps(MODALITY | notes)}, "results": {{')
            for number, (token, boxes) in enumerate(self._samples(kind, scenes)):
                text.write(f"{', ' if number else ''}{json.dumps(token)}: {json.dumps(boxes)}")
            text.write("}}\n")

    def _samples(self, kind: str, scenes: Sequence[str]) -> Iterator[tuple[str, list]]:
        seen: dict[str, str] = {}
        for scene in scenes:
            content = _read_json(self._scene(scene))
            if content.get("scene") != scene or kind not in content:
                raise RunFolderError(f"out: {self._scene(scene)} is no result of {scene}; delete it and use --resume")
            for token, boxes in content[kind].items():
                if token in seen:
                    raise RunFolderError(f"out: sample {token} is in {seen[token]} and in {scene}")
                seen[token] = scene
                yield token, boxes

    def _scene(self, scene: str) -> Path:
        return self.path / "scenes" / f"{scene}.json"

    def _state(self, scene: str) -> Path:
        return self.path / "scenes" / f"{scene}.state.pt"


def scene_content(scene: str, writer: ResultsWriter) -> bytes:
    """The boxes of a scene as its file contains them."""
    content = {"scene": scene, "detection": writer.detection, "tracking": writer.tracking}
    return f"{json.dumps(content)}\n".encode()


def state_content(state: TemporalState | None) -> bytes:
    """A memory as its file contains it."""
    file = io.BytesIO()
    torch.save(None if state is None else state.to("cpu"), file)
    return file.getvalue()


def state_of(content: bytes) -> TemporalState | None:
    """The memory that such a file contains, on the CPU.

    Raises:
        RuntimeError, EOFError, pickle.UnpicklingError: it is damaged, or contains something else.
    """
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"out: {path} cannot be read ({error}); delete it and use --resume") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"out: {path} contains no object of JSON; delete it and use --resume")
    return content
