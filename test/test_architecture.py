# SPDX-License-Identifier: Apache-2.0
"""The shape of the house, guarded: ROS stays a thin skin, data flows one way, imports stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "radseg_ros"
ROS = {
    "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "geometry_msgs", "launch", "launch_ros",
    "message_filters", "nav_msgs", "radseg_interfaces", "rclpy", "sensor_msgs", "std_msgs", "std_srvs", "tf2_ros",
    "visualization_msgs",
}  # fmt: skip
ROS_FILES = {"mapper_node.py", "messages.py", "player.py", "query_client.py", "services.py", "observer_node.py"}
HEAVY = {"cv2", "matplotlib", "open3d", "sentence_transformers", "skimage", "sklearn", "transformers"}
# Import only from a lower layer, or from the same one where the arrow is written here.
LAYERS = [
    {"datatypes"},
    {"config", "voxel_storage"},
    {
        "geometry", "worker", "drops", "paths", "transport", "watchdog", "node_log", "sync", "decode", "assemble", "params",
        "heads", "radio_checkpoint", "language", "voxel_index", "hub", "templates", "text_cache", "text_tower", "correlation",
        "windows",
    },
    {"encoder", "lift", "pixel_runs", "carving", "voxel_table", "query", "cloud", "radio"},
    {"segmentation", "refine", "sam_decoder", "voxel_map"},
    {"radseg", "lite", "map_file", "export", "recording", "bag"},
    {"mapper"},
]
RANK = {module: i for i, layer in enumerate(LAYERS) for module in layer}
FRONT_ENDS = {"encoder_cli", "eval2d", "segment_cli", "text_cli"}  # these may import everything
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "eval3d").rglob("*.py")])


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Full dotted names that a file imports; relative ones start with a dot."""
    tree = ast.parse(path.read_text())
    lazy = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only or (top_level_only and id(node) in lazy):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level and node.module is None:
                found |= {"." * node.level + alias.name for alias in node.names}
            else:
                found.add("." * node.level + (node.module or ""))
    return found


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in ROS_FILES and not p.name.endswith("_node.py")], ids=name)
def test_core_imports_no_ros(path):
    assert not {module.split(".")[0] for module in imports(path)} & ROS


@pytest.mark.parametrize("path", FILES, ids=name)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    assert not {module.split(".")[0] for module in imports(path, top_level_only=True)} & HEAVY


@pytest.mark.parametrize("path", [PACKAGE / f"{module}.py" for module in sorted(RANK)], ids=name)
def test_imports_point_downwards(path):
    for module in imports(path, top_level_only=True):
        if module.startswith("."):
            target = module.lstrip(".").split(".")[0]
            assert RANK.get(target, len(LAYERS)) <= RANK[path.stem], f"{path.stem} imports {target}, which is above it"


def test_every_module_has_its_place():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(RANK) | FRONT_ENDS | {Path(file).stem for file in ROS_FILES - {"observer_node.py"}}


def test_the_core_never_imports_the_evaluator():
    assert not [p for p in PACKAGE.rglob("*.py") if any(m.split(".")[0] == "eval3d" for m in imports(p))]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_names_its_licence(path):
    assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_library_code_neither_prints_nor_exits_nor_swallows(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except in line {node.lineno}"


def test_no_pickle_hub_or_remote_code():
    forbidden = ("torch." + "hub", "trust_" + "remote_code", "weights_only=" + "False", "import " + "pickle")
    hits = [(name(p), word) for p in FILES for word in forbidden if word in p.read_text()]
    assert not hits


@pytest.mark.parametrize(
    "module", ["radseg_ros.query_client", "radseg_ros.player", "radseg_ros.text_cli", "radseg_ros.segment_cli", "eval3d"]
)
def test_help_is_quick_because_nothing_heavy_is_imported(module):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'open3d', 'rclpy', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout and "HEAVY []" in done.stdout
