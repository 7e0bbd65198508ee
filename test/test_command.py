# SPDX-License-Identifier: Apache-2.0
"""What a command does with whatever goes wrong: one line, a status, no trace."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from conftest import require_ros
from recordings import write_folder
from waiting import PATIENCE

from radseg_ros.command import LONGEST, one_line, run_command, sentence
from radseg_ros.datatypes import CheckpointError, InputError
from radseg_ros.device import MOST_KEPT


def raising(error):
    def work() -> int:
        raise error

    return work


def absent(module: str) -> ImportError:
    return ModuleNotFoundError(f"No module named '{module}'", name=module)


ERRORS = {
    "ours": (InputError("a sentence"), "a sentence"),
    "ours, of two lines": (CheckpointError("a\nb\x1b[31m"), "a b"),
    "ours, without end": (InputError("x" * 10_000), "x" * 100),
    "a file": (FileNotFoundError(2, "No such file or directory", "f.npz"), "f.npz: No such file"),
    "a full disk": (OSError(28, "No space left on device"), "No space left on device"),
    "memory": (MemoryError(), "out of memory"),
    "the allocator": (RuntimeError("[..] can't allocate memory: you tried"), "out of memory"),
    "messages that were not built": (absent("radseg_interfaces.msg"), "colcon build, and source"),
    "no ROS": (absent("rclpy"), "No module named 'rclpy': source /opt/ros/DISTRO/setup.bash"),
    "a name of other bytes": (InputError("\udcff.png"), "\\udcff.png"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_expected_to_go_wrong_is_one_line(capsys, case):
    error, told = ERRORS[case]
    assert run_command("tool", raising(error), refused=2) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tool: ") and told in captured.err and captured.out == ""
    assert captured.err.count("\n") == 1 and len(captured.err) < LONGEST + 20
    assert "\x1b" not in captured.err


def test_what_nobody_expects_is_not_hidden():
    for error in (KeyError("x"), RuntimeError("a bug"), AssertionError(), absent("torch")):
        with pytest.raises(type(error)):
            run_command("tool", raising(error))


def test_statuses(capsys):
    assert run_command("tool", lambda: 0) == 0 and run_command("tool", lambda: 7) == 7
    assert run_command("tool", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "tool: interrupted\n"


def test_sentences_are_the_same_in_every_run():
    found = {sentence(ValueError(f"in {object()!r}")) for _ in range(3)}
    assert found == {"ValueError: in <object object at 0x...>"}
    assert one_line("a\n\tb  c") == "a b c"


def run_print(value: str) -> list[str]:
    """A command that prints."""
    work = f"lambda: print({value}) or 0"
    program = f"from radseg_ros.command import run_command\nexit(run_command('tool', {work}))"
    return [sys.executable, "-c", program]


def test_output_that_nobody_reads_is_no_error():
    command = run_print("'x' * 1_000_000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(PATIENCE) == 1


def test_names_of_other_bytes_can_be_printed():
    done = subprocess.run(run_print("'\\udcff'"), capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, b"\\udcff\n")


COUNTED = """
import os, resource, sys
from radseg_ros.command import run_command

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    blocks = [bytearray(b"1") * (16 << 20) for _ in range(6)]

def work():
    use()
    before = faults()
    for _ in range(4):
        use()
    print(faults() - before, os.environ.get("MALLOC_TRIM_THRESHOLD_"))
    return 0

sys.exit(run_command("tool", work))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("own", [None, "4096"])
def test_memory_of_a_frame_is_kept_for_the_next_one(own):
    given = {} if own is None else {"MALLOC_TRIM_THRESHOLD_": own}
    others = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", COUNTED]
    done = subprocess.run(command, env=others | given, capture_output=True, text=True, timeout=60)
    faults, told = done.stdout.split()
    assert told == (own or str(MOST_KEPT)), "a user's own setting counts"
    pages = 4 * 6 * (16 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert own or int(faults) < pages // 50


PROGRAMS = {
    "radseg_mapping": ("radseg_ros.ros.mapper_node", []),
    "radseg-play": ("radseg_ros.ros.player", ["recording"]),
    "radseg-query": ("radseg_ros.cli.query", ["sofa"]),
    "radseg-view": ("radseg_ros.cli.view", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_says_what_to_do_without_the_messages(tmp_path, name):
    require_ros()
    module, arguments = PROGRAMS[name]
    write_folder(tmp_path / "recording", [0])
    code = (
        "import runpy, sys\n"
        "sys.modules['radseg_interfaces'] = None\n"  # importing it fails from now on
        f"sys.argv[1:] = {arguments}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{name}: ") and "colcon build, and source install/setup.bash" in last
