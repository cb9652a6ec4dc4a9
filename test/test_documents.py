"""The documents hold: their commands run, and the options, modules, files, links and targets that they name exist."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

import documents
import pytest
from documents import DOCUMENTS, ROOT, Block

from sparse4d_core.config import PRESETS

# All commands run in one fixture, one after the other; on a busy machine that takes minutes.
pytestmark = pytest.mark.timeout(1800)

# Options of programs that are not ours, and of pytest (conftest.py has them), where prose names them alone.
FOREIGN_OPTIONS = {
    "--nnodes",
    "--node-rank",
    "--rdzv-endpoint",
    "--nproc-per-node",
    "--shm-size",
    "--ipc",
    "--network",
    "--start-offset",
    "--compression-mode",
}
PYTEST_OPTIONS = set(re.findall(r'"(--[\w-]+)"', (ROOT / "test" / "conftest.py").read_text()))
# Files that a reader would write, or a command, or an export.
EXAMPLES = {"my_rig.yaml", "detect.py", "out/step-onnx/detect.py", "out/junit.xml"}
TEXT_FILES = (".py", ".md", ".yaml", ".yml", ".toml", ".rst", ".xml", ".txt", "Makefile")


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def shell_blocks() -> list[Block]:
    every = [block for document in DOCUMENTS for block in documents.blocks(document, read(document))]
    return [block for block in every if block.language in documents.SHELL]


def of_kind(kind: str) -> list[Block]:
    return [block for block in shell_blocks() if block.kind == kind]


@functools.cache
def snippets(document: str) -> list[str]:
    return documents.code(document, read(document))


@functools.cache
def paths() -> list[str]:
    return documents.repository_paths()


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def entry_points() -> set[str]:
    return set(re.findall(r'"(\w+) = [\w.]+:\w+"', (ROOT / "setup.py").read_text()))


# ---------------------------------------------------------------------------------------------------- commands that run


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, pathlib.Path]:
    """A folder for each document that looks like the repository's, so that outputs stay out of that."""
    made = {}
    for document in DOCUMENTS:
        made[document] = tmp_path_factory.mktemp("document")
        for path in ROOT.iterdir():
            if path.name not in documents.MADE and not path.name.startswith("."):
                (made[document] / path.name).symlink_to(path)
    return made


def run_jobs(jobs: list[dict], folder: pathlib.Path) -> dict[str, dict]:
    """Outcomes of test/run_commands.py, by the jobs' names."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "test" / "run_commands.py"), "jobs.json", "outcomes.jsonl"]
    subprocess.run(command, cwd=folder, env=environment)
    outcomes = map(json.loads, (folder / "outcomes.jsonl").read_text().splitlines())
    return {outcome["name"]: outcome for outcome in outcomes}


def job(block: Block, folder: pathlib.Path) -> dict:
    """The block's commands; with a mark that no longer fits, one that fails with the reason."""
    try:
        commands = block.commands()
    except ValueError as error:
        commands = [[sys.executable, "-c", f"raise SystemExit({str(error)!r})"]]
    return {"name": block.name, "folder": str(folder), "commands": commands}


@pytest.fixture(scope="module")
def outcomes(folders, tmp_path_factory) -> dict[str, dict]:
    """Every block that runs and every `--help`, one after the other in one process."""
    jobs = [job(block, folders[block.document]) for block in of_kind("runs")]
    return run_jobs(jobs + help_jobs(folders[DOCUMENTS[0]]), tmp_path_factory.mktemp("outcomes"))


