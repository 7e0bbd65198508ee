# SPDX-License-Identifier: Apache-2.0
"""The command, end to end: every layout, every subcommand, repeated and parallel runs."""

from __future__ import annotations

import csv
import json

import eval3d_world as world
import numpy as np
import pytest
from color_encoder import ColorEncoder
from conftest import golden_file

from eval3d.cli import FLAGS, main
from eval3d.datasets import DATASETS
from eval3d.options import EvalConfig, with_options
from radseg_ros.config import Config, options_of, parse_assignments, parse_value
from radseg_ros.datatypes import ConfigError

FAST = ["--voxel-size", "0.1", "--set", "short_side=0", "--no-pictures"]
METRIC_FILES = ("metrics.json", "classes.csv", "confusion.csv", "labels.npz")


@pytest.fixture(autouse=True)
def color_encoder(monkeypatch):
    """``--encoder colors``: knows the names of the room's walls by their colours."""
    from eval3d import run
    from radseg_ros.encoders import protocol as encoder

    monkeypatch.setitem(encoder.ENCODERS, "colors", lambda options: ColorEncoder())
    run._cached_encoder.cache_clear()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return world.write_folder(tmp_path_factory.mktemp("world") / "room")


def metrics_of(out, scene):
    return json.loads((out / scene / "metrics.json").read_text())


def evaluate(capsys, *arguments):
    """Run the command; its output, which must be the summary."""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


