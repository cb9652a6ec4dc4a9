"""Runs the exported step beside this file on a folder of frames: python detect.py FRAMES [OPERATORS]

Needs numpy, onnxruntime and Pillow. FRAMES/frames.json is a list of frames in time order, each with `seconds`, `images`
(file names, one a camera), `intrinsics` (3x3 a camera, for the images as they are), `T_cam_from_model` (4x4 a camera:
points of the model frame at the frame's time to the camera) and `T_global_from_model` (4x4: where the vehicle is).
OPERATORS is the library that a graph with the native operator needs: `python -m cuda_ops.build --onnxruntime`.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image

here, frames = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1])
manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
options = onnxruntime.SessionOptions()
if sys.argv[2:]:
    options.register_custom_ops_library(sys.argv[2])
session = onnxruntime.InferenceSession(str(here / "step.onnx"), options, providers=["CPUExecutionProvider"])
width, height = manifest["config"]["image"]["input_wh"]
mean, std, rgb = (manifest["config"]["image"][name] for name in ("mean", "std", "to_rgb"))
crop_top = manifest["config"]["image"]["crop_top"]
classes, names = manifest["config"]["class_names"], [output["name"] for output in manifest["outputs"]]
assert crop_top is None, "this example scales images to the network's width and keeps their lower part"

memory = {
    tensor["name"]: np.zeros(tensor["shape"], tensor["dtype"])
    for tensor in manifest["inputs"]
    if tensor["name"].startswith("memory_")
}
before = None  # seconds and pose of the frame in memory
for frame in json.loads((frames / "frames.json").read_text()):
    planes, projections = [], []
    for name, K, T in zip(frame["images"], frame["intrinsics"], frame["T_cam_from_model"], strict=True):
        image = Image.open(frames / name).convert("RGB")
        scale = max(width / image.width, height / image.height)
        new_width, new_height = int(image.width * scale), int(image.height * scale)
        left, top = max(0, new_width - width) // 2, new_height - height
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image.crop((left, top, left + width, top + height)))
        pixels = pixels if rgb else pixels[..., ::-1]
        if manifest["images"] == "uint8":
            planes.append(np.asarray(image.crop((left, top, left + width, top + height)))[..., ::-1])
        else:
            planes.append(((pixels - np.array(mean)) / std).astype(np.float32).transpose(2, 0, 1))
        to_pixels = np.eye(4)
        to_pixels[:3, :3] = np.array([[scale, 0, -left], [0, scale, -top], [0, 0, 1]]) @ np.array(K)
        projections.append(to_pixels @ np.array(T))
    T_global, seconds = np.array(frame["T_global_from_model"]), frame["seconds"]
    first = before is None
    T_now = np.eye(4) if first else np.linalg.inv(T_global) @ before[1]
    inputs = {
        "images": np.stack(planes)[None],
        "projection": np.stack(projections)[None].astype(np.float32),
        "T_now_from_memory": T_now[None].astype(np.float32),
        "interval": np.array([1e6 if first else seconds - before[0]], np.float32),  # 1e6: nothing is remembered
        **memory,
    }
    found = dict(zip(names, session.run(names, inputs), strict=True))
    memory, before = {name: found[f"new_{name}"] for name in memory}, (seconds, T_global)
    for row in np.flatnonzero(found["scores"][0] > 0.3):
        box = {"seconds": seconds, "class": classes[found["labels"][0, row]], "score": float(found["scores"][0, row])}
        box["id"] = int(found["ids"][0, row]) if "ids" in found else None
        print(json.dumps(box | {"box": found["boxes"][0, row].tolist()}))