@pytest.mark.slow
@pytest.mark.parametrize("block", of_kind("runs"), ids=lambda block: block.name)
def test_command_runs(block, outcomes):
    assert outcomes[block.name]["status"] == 0, outcomes[block.name]["output"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_shell_block_has_a_mark(document):
    marked = documents.blocks(document, read(document))
    assert [block.name for block in marked if block.language in documents.SHELL and block.kind is None] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_stand_in_shell_blocks(document):
    """Not indented, nor in a block without a language, where no mark would be asked for."""
    text = read(document)
    nameless = [block.name for block in documents.blocks(document, text) if not block.language]
    assert nameless + re.findall(r"^ {4,}((?:make|python3?|ros2|pip|torchrun) .*)$", unfenced(text), re.MULTILINE) == []


def unfenced(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_a_failing_command_is_seen(tmp_path):
    module = "sparse4d_core.checkpoint"
    failing = [
        ["python", "-m", module, "--help"],
        ["python", "-m", module, "info", "absent.pt"],
        ["python", "-m", "none"],
    ]
    jobs = [{"name": str(n), "folder": str(tmp_path), "commands": failing[:n]} for n in (1, 2, 3)]
    jobs.append({"name": "no module", "folder": str(tmp_path), "commands": failing[2:]})
    outcomes = run_jobs(jobs, tmp_path)
    assert [outcome["status"] != 0 for outcome in outcomes.values()] == [False, True, True, True]
    assert "absent.pt" in outcomes["2"]["output"]
    assert "$ python -m none" not in outcomes["3"]["output"]


# ------------------------------------------------------------------------------------------------------------- options


@functools.cache
def calls(document: str) -> list[tuple[str, list[str]]]:
    return documents.module_calls(snippets(document))


def help_names(module: str, words: list[str]) -> list[str]:
    """The help of a call: its module's and, where its first word may be a subcommand, that one's."""
    subcommand = [f"{module} {words[0]}"] if words and re.fullmatch(r"[a-z]+", words[0]) else []
    return [module, *subcommand]


def help_jobs(folder: pathlib.Path) -> list[dict]:
    wanted = {name for document in DOCUMENTS for call in calls(document) for name in help_names(*call)}
    return [
        {"name": name, "folder": str(folder), "commands": [["python", "-m", *name.split(), "--help"]]}
        for name in sorted(wanted)
    ]


def known_options(names: list[str], outcomes: dict[str, dict]) -> set[str]:
    return {option for name in names for option in re.findall(r"--\w[\w.-]*", outcomes[name]["output"])}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_of_commands_exist(document, outcomes):
    unknown = [
        f"{module}: {option}"
        for module, words in calls(document)
        for option in documents.options(words)
        if option not in known_options(help_names(module, words), outcomes)
    ]
    assert unknown == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_in_prose_exist(document, outcomes):
    alone = {option for snippet in snippets(document) for option in documents.options(snippet.split()[:1])}
    known = known_options([job["name"] for job in help_jobs(ROOT)], outcomes)
    assert alone - known - FOREIGN_OPTIONS - PYTEST_OPTIONS == set()


# --------------------------------------------------------------------------------------------------------------- names


def tracked_texts() -> list[pathlib.Path]:
    return [ROOT / path for path in paths() if path.endswith(TEXT_FILES) and not path.startswith("test/data/")]


def test_modules_that_any_file_calls_exist():
    called = {
        (module.rstrip("."), path.name)
        for path in tracked_texts()
        for module in documents.MODULE.findall(path.read_text(encoding="utf-8"))
    }
    assert len(called) > 20
    assert sorted(call for call in called if not runnable(call[0])) == []


def runnable(module: str) -> bool:
    """Whether `python -m module` finds something to run."""
    try:
        found = importlib.util.find_spec(module)
        return found is not None and (
            found.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__") is not None
        )
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_exist(document):
    top_folders = {path for path in paths() if path.count("/") == 1 and path.endswith("/")}
    names = documents.file_names(snippets(document), top_folders)
    assert sorted({name for name in names if not documents.exists(name, paths())} - EXAMPLES) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    folder = (ROOT / document).parent
    broken = []
    for target, anchor in documents.links(read(document)):
        path = folder / target if target else ROOT / document
        if not path.exists() or (anchor and anchor not in documents.anchors(path.read_text(encoding="utf-8"))):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document):
    assert set(documents.make_targets(snippets(document))) - makefile_targets() == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_ros_names_exist(document):
    """Launch files and their arguments, executables and parameters of the node."""
    launch = {path.name: path.read_text() for path in (ROOT / "launch").glob("*.launch.py")}
    unknown = []
    for snippet in snippets(document):
        if called := re.match(r"ros2 launch sparse4d_ros (\S+)(.*)", snippet):
            arguments = re.findall(r"(\w+):=", called[2])
            unknown += [called[1]] * (called[1] not in launch)
            unknown += [name for name in arguments if f'"{name}"' not in "".join(launch.values())]
        if called := re.match(r"ros2 run sparse4d_ros (\w+)", snippet):
            unknown += [called[1]] * (called[1] not in entry_points())
        unknown += [name for name in re.findall(r"-p (\w+):=", snippet) if name not in node_parameters()]
    unknown += [name for name in re.findall(r"[Pp]arameter `(\w+)`", read(document)) if name not in node_parameters()]
    assert unknown == []


@functools.cache
def node_parameters() -> set[str]:
    """Read off the source, because a machine that checks documents needs no ROS."""
    tree = ast.parse((ROOT / "sparse4d_ros" / "parameters.py").read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "NodeParameters"]
    return {field.target.id for field in classes[0].body if isinstance(field, ast.AnnAssign)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_presets_exist(document):
    named = {snippet for snippet in snippets(document) if re.fullmatch(r"v[123]_[a-z]+\d+\w*", snippet)}
    assert named - PRESETS.keys() == set()


def test_the_table_of_models_is_complete():
    rows = re.findall(r"^\| `(\w+)`\*? \| [^|]+ \| (\d+)×(\d+) \|", read("docs/models.md"), re.MULTILINE)
    expected = {name: config.image.input_wh for name, config in PRESETS.items()}
    assert {name: (int(width), int(height)) for name, height, width in rows} == expected


# ------------------------------------------------------------------------------------------------ makefile and workflow


def test_help_lists_every_target():
    listed = set(re.findall(r"make (\w+)", subprocess.check_output(["make", "help"], cwd=ROOT, text=True)))
    assert makefile_targets() - listed == {"help"}


def test_kept_results_have_the_names_that_are_committed():
    plan = subprocess.check_output(["make", "--dry-run", "bench", "KEEP=amd-epyc-2-cores"], cwd=ROOT, text=True)
    assert set(re.findall(r"benchmarks/results/\S+", plan)) == {
        p for p in paths() if p.startswith("benchmarks/results/a")
    }


def test_the_workflow_does_what_the_readme_says():
    block = next(block for block in shell_blocks() if block.document == "README.md" and "rosdep" in block.text)
    lines = [line.split("  #")[0].rstrip() for line in block.lines]
    recipe = [line for line in lines if not line.startswith(("mkdir", "git clone"))]  # GitHub checks out by itself
    workflow = re.sub(r"^ +", "", read(".github/workflows/ci.yml"), flags=re.MULTILINE)
    assert len(recipe) > 5
    assert "\n".join(recipe) + "\n" in workflow


def test_the_workspace_leaves_to_pip_what_only_pip_has():
    """rosdep may not write into the system's Python: the manifest has no such key, so there is none to skip."""
    manifest = xml.etree.ElementTree.parse(ROOT / "package.xml")
    assert [entry.text for entry in manifest.iter("exec_depend") if entry.text.endswith("-pip")] == []
    assert "--skip-keys" not in read("README.md")
