"""The command line of checkpoints: describes files, fetches published ones."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from ..command_line import OK, refuse
from .download import DownloadError
from .file import CheckpointFile, read_checkpoint
from .identity import identify
from .published import PUBLIC_FILES, fetch

EPILOG = """\
examples:
  python -m sparse4d_core.checkpoint fetch v3_r50
  python -m sparse4d_core.checkpoint fetch v1_r101_t4 --out weights --sha256 0a1b2c...
  python -m sparse4d_core.checkpoint info ~/.cache/sparse4d_ros/checkpoints/sparse4dv3_r50.pth
"""
SHOWN_META = 200  # characters of a value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (DownloadError, OSError, ValueError) as error:  # a CheckpointError is a ValueError
        return refuse(parser.prog, error)
    return OK


def describe(file: CheckpointFile) -> str:
    """A file in words, line by line."""
    identity = identify(file.state)
    tensors = list(file.state.values())
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    lines = [
        f"{file.path}: {file.path.stat().st_size:,} bytes",
        f"  fits          {identity}",
        f"  backbone      {identity.backbone or 'none'}",
        f"  anchors       {'none' if identity.num_anchors is None else identity.num_anchors}",
        f"  weights       {sum(t.numel() for t in tensors):,} numbers in {len(tensors)} tensors, {', '.join(kinds)}",
        f"  not finite    {sum(not bool(tensor.isfinite().all()) for tensor in tensors)} tensors",
        f"  file keys     {', '.join(map(str, file.wrapping)) or 'a bare state dict'}",
    ]
    if file.config is not None:
        lines.append(
            f"  trained as    {file.config.name}, {file.config.image.input_wh[0]}x{file.config.image.input_wh[1]}"
        )
    for key, value in file.meta.items():
        text = " ".join(str(value).split())
        lines.append(f"  meta.{key:<8} {text[:SHOWN_META]}{' ...' if len(text) > SHOWN_META else ''}")
    return "\n".join(lines)


def _info(options: argparse.Namespace) -> None:
    for path in options.file:
        print(describe(read_checkpoint(path)))


def _fetch(options: argparse.Namespace) -> None:
    result, checked = fetch(options.name, options.out, options.sha256, options.mirror)
    print(f"{result.path}\n  {result.size:,} bytes, sha256 {result.sha256}\n  checked against: {checked}")
    if result.resumed_from and result.resumed_from < result.size:
        print(f"  continued after the {result.resumed_from:,} bytes of an earlier call")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.checkpoint",
        description="Describes checkpoint files; downloads published ones.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="info | fetch")
    info = commands.add_parser("info", help="which preset a file fits, what it holds")
    info.add_argument("file", nargs="+", type=pathlib.Path)
    info.set_defaults(run=_info)
    published = "\n".join(f"  {file.name}\n      {file.what}" for file in PUBLIC_FILES.values())
    get = commands.add_parser(
        "fetch",
        help="download a published checkpoint, or go on with an interrupted download",
        description="Downloads by the authors' public release address. Presets stand for their checkpoint.",
        epilog=f"published files:\n{published}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    get.add_argument("name", help="a preset or the name of a published file, see below")
    get.add_argument("--out", type=pathlib.Path, help="folder (default: in $XDG_CACHE_HOME or ~/.cache)")
    get.add_argument("--sha256", help="insist on this digest instead of the known one")
    get.add_argument("--mirror", help="address of a folder with the same file names, instead of the public release")
    get.set_defaults(run=_fetch)
    return parser


if __name__ == "__main__":
    sys.exit(main())