LAYOUTS = {
    "replica": (world.write_replica, "office0", 11, 6),
    "scannetpp": (world.write_scannetpp, "00777c41d4", 1, 6),
    "scannetpp-colmap": (
        lambda root: world.write_scannetpp(root, layout="colmap"),
        "00777c41d4",
        1,
        6,
    ),
    "folder": (world.write_folder, "room", 1, 6),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_end_to_end(tmp_path, capsys, layout):
    write, scene, first_id, frames = LAYOUTS[layout]
    root = write(tmp_path / "room")
    classes = world.write_classes(tmp_path / "six.tsv", first_id)
    arguments = [
        "run",
        "--dataset",
        layout.split("-")[0],
        "--root",
        root,
        "--scenes",
        scene,
        "--frame-skip",
        0,
    ]
    text = evaluate(
        capsys,
        *arguments,
        "--encoder",
        "colors",
        "--classes",
        classes,
        "--out",
        tmp_path / "out",
        *FAST,
    )
    found = metrics_of(tmp_path / "out", scene)
    assert scene in text and f"{100 * found['miou']:.2f}" in text
    assert found["frames"]["used"] == frames and found["frames"]["dropped"] == {}
    seen = (
        {"red", "green", "blue", "yellow", "cyan"}
        if layout == "folder"
        else {"red", "green", "blue", "yellow"}
    )
    assert {row["name"] for row in found["classes"]} == {f"{name} wall" for name in seen}, (
        "cyan is unknown to the external truth"
    )
    assert (
        found["miou"] > 0.75
        and found["ceiling"]["miou"] >= found["miou"]
        and found["coverage"] > 0.99
    )
    assert (
        0 < found["scored_voxels"] <= found["gt_voxels"]
        and found["map_voxels"] > 1000
        and found["map_bytes"] > 0
    )


def test_scannet_end_to_end(tmp_path, capsys):
    root = world.write_scannet(tmp_path / "scannet")
    arguments = [
        "run",
        "--dataset",
        "scannet",
        "--root",
        root,
        "--scenes",
        "scene0011_00",
        "--frame-skip",
        0,
        "--encoder",
        "oracle",
    ]
    evaluate(capsys, *arguments, "--out", tmp_path / "out", *FAST)
    found = metrics_of(tmp_path / "out", "scene0011_00")
    assert found["frames"]["used"] == 5 and found["frames"]["dropped"] == {"pose not finite": 1}
    assert {row["name"] for row in found["classes"]} == {
        "wall",
        "floor",
        "cabinet",
        "chair",
        "window",
    }, "otherprop is ignored"
    assert found["miou"] >= 0.97 * found["ceiling"]["miou"]


@pytest.mark.slow
def test_semantic_nerf_end_to_end(tmp_path, capsys):
    root = world.write_semantic_nerf(tmp_path / "nerf")
    arguments = [
        "run",
        "--dataset",
        "replica",
        "--root",
        root,
        "--scenes",
        "office0",
        "--frame-skip",
        0,
        "--encoder",
        "oracle",
    ]
    evaluate(capsys, *arguments, "--out", tmp_path / "out", *FAST, "--set", "oracle.patch=5")
    found = metrics_of(tmp_path / "out", "office0")
    assert (
        found["ground_truth"].startswith("lifted")
        and found["miou"] >= 0.97 * found["ceiling"]["miou"]
    )


@pytest.mark.slow
def test_a_bag_end_to_end_equals_the_folder_of_the_same_frames(tmp_path, capsys, recording):
    bag = world.write_bag(tmp_path / "room")
    xyz, labels = world.points()
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
    common = [
        "--encoder",
        "colors",
        "--classes",
        world.write_classes(tmp_path / "six.tsv"),
        "--gt",
        tmp_path / "gt.npz",
        *FAST,
    ]
    evaluate(capsys, "bag", bag, *common, "--out", tmp_path / "bag")
    found = metrics_of(tmp_path / "bag", "room")
    assert found["frames"]["used"] == 5 and sum(found["frames"]["dropped"].values()) == 1
    assert "depth" in next(iter(found["frames"]["dropped"]))
    world.write_folder(tmp_path / "folder" / "room")
    for part in ("color", "depth", "pose", "label"):
        next((tmp_path / "folder" / "room" / part).glob("000002.*")).unlink()
    evaluate(
        capsys, "run", "--root", tmp_path / "folder" / "room", *common, "--out", tmp_path / "same"
    )
    same = metrics_of(tmp_path / "same", "room")
    for key in ("miou", "fmiou", "acc", "map_voxels", "scored_voxels", "classes"):
        assert found[key] == same[key], key


def oracle(recording, out, *more):
    return ["run", "--root", recording, "--encoder", "oracle", "--out", out, *FAST, *more]


def test_a_repeated_command_writes_the_same_bytes(tmp_path, capsys, recording):
    for out in ("a", "b"):
        evaluate(capsys, *oracle(recording, tmp_path / out, "--set", "oracle.noise=2"))
    for name in METRIC_FILES:
        assert (tmp_path / "a" / "room" / name).read_bytes() == (
            tmp_path / "b" / "room" / name
        ).read_bytes(), name
    evaluate(capsys, *oracle(recording, tmp_path / "c", "--set", "oracle.noise=2", "--seed", 1))
    assert (
        metrics_of(tmp_path / "c", "room")["provenance"]["map_sha256"]
        != metrics_of(tmp_path / "a", "room")["provenance"]["map_sha256"]
    )


def test_every_result_says_where_it_comes_from(tmp_path, capsys, recording):
    evaluate(capsys, *oracle(recording, tmp_path))
    source = metrics_of(tmp_path, "room")["provenance"]
    assert (
        source["config"]["mapper"]["map"]["voxel_size"] == 0.1
        and source["config"]["k"] == 5
        and source["seed"] == 0
    )
    assert {"python", "numpy", "torch", "scipy"} <= source["versions"].keys() and source["git"]
    for key in ("inputs_sha256", "ground_truth_sha256", "map_sha256"):
        assert len(source[key]) == 64
    for name in ("classes.csv", "confusion.csv"):
        first, *rows = (tmp_path / "room" / name).read_text().splitlines()
        assert (
            json.loads(first.removeprefix("# ")) == source and len(list(csv.DictReader(rows))) >= 5
        )
    with np.load(tmp_path / "room" / "labels.npz") as data:
        assert json.loads(str(data["provenance"])) == source
    seconds = json.loads((tmp_path / "room" / "timings.json").read_text())["seconds"]
    assert {"mapper: encode", "mapper: fuse", "predict", "score", "total"} <= seconds.keys()


def test_a_finished_scene_is_not_computed_again_unless_something_changed(
    tmp_path, capsys, recording, monkeypatch
):
    from eval3d import run

    built = []
    original = run.build_map
    monkeypatch.setattr(run, "build_map", lambda *a: built.append(1) or original(*a))
    evaluate(capsys, *oracle(recording, tmp_path))
    evaluate(capsys, *oracle(recording, tmp_path))
    assert len(built) == 1
    evaluate(capsys, *oracle(recording, tmp_path, "--k", 1))
    assert len(built) == 2
    # as a crash would leave it, were it not written whole
    (tmp_path / "room" / "metrics.json").write_text("{")
    evaluate(capsys, *oracle(recording, tmp_path, "--k", 1))
    assert len(built) == 3


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.4, 0.6])
def test_a_map_without_any_class_is_told(tmp_path, recording, caplog, threshold):
    (tmp_path / "classes.txt").write_text("red wall\nred door\n")  # 0.5 each, everywhere
    asked = ["run", "--root", recording, "--classes", tmp_path / "classes.txt", "--limit", 1]
    asked += ["--encoder", "colors", "--set", f"denoise_threshold={threshold}", "--no-pictures"]
    assert main([*map(str, asked), "--voxel-size", "0.2", "--out", str(tmp_path / "out")]) == 0
    assert ("room: no voxel has a class" in caplog.text) == (threshold > 0.5)


