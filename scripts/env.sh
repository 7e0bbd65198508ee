# SPDX-License-Identifier: Apache-2.0
# Source me: puts the project's environment (made by scripts/setup.sh) on the paths. Works from any folder.
_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_install="$_root/.ros/install"
# colcon's own set-up files are made for a ROS underneath; these four lines do the same with or without one.
# shellcheck disable=SC1091
source "$_root/.venv/bin/activate"
_python="python$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [ -z "${ROS_DISTRO:-}" ]; then
    export AMENT_PREFIX_PATH="$_install:$VIRTUAL_ENV" LD_LIBRARY_PATH="$_install/lib:$VIRTUAL_ENV/lib:${LD_LIBRARY_PATH:-}"
else
    export AMENT_PREFIX_PATH="$_install:${AMENT_PREFIX_PATH:-}" LD_LIBRARY_PATH="$_install/lib:${LD_LIBRARY_PATH:-}"
fi
for _folder in "lib/$_python/site-packages" "local/lib/$_python/dist-packages" "lib/$_python/dist-packages"; do
    if [ -d "$_install/$_folder" ]; then PYTHONPATH="$_install/$_folder:${PYTHONPATH:-}"; fi
done
export PYTHONPATH="$_root:${PYTHONPATH:-}"
unset _root _install _python _folder
