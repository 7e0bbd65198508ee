#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes everything that `make demo` and `make test` need, inside the repository: .venv (Python packages) and .ros (the built
# interface package). A ROS 2 that is already sourced is used; without one, ROS 2 comes from pip. A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.ros/stamp
want=$({
    cat setup.py package.xml scripts/setup.sh scripts/constraints.txt radseg_interfaces/{package.xml,CMakeLists.txt,msg/*,srv/*}
    sed -n '/^\[dependency-groups\]/,/^\[tool/p' pyproject.toml # the settings of the tools change nothing here
} | sha256sum | cut -d' ' -f1)-${ROS_DISTRO:-wheels}-$PWD
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
fail() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }
quietly() { # run a command, show its output only when it fails
    local log=.ros/setup.log
    "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2; fail "'$*' failed; the whole log is in $log"; }
}
mkdir -p .ros

system_packages() {
    # Open3D's wheel needs these shared libraries; the compiler builds the interface package.
    local missing=() library
    for library in libusb-1.0.so.0:libusb-1.0-0 libGL.so.1:libgl1 libgomp.so.1:libgomp1 libX11.so.6:libx11-6; do
        ldconfig -p | grep -q "${library%%:*}" || missing+=("${library##*:}")
    done
    command -v g++ >/dev/null || missing+=(g++)
    [ ${#missing[@]} -eq 0 ] && return
    local apt=(apt-get)
    [ "$(id -u)" -eq 0 ] || apt=(sudo -n apt-get)
    if command -v apt-get >/dev/null && "${apt[@]}" --version >/dev/null 2>&1; then
        say "installing system packages: ${missing[*]}"
        quietly "${apt[@]}" update
        quietly env DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
    else
        fail "please install these system packages first: ${missing[*]}"
    fi
}

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || fail "Python 3.10 or later is needed; set PYTHON=/path/to/python3"
system_packages

if [ -n "${ROS_DISTRO:-}" ]; then
    "$python" -c 'import rclpy' 2>/dev/null || fail "ROS_DISTRO is '$ROS_DISTRO' but $python cannot import rclpy; source its setup.bash, or unset ROS_DISTRO"
    command -v colcon >/dev/null || fail "ROS 2 $ROS_DISTRO is sourced but colcon is missing: apt install python3-colcon-common-extensions"
    say "using ROS 2 $ROS_DISTRO"
    # The messages of an installed ROS are compiled against its NumPy, and crash with another major version.
    numpy=$("$python" -c 'import numpy; print("numpy<%d" % (int(numpy.__version__.split(".")[0]) + 1))')
    venv_options=(--system-site-packages) packages=(-e ".[lite,demo,eval,cluster,view,onnx,rectify,agent,test]" --group dev "$numpy")
else
    say "no ROS 2 is sourced: taking ROS 2 from pip"
    "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || fail "ROS 2 wheels exist for Python 3.10 to 3.13; set PYTHON=/path/to/python3"
    venv_options=() packages=(-e ".[lite,demo,eval,cluster,view,onnx,rectify,agent,test,ros]" --group dev --group ros-build)
fi

[ -x .venv/bin/python ] || quietly "$python" -m venv "${venv_options[@]}" .venv
# shellcheck disable=SC1091
source .venv/bin/activate
say "installing Python packages into .venv (the first time this takes minutes)"
quietly python -m pip install --upgrade pip wheel "setuptools<80" # colcon's ament_python build still calls setup.py
quietly python -m pip install -c scripts/constraints.txt "${packages[@]}"

if [ -z "${ROS_DISTRO:-}" ]; then
    # The wheels' CMake files name the machine that they were built on.
    python - <<'PYTHON'
import pathlib, re, sys, sysconfig
import numpy
include, numpy_include = sysconfig.get_paths()["include"], numpy.get_include()
for path in pathlib.Path(sys.prefix, "share").rglob("*.cmake"):
    text = path.read_text()
    new = re.sub(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/_core/include", numpy_include, text)
    new = re.sub(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+", include, new)
    if new != text:
        path.write_text(new)
PYTHON
    export AMENT_PREFIX_PATH=$VIRTUAL_ENV CMAKE_PREFIX_PATH=$VIRTUAL_ENV
    colcon=(env ROS_VERSION=2 ROS_DISTRO=kilted ROS_PYTHON_VERSION=3 colcon)
else
    colcon=(colcon)
fi
interfaces=(radseg_interfaces)
rm -rf .ros/build .ros/install .ros/src # CMake caches absolute paths
if ! python -c 'import tf2_msgs' 2>/dev/null; then # the wheels leave it out; the node needs one message of it
    mkdir -p .ros/src/tf2_msgs/msg
    echo 'geometry_msgs/TransformStamped[] transforms' >.ros/src/tf2_msgs/msg/TFMessage.msg
    cat >.ros/src/tf2_msgs/package.xml <<'XML'
<package format="3">
  <name>tf2_msgs</name>
  <version>0.0.0</version>
  <description>The message of /tf, for a ROS 2 without tf2_msgs.</description>
  <maintainer email="radseg-ros@users.noreply.github.com">radseg_ros maintainers</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>geometry_msgs</depend>
  <exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
XML
    cat >.ros/src/tf2_msgs/CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(tf2_msgs)
find_package(ament_cmake REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${PROJECT_NAME} msg/TFMessage.msg DEPENDENCIES geometry_msgs)
ament_export_dependencies(rosidl_default_runtime)
ament_package()
CMAKE
    interfaces+=(.ros/src/tf2_msgs)
fi
say "building $(basename -a "${interfaces[@]}" | paste -sd' ')"
quietly "${colcon[@]}" --log-base .ros/log build --merge-install --base-paths "${interfaces[@]}" \
    --build-base .ros/build --install-base .ros/install \
    --cmake-args -DPython3_EXECUTABLE="$(command -v python)" -DBUILD_TESTING=OFF
echo "$want" >"$stamp"
say "ready"