@pytest.mark.parametrize("command", ["run", "ask"])
def test_names_that_cannot_be_asked_for_are_told_before_anything_is_mapped(
    tmp_path, capsys, recording, monkeypatch, command
):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"present": ["red wall", "zebra"], "absent": []}))
    (tmp_path / "classes.txt").write_text("red wall\nzebra\n")
    for module in ("run", "asking.recording"):
        monkeypatch.setattr(f"eval3d.{module}.build_map", None)
    given = {
        "run": ["run", "--root", recording, "--classes", tmp_path / "classes.txt"],
        "ask": ["ask", recording, "--labels", labels],
    }
    asked = [*map(str, given[command]), "--encoder", "colors", "--out", str(tmp_path / "out")]
    assert main(asked)  # 1: a scene failed; 2: refused
    assert "'zebra'" in capsys.readouterr().err


def two_scenes(tmp_path):
    root = tmp_path / "recordings"
    for i, name in enumerate(("one", "two")):
        world.write_folder(root / name, 3 + i)
    return [
        "run",
        "--root",
        root,
        "--scenes",
        "one,two",
        "--encoder",
        "oracle",
        "--set",
        "oracle.noise=3",
        *FAST,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "execution", [["--jobs", 2], ["--cluster", "local:2"]], ids=["jobs", "cluster"]
)
def test_scenes_side_by_side_give_the_same_bytes(tmp_path, capsys, monkeypatch, execution):
    # a commit during the test must not make a difference
    monkeypatch.setenv("EVAL3D_REVISION", "under test")
    if "--cluster" in execution:
        pytest.importorskip(
            "distributed", reason="the optional package distributed is not installed"
        )
    arguments = two_scenes(tmp_path)
    evaluate(capsys, *arguments, "--out", tmp_path / "serial")
    evaluate(capsys, *arguments, "--out", tmp_path / "parallel", *execution)
    for scene in ("one", "two"):
        for name in METRIC_FILES:
            assert (tmp_path / "serial" / scene / name).read_bytes() == (
                tmp_path / "parallel" / scene / name
            ).read_bytes()


def test_a_scene_that_fails_does_not_stop_the_others(tmp_path, capsys):
    arguments = two_scenes(tmp_path)
    (tmp_path / "recordings" / "one" / "intrinsics.txt").unlink()
    assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "one: " in captured.err and "intrinsics.txt" in captured.err
    assert metrics_of(tmp_path / "out", "two")["miou"] > 0 and "two" in captured.out


@pytest.mark.slow
def test_hovsg_and_options_of_scoring(tmp_path, capsys, recording):
    evaluate(capsys, *oracle(recording, tmp_path / "r", "--ignore", "red wall"))
    names = {row["name"] for row in metrics_of(tmp_path / "r", "room")["classes"]}
    assert "red wall" not in names and len(names) == 4
    meta = tmp_path / "names.tsv"
    meta.write_text("1\tred wall\n" + "".join(f"{i}\tthing {i}\n" for i in range(2, 7)))
    evaluate(capsys, *oracle(recording, tmp_path / "h", "--protocol", "hovsg", "--classes", meta))
    found = metrics_of(tmp_path / "h", "room")
    assert "red wall" not in {row["name"] for row in found["classes"]}, (
        "hovsg leaves out what is called a wall"
    )
    assert found["ground_truth"].endswith("(majority)")
    evaluate(capsys, *oracle(recording, tmp_path / "k", "--k", 0))
    assert metrics_of(tmp_path / "k", "room")["miou"] > 0.97


