# SPDX-License-Identifier: Apache-2.0
"""The shape of the house, guarded: rooms and who may look into which (docs/architecture.md)."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "radseg_ros").rglob("*.py"), *(ROOT / "eval3d").rglob("*.py")])
ROS = {
    "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "geometry_msgs",
    "launch", "launch_ros", "message_filters", "nav_msgs", "radseg_interfaces", "rcl_interfaces",
    "rclpy", "sensor_msgs", "sensor_msgs_py", "std_msgs", "std_srvs", "tf2_msgs", "tf2_ros",
    "visualization_msgs",
}  # fmt: skip
HEAVY = {
    "cv2", "matplotlib", "onnxruntime", "onnxscript", "open3d", "sentence_transformers", "skimage",
    "sklearn", "transformers", "viser",
}  # fmt: skip
LONGEST_LINE, FULLEST_FOLDER = 100, 14

GROUND = {"datatypes", "config", "geometry", "files", "reading", "device", "hub", "command"}
CORE = {"worker", "watchdog", "spaces", "mapper", "live_map"}
ENCODER_PROTOCOL = "radseg_ros.encoders.protocol"
# room -> what it may import besides itself: rooms, or one module by its full name
BELOW = {"gpu", "frames", "encoders", "language", "segmentation", "voxels", "journal", "answers"}
RULES = {
    "ground": set(),
    "gpu": set(),
    "frames": {"ground"},
    "language": {"ground"},
    "voxels": {"ground", "gpu"},
    "journal": {"ground", "voxels"},
    "answers": {"ground"},
    "encoders": {"ground", "gpu", "language"},
    "segmentation": {"ground", ENCODER_PROTOCOL},
    "core": {"ground", *BELOW},
    "ros": {"ground", "core", *BELOW},
    "eval3d": {"ground", "core", *BELOW},
    "view": {"ground", "core", "ros", "eval3d", *BELOW},
    "cli": {"ground", "core", "ros", "eval3d", "view", *BELOW},
    "demo": {"ground", "core", "ros", "eval3d", "view", "cli", *BELOW},
    "package": {"ground"},  # radseg_ros/__init__.py names what it exports, and imports it on use
}
# folder inside a room -> what it may import besides itself
INNER = {"radseg_ros.frames.images": {"ground", "radseg_ros.frames.drops"}}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def roots(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements hold others


def statements(tree: ast.AST, top_level_only: bool) -> Iterator[ast.AST]:
    """All of a file, or without functions and what is under TYPE_CHECKING."""
    inside = isinstance(tree, ast.FunctionDef) or (
        isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test)
    )
    yield tree
    for block in BLOCKS if not (inside and top_level_only) else ():
        for statement in getattr(tree, block, ()):
            yield from statements(statement, top_level_only)


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names of what a file imports: inside functions and under TYPE_CHECKING as well."""
    package = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in statements(tree_of(path), top_level_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*up, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES else base for full in names}
    return found


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    return {
        module: {target for target in imports(path) if target in MODULES}
        for module, path in MODULES.items()
    }


def room_of(module: str) -> str:
    top, *rest = module.split(".")
    if top == "eval3d":
        return "eval3d"
    if not rest:
        return "package"
    if rest[0] in GROUND:
        return "ground"
    return "core" if rest[0] in CORE else rest[0]


ROOMS: dict[str, list[str]] = {}  # room -> its modules
for _module in MODULES:
    ROOMS.setdefault(room_of(_module), []).append(_module)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_its_rule_allows(room):
    allowed = {room, *RULES[room]}
    wrong = [
        f"{module} imports {target}"
        for module in ROOMS[room]
        for target in import_graph()[module]
        if room_of(target) not in allowed and target not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("folder", INNER)
def test_a_folder_in_a_room_imports_less_than_the_room(folder):
    allowed = INNER[folder]
    inside = {module for module in MODULES if f"{module}.".startswith(f"{folder}.")}
    assert len(inside) > 1
    wrong = [
        f"{module} imports {target}"
        for module in inside
        for target in import_graph()[module] - inside
        if room_of(target) not in allowed and target not in allowed
    ]
    assert not wrong


def test_no_import_leads_back():
    graphlib.TopologicalSorter(import_graph()).prepare()  # raises CycleError with the circle


def test_ros_is_imported_in_its_room_only():
    observer = ROOT / "radseg_ros" / "view" / "observer_node.py"
    free = {MODULES[module] for module in ROOMS["ros"]} | {observer}
    wrong = {name(path): ROS & roots(imports(path)) for path in FILES if path not in free}
    assert not {file: found for file, found in wrong.items() if found}


def test_heavy_libraries_are_imported_where_they_are_used():
    wrong = {name(path): HEAVY & roots(imports(path, top_level_only=True)) for path in FILES}
    assert not {file: found for file, found in wrong.items() if found}


def test_a_folder_can_be_taken_in_at_a_glance():
    sizes = {name(folder): len(list(folder.glob("*.py"))) for folder in {p.parent for p in FILES}}
    assert not {folder: size for folder, size in sizes.items() if size > FULLEST_FOLDER}


def test_lines_fit_beside_each_other():
    long = [
        f"{name(path)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    assert not long, f"lines over {LONGEST_LINE} columns"


def test_every_file_names_its_licence():
    folders = ("radseg_ros", "eval3d", "bench", "examples", "test", "scripts", "launch")
    files = [ROOT / "setup.py", *(path for f in folders for path in (ROOT / f).rglob("*.py"))]
    first = "# SPDX-License-Identifier: Apache-2.0\n"
    assert not [name(path) for path in files if not path.read_text().startswith(first)]


def test_no_error_is_swallowed():
    bare = [
        f"{name(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert not bare, "except without a type"


def test_no_pickle_hub_or_remote_code():
    forbidden = (
        "torch." + "hub",
        "trust_" + "remote_code",
        "weights_only=" + "False",
        "import " + "pickle",
    )
    hits = [(name(p), word) for p in FILES for word in forbidden if word in p.read_text()]
    assert not hits


@pytest.mark.parametrize(
    "module",
    [
        "radseg_ros.ros.query_client",
        "radseg_ros.ros.player",
        "radseg_ros.cli.text",
        "radseg_ros.cli.onnx",
        "radseg_ros.cli.segment",
        "radseg_ros.cli.map",
        "radseg_ros.cli.query",
        "radseg_ros.cli.view",
        "eval3d",
    ],
)
def test_help_is_quick_because_nothing_heavy_is_imported(module):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'open3d', 'rclpy', 'matplotlib'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout and "HEAVY []" in done.stdout
