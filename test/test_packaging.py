# SPDX-License-Identifier: Apache-2.0
"""What surrounds the code tells the truth: versions, dependencies, paths."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_architecture import ROS, imports, roots
from waiting import PATIENCE

ROOT = Path(__file__).parent.parent
PACKAGES = ("radseg_ros", "eval3d")
EXTRAS = ("lite", "recordings", "demo", "eval", "cluster", "view", "onnx", "rectify")  # of users
BROUGHT = {"tokenizers", "tornado"}  # by transformers, by distributed
PLUGINS = {"pytest-timeout", "pytest-xdist"}  # of pytest, which finds them by itself
WITH_RCLPY = {"builtin_interfaces", "rcl_interfaces"}
NOT_ON_PYPI = {"launch", "launch_ros", "radseg_interfaces", "tf2_msgs"}


@pytest.fixture
def setup(monkeypatch) -> dict[str, Any]:
    """What setup.py tells pip and colcon."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return told


def manifest(folder: str = "") -> ElementTree.Element:
    """The package.xml of a folder."""
    return ElementTree.parse(ROOT / folder / "package.xml").getroot()


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(*folders: str) -> set[str]:
    """First names of everything that the Python files of some folders import."""
    return roots(set().union(*(imports(path) for path in sources(*folders))))


def modules_in(distribution: str) -> set[str]:
    """First names of what an installed distribution can be imported by."""
    found = importlib.metadata.distribution(distribution)
    if declared := found.read_text("top_level.txt"):
        return {*declared.split()}
    sources = [path for path in found.files or () if path.suffix in (".py", ".so")]
    return {path.parts[0].split(".")[0] for path in sources}


def modules_of(requirements: list[str]) -> dict[str, set[str]]:
    """Distribution -> names that it is imported by, of those that this machine needs."""
    wanted = [Requirement(text) for text in requirements]
    names = {canonicalize_name(r.name) for r in wanted if not r.marker or r.marker.evaluate()}
    modules, absent = {}, []
    for name in sorted(names):
        try:
            modules[name] = modules_in(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        pytest.skip(f"cannot tell how to import what is not installed: {', '.join(absent)}")
    return modules


def user_requirements(setup: dict[str, Any]) -> list[str]:
    extras = [text for extra in EXTRAS for text in setup["extras_require"][extra]]
    return [*setup["install_requires"], *extras]


def test_there_is_one_version(setup):
    version = manifest().findtext("version")
    assert setup["version"] == version
    assert manifest("radseg_interfaces").findtext("version") == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    released = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == version


def test_every_path_that_setup_names_exists(setup):
    for package, patterns in setup["package_data"].items():
        for pattern in patterns:
            assert list((ROOT / package.replace(".", "/")).glob(pattern)), f"{package}: {pattern}"
    for target, files in setup["data_files"]:
        assert files and all((ROOT / file).is_file() for file in files), target
    for script in setup["entry_points"]["console_scripts"]:
        module = script.split("=")[1].split(":")[0].strip()
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), script


def test_every_folder_of_code_is_installed(setup):
    folders = {path.parent.relative_to(ROOT) for path in sources(*PACKAGES)}
    assert {".".join(folder.parts) for folder in folders} == {*setup["packages"]}


@pytest.mark.slow
def test_nothing_is_required_in_vain(setup):
    code, names = "".join(path.read_text() for path in sources(*PACKAGES)), imported(*PACKAGES)
    for distribution, modules in modules_of(user_requirements(setup)).items():
        reads_files_of_it = any(f'"{module}/' in code for module in modules)
        assert modules & names or reads_files_of_it, f"nothing imports {distribution}"
    for distribution, modules in modules_of(setup["extras_require"]["test"]).items():
        used = modules & imported("test", "examples")  # tests run the examples
        assert used or distribution in PLUGINS, distribution
    for distribution, modules in modules_of(setup["extras_require"]["agent"]).items():
        assert modules & imported("examples"), distribution


def test_nothing_is_imported_that_is_not_required(setup):
    required = set().union(*modules_of(user_requirements(setup)).values())
    foreign = imported(*PACKAGES) - sys.stdlib_module_names - {*PACKAGES} - ROS - BROUGHT
    assert foreign <= required


def test_ros_packages_are_declared_where_ros_and_pip_look(setup):
    used = imported("radseg_ros", "launch") & ROS
    tags = [*manifest().iter("depend"), *manifest().iter("exec_depend")]
    declared = {tag.text for tag in tags if not tag.text.startswith("python3-")}
    assert declared == used | {"ros2launch"}
    wheels = {f"ros-{name.replace('_', '-')}" for name in used - WITH_RCLPY - NOT_ON_PYPI}
    assert {*setup["extras_require"]["ros"]} == wheels | {"ros-rmw-fastrtps-cpp"}


def test_types_are_told_to_those_who_import():
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


def test_importing_changes_no_environment_variable():
    imports = f"import {', '.join(PACKAGES)}"
    code = f"import os; before = dict(os.environ); {imports}; assert os.environ == before"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