@pytest.mark.parametrize("space", ["language", "probability"])
def test_other_spaces(tmp_path, capsys, recording, space):
    evaluate(capsys, *oracle(recording, tmp_path, "--space", space))
    found = metrics_of(tmp_path, "room")
    assert found["miou"] >= 0.97 * found["ceiling"]["miou"]
    assert found["provenance"]["config"]["mapper"]["map"]["space"] == space


@pytest.mark.slow
def test_noise_makes_it_worse_and_the_sweep_shows_it(tmp_path, capsys, recording, monkeypatch):
    monkeypatch.setattr("eval3d.report.pictures.draw_scene", lambda *_: [])  # tested below
    run = ["--root", recording, "--encoder", "oracle", "--limit", 3]
    run += ["--set", "short_side=0", "--voxel-size", "0.05"]
    axes = ["--axis", "oracle.noise=0,8,64", "--axis", "oracle.patch=1"]
    text = evaluate(capsys, "sweep", *run, *axes, "--out", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())["runs"]
    scores = {row["oracle.noise"]: row["miou"] for row in summary}
    assert scores[0.0] > scores[8.0] > scores[64.0] and scores[0.0] >= 0.97 * summary[0]["ceiling"]
    assert "oracle.noise" in text
    assert (tmp_path / "plots" / "oracle.noise.png").stat().st_size > 5000
    assert_everything_is_inside(tmp_path / "report.html", 1)


def assert_everything_is_inside(page, pictures):
    text = page.read_text()
    assert text.count("data:image/png;base64,") >= pictures and "http" not in text


@pytest.mark.slow
def test_pictures_show_what_they_should(tmp_path, capsys, recording):
    from PIL import Image

    arguments = [str(a) for a in oracle(recording, tmp_path, "--limit", 2) if a != "--no-pictures"]
    evaluate(capsys, *arguments)
    pictures = tmp_path / "room" / "pictures"
    sizes = {path.stem: Image.open(path).size for path in pictures.glob("*.png")}
    assert sizes.keys() == {"labels", "errors", "classes", "confusion"}
    assert sizes["labels"][0] > 1500
    rgb = np.asarray(Image.open(pictures / "labels.png").convert("RGB"))
    assert len(np.unique(rgb.reshape(-1, 3), axis=0)) > 50
    assert not main(["report", str(tmp_path), "--out", str(tmp_path / "again")])
    for folder in (tmp_path, tmp_path / "again"):
        assert_everything_is_inside(folder / "report.html", len(sizes))
    assert (tmp_path / "again" / "report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_score_a_saved_map_and_arrays(tmp_path, capsys, recording):
    evaluate(capsys, *oracle(recording, tmp_path / "run", "--save-map", "--gt", "lifted"))
    found = metrics_of(tmp_path / "run", "room")
    with np.load(tmp_path / "run" / "room" / "labels.npz") as data:
        gt_xyz, gt, map_xyz, map_label = (
            data["gt_index"] * 0.1,
            data["gt_label"],
            data["map_xyz"],
            data["map_label"],
        )
    np.savez(tmp_path / "gt.npz", xyz=gt_xyz, labels=gt)
    np.savez(tmp_path / "elsewhere.npz", xyz=map_xyz, labels=map_label)
    classes = [
        "--classes",
        recording / "meta.json",
        "--gt",
        tmp_path / "gt.npz",
        "--voxel-size",
        "0.1",
        "--no-pictures",
    ]
    evaluate(capsys, "score", tmp_path / "elsewhere.npz", *classes, "--out", tmp_path / "arrays")
    assert metrics_of(tmp_path / "arrays", "elsewhere")["classes"] == found["classes"]
    radmap = tmp_path / "run" / "room" / "map.radmap"
    evaluate(capsys, "score", radmap, "--encoder", "oracle", *classes, "--out", tmp_path / "map")
    assert metrics_of(tmp_path / "map", "map")["classes"] == found["classes"]
    for other in ([], ["--encoder", "colors"]):  # by default radseg, whose weights nobody looks for
        command = ["score", radmap, *other, *classes, "--out", tmp_path / "x"]
        assert main([str(word) for word in command]) == 2
        told = capsys.readouterr().err
        assert "was made with the encoder oracle" in told and "(--encoder oracle)" in told


REFUSED = {
    "unknown option": (["--set", "map.voxel_sise=1"], "did you mean map.voxel_size"),
    "wrong type": (["--k", "many"], "k takes int"),
    "unknown encoder": (["--encoder", "radsegg"], "radseg"),
    "unknown protocol": (["--set", "protocol=hovsgg"], "did you mean 'hovsg'?"),
    "unknown data set": (["--set", "dataset=replika"], "did you mean 'replica'?"),
    "no such class": (["--ignore", "unicorn"], "unicorn"),
    "no ground truth file": (["--gt", "{root}/none.npz"], "none.npz"),
    "no value": (["--set", "k"], "OPTION=VALUE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, capsys, recording, case):
    more, reason = REFUSED[case]
    assert main([str(a) for a in oracle(recording, tmp_path, *more)]) in (1, 2)
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and "Traceback" not in error


def test_options_are_found_by_their_short_names():
    config = with_options(
        EvalConfig(),
        parse_assignments(
            EvalConfig,
            ["radseg.tau_scra=5", "map.voxel_size=0.1", "ignore=a b,c", "lift.clip_min=[0,0,1]"],
        ),
    )
    assert (
        config.mapper.radseg.tau_scra == 5.0
        and config.mapper.map.voxel_size == 0.1
        and config.ignore == ["a b", "c"]
    )
    assert config.mapper.lift.clip_min == [0, 0, 1] and EvalConfig().mapper == Config()
    assert (
        parse_value("1e-3") == 0.001
        and parse_value("true") is True
        and parse_value("5", str) == "5"
    )
    with pytest.raises(ConfigError, match="unknown option nothing.at.all"):
        with_options(EvalConfig(), {"nothing.at.all": 1})


def test_flags_are_options_and_have_their_choices(capsys):
    options = options_of(EvalConfig)
    assert set(FLAGS.values()) <= options.keys()
    for flag, name in FLAGS.items():
        if options[name].choices:
            with pytest.raises(SystemExit):
                main(["run", "--root", ".", "--out", ".", f"--{flag}", "something else"])
            assert options[name].choices[-1] in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--root", ".", "--out", ".", "--dataset", "replika"])
    error = capsys.readouterr().err
    assert all(name in error for name in DATASETS)


def test_options_command_lists_every_option(capsys):
    text = evaluate(capsys, "options")
    assert (
        "\nmap.voxel_size = 0.05\n" in text
        and "\noracle.noise = 0.0\n" in text
        and "protocol = 'radseg'" in text
    )


@pytest.mark.slow
@pytest.mark.parametrize("space", ["backbone", "probability"])
def test_radseg_end_to_end_with_stored_text_embeddings(tmp_path, capsys, recording, space):
    from radseg_ros.language.cache import LABEL, save_embeddings

    checkpoint = golden_file("tiny_radio.pth.tar")
    vectors = np.random.default_rng(0).normal(size=(len(world.FACES), 48)).astype(np.float32)
    texts = {
        (LABEL, f"{name} wall"): vector for name, vector in zip(world.FACES, vectors, strict=True)
    }
    save_embeddings(tmp_path / "text.npz", "tiny", texts)
    options = [
        "radseg.crop=96",
        "radseg.stride=48",
        "short_side=96",
        "radseg.text_tower=tiny",
        "radseg.offline=true",
    ]
    options += [
        f"radseg.text_embeddings={tmp_path / 'text.npz'}",
        "denoise_threshold=0",
        "prediction_threshold=0",
    ]
    arguments = [
        "run",
        "--root",
        recording,
        "--checkpoint",
        checkpoint,
        "--space",
        space,
        "--limit",
        2,
        "--no-pictures",
    ]
    evaluate(
        capsys,
        *arguments,
        *(word for option in options for word in ("--set", option)),
        "--out",
        tmp_path / "out",
    )
    found = metrics_of(tmp_path / "out", "room")
    assert (
        found["provenance"]["encoder"].startswith("radseg-")
        and found["provenance"]["checkpoint_hash"]
    )
    assert found["map_voxels_without_prediction"] == 0 or space == "probability"
    assert 0 < found["acc"] < 1 and found["coverage"] > 0.9
