# SPDX-License-Identifier: Apache-2.0
"""Maps that are asked by name: label files, ``run --retrieval``, ``ask`` and ``export``, end to end
on a room of known shape.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import eval3d_world as world
import numpy as np
import pytest
from damage import altered
from scipy.spatial import cKDTree
from test_eval3d_run import FAST, evaluate, metrics_of

from eval3d.asking.labels import Patch, read_label_file
from eval3d.asking.places import find_places, points_of
from eval3d.asking.recording import read_answers
from eval3d.cli import main
from eval3d.openlex3d import pcd
from eval3d.options import EvalConfig, with_options
from eval3d.run import run_scene
from eval3d.scoring.presence import Place
from radseg_ros.config import to_dict
from radseg_ros.datatypes import Frame, InputError

ROOT = Path(__file__).parent.parent
SEEN = {"red wall", "green wall", "blue wall", "yellow wall", "cyan wall"}  # no camera looks back
BY_COSINE = ["--set", "query.mode=cosine"]  # what the oracle does not know has at most 0.3


def write_instances(root: Path, split: bool = False) -> Path:
    """instance/ beside label/: each face is a thing; ``split``: of the red one each half is."""
    for i in range(world.FRAMES):
        T = world.pose_of(i)
        _, depth, label = world.render(T)
        v, u = np.mgrid[: world.SIZE[0], : world.SIZE[1]]
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(world.K).T
        z = (rays * depth[..., None] @ T[:3, :3].T + T[:3, 3])[..., 2]
        upper = split & (label == 1) & (z > 1.2)
        ids = (label + 20 + 100 * upper).astype(np.uint16)
        world.save(root / "instance" / f"{i:06d}.png", ids)
    return root


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_instances(world.write_folder(tmp_path_factory.mktemp("world") / "room"))


def label_file(path: Path, **content) -> Path:
    path.write_text(json.dumps(content))
    return path


def arguments(command, recording, out, *more):
    place = ["--root", recording] if command in ("run", "sweep") else [recording]
    return [command, *place, "--encoder", "oracle", "--out", out, *FAST, *BY_COSINE, *more]


# run


def test_every_class_is_asked_for_by_name(tmp_path, capsys, recording):
    labels = label_file(tmp_path / "labels.json", present=[], absent=["piano", "magenta wall"])
    text = evaluate(capsys, *arguments("run", recording, tmp_path / "out", "--labels", labels))
    found = metrics_of(tmp_path / "out", "room")
    presence, retrieval = found["presence"], found["retrieval"]
    assert {row["name"] for row in presence["answers"] if row["kind"] == "present"} == SEEN
    assert [r["name"] for r in presence["answers"] if r["kind"] == "absent"] == [
        "magenta wall",
        "piano",
    ]
    assert presence["mode"] == "cosine" and presence["false_finds"] == 0
    assert presence["auroc"] == presence["recall"] == presence["matthews"] == 1.0
    assert {row["name"] for row in retrieval["classes"]} == SEEN and retrieval["instances"] == 5
    assert retrieval["ap50"] == retrieval["ap25"] == 1.0 and retrieval["ap"] > 0.9
    assert 0.9 < retrieval["top1"] <= retrieval["top5"] <= 1.0
    assert retrieval["localisation"]["accuracy"] == 1.0
    assert "## Asked by name: what is found where" in text and "AUROC" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Asked by name" in page and "AP50" in page
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["asked"][0]["ap50"] == 1.0 and summary["asked"][0]["absent"] == 2
    assert (tmp_path / "out" / "room" / "retrieval.csv").read_text().count("\n") == 7


def test_things_that_are_found_as_one_cost_precision(tmp_path, capsys):
    room = write_instances(world.write_folder(tmp_path / "room"), split=True)
    evaluate(capsys, *arguments("run", room, tmp_path / "out", "--retrieval", "on"))
    rows = {
        row["name"]: row for row in metrics_of(tmp_path / "out", "room")["retrieval"]["classes"]
    }
    assert rows["red wall"]["instances"] == 2 and rows["red wall"]["objects"] == 1
    assert rows["red wall"]["ap"] <= 0.5 and rows["green wall"]["ap50"] == 1.0


@pytest.mark.slow
def test_what_fits_everything_is_found_everywhere(tmp_path, capsys, recording):
    labels = label_file(tmp_path / "labels.json", absent=["piano"])
    more = ["--labels", labels, "--set", "query.mode=relevancy"]
    evaluate(capsys, *arguments("run", recording, tmp_path / "out", *more))
    presence = metrics_of(tmp_path / "out", "room")["presence"]
    assert presence["false_finds"] >= 1 and presence["matthews"] < 1
    assert "room, found and not there: " in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.slow
def test_instances_of_labelled_points(tmp_path, capsys, recording):
    xyz, labels = world.points()
    things = np.where(labels == 4, 0, labels + 7)  # of the yellow one nothing is known
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels, instances=things)
    more = ["--retrieval", "on", "--gt", tmp_path / "gt.npz"]
    evaluate(capsys, *arguments("run", recording, tmp_path / "out", *more))
    found = metrics_of(tmp_path / "out", "room")["retrieval"]
    assert {row["name"] for row in found["classes"]} == SEEN - {"yellow wall"}
    assert found["ap50"] == 1.0 and found["top1"] > 0.9
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
    evaluate(capsys, *arguments("run", recording, tmp_path / "none", *more))
    assert "retrieval" not in metrics_of(tmp_path / "none", "room")


@pytest.mark.slow
def test_instances_of_scannet_and_images_that_cannot_be_used(tmp_path, capsys):
    root, scene = world.write_scannet(tmp_path / "scannet"), "scene0011_00"
    for i in range(world.FRAMES):
        _, _, label = world.render(world.pose_of(i))
        ids = np.kron(label.astype(np.uint8), np.ones((2, 2), np.uint8))
        world.save(root / scene / "instance-filt" / f"{i}.png", ids)
    (root / scene / "instance-filt" / "0.png").unlink()
    world.save(root / scene / "instance-filt" / "1.png", np.zeros((*world.SIZE, 3), np.uint8))
    words = ["--dataset", "scannet", "--scenes", scene, "--frame-skip", 0, "--retrieval", "on"]
    evaluate(capsys, *arguments("run", root, tmp_path / "out", *words))
    found = metrics_of(tmp_path / "out", scene)
    assert found["frames"]["notes"] == {"instance missing": 1, "instance in colours, not ids": 1}
    names = {row["name"]: row["instances"] for row in found["retrieval"]["classes"]}
    assert names == dict.fromkeys(("wall", "floor", "cabinet", "chair", "window"), 1)
    assert found["presence"]["absent"] > 20 and found["presence"]["recall"] == 1.0


@pytest.mark.slow
def test_questions_in_probability_space_and_their_limits(tmp_path, capsys, recording):
    more = ["--retrieval", "on", "--space", "probability", "--set", "query.threshold=0.5"]
    evaluate(capsys, *arguments("run", recording, tmp_path / "out", *more))
    found = metrics_of(tmp_path / "out", "room")["retrieval"]
    assert found["ap50"] == 1.0 and found["top1"] > 0.9
    labels = label_file(tmp_path / "labels.json", absent=["piano"])
    more += ["--labels", labels]
    assert main([*map(str, arguments("run", recording, tmp_path / "no", *more))]) == 1
    assert "'piano' is not among them" in capsys.readouterr().err
    more = ["--space", "probability", "--labels", room_labels(tmp_path / "labels.json")]
    evaluate(capsys, *arguments("ask", recording, tmp_path / "ask", *more))
    presence = read_answers(tmp_path / "ask" / "room")["presence"]
    assert presence["recall"] == 1.0 and presence["present"] == 4  # its names are the labels


@pytest.mark.slow
@pytest.mark.parametrize(
    "execution", [["--jobs", 2], ["--cluster", "local:2"]], ids=["jobs", "cluster"]
)
def test_side_by_side_and_again_gives_the_same_bytes(tmp_path, capsys, monkeypatch, execution):
    monkeypatch.setenv("EVAL3D_REVISION", "under test")
    if "--cluster" in execution:
        pytest.importorskip("distributed", reason="distributed is not installed")
    for scene in ("one", "two"):
        write_instances(world.write_folder(tmp_path / "rooms" / scene))
    labels = label_file(tmp_path / "labels.json", absent=["piano"])
    more = ["--scenes", "one,two", "--labels", labels, "--set", "oracle.noise=2"]
    more += ["--classes", tmp_path / "rooms" / "one" / "meta.json"]
    for out, how in (("serial", []), ("beside", execution), ("beside", [])):
        command = arguments("run", tmp_path / "rooms", tmp_path / out / "same", *more, *how)
        evaluate(capsys, *command)
    for scene in ("one", "two"):
        for name in ("metrics.json", "retrieval.csv"):
            serial, beside = (
                tmp_path / out / "same" / scene / name for out in ("serial", "beside")
            )
            assert serial.read_bytes() == beside.read_bytes()
    for name in ("summary.json", "asked.csv"):
        serial, beside = (tmp_path / out / "same" / name for out in ("serial", "beside"))
        assert serial.read_bytes() == beside.read_bytes()


def test_a_scene_is_asked_again_when_the_label_file_says_something_else(
    tmp_path, recording, monkeypatch
):
    labels = label_file(tmp_path / "labels.json", absent=["piano"])
    options = {"root": str(recording), "encoder": "oracle", "labels": str(labels), "limit": 1}
    fast = {"map.voxel_size": 0.2, "short_side": 0}
    config = to_dict(with_options(EvalConfig(), {**options, **fast}))
    first = run_scene(config, "room", str(tmp_path / "out"))
    monkeypatch.setattr("eval3d.run.build_map", None)  # nothing is mapped again
    assert run_scene(config, "room", str(tmp_path / "out")) == first
    label_file(labels, absent=["organ"])
    with pytest.raises(TypeError):
        run_scene(config, "room", str(tmp_path / "out"))


# Label files


def test_a_label_file_says_what_is_where(tmp_path):
    content = {
        "note": "a room",
        "present": [
            "ceiling",
            {"label": "sofa", "places": [{"position": [1, 2.5, 0]}]},
            {
                "label": "lamp",
                "places": [
                    {"lowest": [0, 0, 0], "highest": [1, 1, 2]},
                    {"frame": "7", "pixels": [0, 1, 20, 30]},
                ],
            },
            {"label": "chair"},
        ],
        "absent": ["bed"],
    }
    found = read_label_file(label_file(tmp_path / "labels.json", **content))
    assert found.present == ("ceiling", "sofa", "lamp", "chair") and found.absent == ("bed",)
    assert found.places == {
        "sofa": (Place((1, 2.5, 0), (1, 2.5, 0)),),
        "lamp": (Place((0, 0, 0), (1, 1, 2)), Patch("7", (0, 1, 20, 30))),
    }
    assert found.patches() == [Patch("7", (0, 1, 20, 30))]


def place(**value):
    return {"present": [{"label": "sofa", "places": [value]}]}


NO_LABELS = {
    "a list": ([], "does not hold a JSON object"),
    "nothing": ({}, "at least one label"),
    "an unknown key": ({"present": ["a"], "abscent": ["b"]}, "not 'abscent'"),
    "no list": ({"present": "sofa"}, "present must be a list"),
    "absent is no list": ({"absent": {"bed": 1}}, "absent must be a list"),
    "a number": ({"present": [3]}, "is an object with label, places"),
    "a label that is none": ({"present": [{"label": 3}]}, "a label is a text, got 3"),
    "an entry without a label": ({"present": [{"places": []}]}, "a label is a text, got None"),
    "an absent one with a place": ({"absent": [{"label": "bed"}]}, "an absent label is a text"),
    "an empty label": ({"present": ["sofa", "  "]}, "none of them empty"),
    "one that is twice there": ({"present": ["sofa", "Sofa"]}, "'Sofa' twice"),
    "one that is there and not": ({"present": ["sofa"], "absent": ["sofa"]}, "there or not?"),
    "too many": ({"absent": [f"thing {i}" for i in range(1001)]}, "at most 1000 labels"),
    "an unknown key of an entry": (
        {"present": [{"label": "sofa", "place": []}]},
        "not 'place'",
    ),
    "places that are no list": ({"present": [{"label": "sofa", "places": {}}]}, "must be a list"),
    "a place that is none": (place(centre=[0, 0, 0]), "each has position, or lowest and highest"),
    "half a box": (place(lowest=[0, 0, 0]), "each has position, or lowest and highest"),
    "two kinds of place": (place(position=[0, 0, 0], frame="1", pixels=[0, 0, 1, 1]), "each has"),
    "two coordinates": (place(position=[1, 2]), "must be three numbers"),
    "a text for a number": (place(position=[1, 2, "3"]), "must be three numbers"),
    "no number": (place(position=[1, 2, float("nan")]), "must be three numbers"),
    "far away": (place(position=[1, 2, 1e300]), "must be three numbers up to 1e+06 m"),
    "a truth": (place(position=[1, 2, True]), "must be three numbers"),
    "a box upside down": (place(lowest=[0, 0, 1], highest=[1, 1, 0]), "lies beyond highest"),
    "a frame by number": (place(frame=8, pixels=[0, 0, 1, 1]), "a frame is named by a text"),
    "pixels from right to left": (place(frame="8", pixels=[9, 0, 1, 1]), "left before right"),
    "pixels before the image": (place(frame="8", pixels=[-1, 0, 1, 1]), "from 0 on"),
    "three pixels": (place(frame="8", pixels=[0, 0, 1]), "left, top, right, bottom"),
    "half a pixel": (place(frame="8", pixels=[0, 0, 1.5, 1]), "whole numbers"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", NO_LABELS)
def test_a_label_file_that_is_none_is_refused_in_one_sentence(tmp_path, capsys, recording, case):
    content, reason = NO_LABELS[case]
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(content))
    more = ["--labels", file]
    assert main([*map(str, arguments("ask", recording, tmp_path / "out", *more))]) == 2
    error = capsys.readouterr().err
    assert reason in error and str(file) in error and error.count("\n") == 1
    assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "damaged, or not JSON (line 1"), ('{"absent": ["a"], "absent": []}', "occurs twice")],
)
def test_a_label_file_that_is_no_json_is_refused(tmp_path, content, reason):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(InputError, match="labels.json"):
        read_label_file(tmp_path / "labels.json")
    try:
        read_label_file(tmp_path / "labels.json")
    except InputError as error:
        assert reason in str(error)


def test_a_rectangle_is_the_points_that_it_shows():
    depth = np.full((10, 20), 2.0, np.float32)
    depth[:, 10:] = 0
    K = np.array([[10.0, 0, 9.5], [0, 10, 4.5], [0, 0, 1]])
    frame = Frame(0, np.zeros((20, 40, 3), np.uint8), depth, K, np.eye(4))
    whole = points_of(Patch("a", (0, 0, 40, 20)), frame)  # colour is twice as large as depth
    np.testing.assert_allclose(whole.min(0), (-1.9, -0.9, 2))
    np.testing.assert_allclose(whole.max(0), (-0.1, 0.9, 2))
    part = points_of(Patch("a", (10, 4, 20, 16)), frame)
    np.testing.assert_allclose(part.min(0), (-0.9, -0.5, 2))
    np.testing.assert_allclose(part.max(0), (-0.1, 0.5, 2))
    assert points_of(Patch("a", (22, 0, 40, 20)), frame).shape == (0, 3)  # no depth there
    with pytest.raises(InputError, match="reach beyond frame a, which has 40x20"):
        points_of(Patch("a", (0, 0, 41, 20)), frame)


def test_rectangles_without_depth_are_told(tmp_path):
    room = world.write_folder(tmp_path / "room", frames=1)
    depth = np.full(world.SIZE, 2000, np.uint16)
    depth[:, :32] = 0
    world.save(room / "depth" / "000000.png", depth)
    patches = [{"frame": "000000", "pixels": [x, 0, x + 16, 48]} for x in (0, 40)]
    walls = [{"label": "red wall", "places": [*patches, {"position": [0, 0, 1]}]}]
    labels = read_label_file(label_file(tmp_path / "labels.json", present=walls))
    known = find_places(labels, with_options(EvalConfig(), {"root": str(room)}))
    assert known.empty == ["red wall: no depth in pixels [0, 0, 16, 48] of 000000"]
    assert [name for name, _ in known.patches] == ["red wall"]
    assert [place.part for place in known.places["red wall"]] == [True, False]


# ask


def room_labels(path: Path, **more) -> Path:
    walls = [
        {"label": "cyan wall", "places": [{"lowest": [-2, -2, 2.3], "highest": [2, 2, 2.5]}]},
        {"label": "green wall", "places": [{"position": [0, 0, 9]}]},  # which is wrong
        {"label": "red wall", "places": [{"frame": "000002", "pixels": [0, 20, 8, 30]}]},
        "blue wall",
    ]
    return label_file(path, present=walls, absent=["magenta wall", "piano"], **more)


def test_a_recording_is_asked(tmp_path, capsys, recording):
    labels = room_labels(tmp_path / "labels.json")
    text = evaluate(capsys, *arguments("ask", recording, tmp_path / "out", "--labels", labels))
    found = read_answers(tmp_path / "out" / "room")
    presence, rows = found["presence"], {row["name"]: row for row in found["labels"]}
    assert presence["recall"] == presence["auroc"] == 1.0 and presence["false_finds"] == 0
    assert rows["cyan wall"]["error"] == 0 and rows["green wall"]["error"] > 2
    assert rows["blue wall"]["error"] is None and not rows["piano"]["objects"]
    assert [o["at_place"] for o in rows["green wall"]["objects"]] == ["no"]
    assert found["localisation"]["known"] == 3 and found["without_depth"] == []
    assert found["localisation"]["accuracy"] == pytest.approx(2 / 3)
    assert found["top"] == {"top1": 1.0, "top5": 1.0, "top10": 1.0}  # of the one rectangle
    assert "4 things that are there and 2 that are not" in text and "green wall" in text
    assert "questions: cosine, threshold 0.5\n" in text
    assert (
        text
        == (tmp_path / "out" / "summary.md").read_text() + f"\n{tmp_path / 'out'}/report.html\n"
    )


def test_the_same_question_is_not_answered_twice(tmp_path, capsys, recording, monkeypatch):
    labels = room_labels(tmp_path / "labels.json")
    command = arguments("ask", recording, tmp_path / "out", "--labels", labels, "--limit", 1)
    first = evaluate(capsys, *command)
    whole = (tmp_path / "out" / "room" / "answers.json").read_bytes()
    monkeypatch.setattr("eval3d.asking.recording.build_map", None)
    assert evaluate(capsys, *command) == first
    room_labels(labels, note="another")
    with pytest.raises(TypeError):
        main([*map(str, command)])
    monkeypatch.undo()
    room_labels(labels)
    (tmp_path / "out" / "room" / "answers.json").write_bytes(whole[:100])  # half written
    evaluate(capsys, *command)
    again = json.loads((tmp_path / "out" / "room" / "answers.json").read_bytes())
    assert {**again, "provenance": 0} == {**json.loads(whole), "provenance": 0}


@pytest.mark.slow
def test_a_bag_is_asked(tmp_path, capsys):
    bag = world.write_bag(tmp_path / "room")
    content = {"frame": str(1_000_000_000), "pixels": [20, 10, 40, 30]}
    walls = [{"label": "cyan wall", "places": [content]}]
    labels = label_file(tmp_path / "labels.json", present=walls, absent=["piano"])
    assert main([*map(str, arguments("ask", bag, tmp_path / "out", "--labels", labels))]) == 0
    found = read_answers(tmp_path / "out" / "room")
    # the oracle sees no labels in a bag: nothing is found, but the place is known
    (place,) = found["labels"][0]["places"]
    np.testing.assert_allclose([place["lowest"][2], place["highest"][2]], 2.4, atol=0.05)
    assert found["presence"]["recall"] == 0 and found["frames"]["used"] == 5


def test_runs_refuse_a_label_file_that_is_none_once_and_saved_maps_are_not_asked(
    tmp_path, capsys, recording
):
    labels = label_file(tmp_path / "labels.json", present=[3])
    run = arguments("run", recording, tmp_path / "out", "--labels", labels, "--scenes", "a,b")
    assert main([*map(str, run)]) == 2
    error = capsys.readouterr().err
    assert "is an object with label, places" in error and error.count("\n") == 1
    score = ["score", "map.radmap", "--gt", "gt.npz", "--labels", labels, "--out", tmp_path / "o"]
    assert main([*map(str, score)]) == 2
    assert "maps from files are not asked by name" in capsys.readouterr().err


NO_QUESTION = {
    "no label file": ([], "--labels FILE"),
    "no recording": (["{tmp}/none"], "does not exist"),
    "a frame that is not there": (["--labels", "{frame}"], "names the frame '000099'"),
    "pixels beyond the image": (["--labels", "{pixels}"], "reach beyond frame 000001"),
}


@pytest.mark.parametrize("case", NO_QUESTION)
def test_what_cannot_be_asked_is_refused_in_one_sentence(tmp_path, capsys, recording, case):
    def patch(name, frame, right):
        places = [{"frame": frame, "pixels": [0, 0, right, 9]}]
        walls = [{"label": "red wall", "places": places}]
        return label_file(tmp_path / name, present=walls)

    files = {"frame": patch("f.json", "000099", 9), "pixels": patch("p.json", "000001", 900)}
    more, reason = NO_QUESTION[case]
    words = [word.format(tmp=tmp_path, **files) for word in more]
    room = words.pop(0) if case == "no recording" else recording
    words += ["--labels", room_labels(tmp_path / "l.json")] if case == "no recording" else []
    assert main([*map(str, arguments("ask", room, tmp_path / "out", *words))]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "ask"])
def test_damaged_answers_are_refused_or_reported(tmp_path, capsys, recording, command):
    from eval3d.asking.report import report_answers
    from eval3d.report.write import write_report

    labels, out = room_labels(tmp_path / "labels.json"), tmp_path / "out"
    evaluate(capsys, *arguments(command, recording, out, "--labels", labels, "--limit", 1))
    path = out / "room" / {"run": "metrics.json", "ask": "answers.json"}[command]
    good, reported = json.loads(path.read_bytes()), 0
    parts = {"run": ("presence", "retrieval"), "ask": tuple(good)}[command]
    for part in altered({name: good[name] for name in parts}, 80):
        if not isinstance(part, dict):
            continue
        path.write_text(json.dumps({**{k: v for k, v in good.items() if k not in parts}, **part}))
        try:
            if command == "run":
                write_report([out], tmp_path / "report", pictures=False)
            else:
                report_answers(out / "room", tmp_path / "report", pictures=False)
            reported += 1
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error)
    assert 0 < reported < 80


@pytest.mark.slow
def test_pictures_of_answers(tmp_path, capsys, recording):
    from PIL import Image

    labels = room_labels(tmp_path / "labels.json")
    more = ["--labels", labels, "--up=-y", "--set", "query.mode=relevancy"]
    command = [a for a in arguments("ask", recording, tmp_path, *more) if a != "--no-pictures"]
    evaluate(capsys, *command)
    folder = tmp_path / "room" / "pictures"
    assert {path.stem for path in folder.glob("*.png")} == {"present", "false_finds", "scores"}
    rgb = np.asarray(Image.open(folder / "present.png").convert("RGB")).reshape(-1, 3)
    for color in ("12a150", "d93025", "8a5a00", "1f6fb5"):  # at its place, not there, ?, true
        assert (rgb == tuple(bytes.fromhex(color))).all(1).sum() > 20
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "http" not in page


# export


def read_as_openlex3d(folder: Path, voxel: float = 0.05):
    """What its segmentation tool makes of a prediction: thinned points, and a vector of each."""
    o3d = pytest.importorskip("open3d", reason="open3d is not installed")
    cloud = o3d.t.io.read_point_cloud(str(folder / "point_cloud.pcd"))
    points = cloud.point.positions.numpy()
    index = np.load(folder / "index.npy").astype(int)
    embeddings = np.load(folder / "embeddings.npy")
    assert len(index) == len(points) and cloud.point.colors.shape[0] == len(points)
    thin = cloud.voxel_down_sample(voxel_size=voxel).point.positions.numpy()
    _, nearest = cKDTree(points).query(thin)
    return cloud, thin, embeddings[index[nearest]], embeddings, index


@pytest.mark.slow
@pytest.mark.parametrize("objects", ["voxel", "object"])
def test_a_map_is_a_prediction_for_openlex3d(tmp_path, capsys, recording, objects):
    evaluate(capsys, *arguments("run", recording, tmp_path / "run", "--save-map"))
    command = ["export", "openlex3d", tmp_path / "run", "--objects", objects]
    command += ["--encoder", "oracle", "--classes", recording / "meta.json"]
    out = tmp_path / "predictions"
    assert main([*map(str, command), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'room'}\n"
    cloud, thin, vectors, embeddings, index = read_as_openlex3d(out / "room")
    assert embeddings.dtype == np.float32 and embeddings.shape[1] == 16
    if objects == "voxel":
        assert np.array_equal(index, np.arange(len(embeddings)))
    else:
        assert 5 <= len(embeddings) < len(index) / 10 and set(index) == set(range(len(embeddings)))
    from eval3d.oracle import OracleEncoder

    names = [f"{name} wall" for name in world.FACES]
    text = OracleEncoder(names).embed_labels(names).numpy()
    best = (vectors @ text.T).argmax(1)
    xyz, label = world.points()
    _, true = cKDTree(xyz).query(thin)
    assert (best + 1 == label[true]).mean() > 0.9
    rgb = cloud.point.colors.numpy()
    with np.load(tmp_path / "run" / "room" / "labels.npz") as data:
        _, row = cKDTree(data["map_xyz"]).query(cloud.point.positions.numpy())
        assert np.array_equal(rgb, data["map_rgb"][row])


@pytest.mark.slow
def test_a_cloud_is_what_open3d_reads(tmp_path):
    o3d = pytest.importorskip("open3d", reason="open3d is not installed")
    xyz = np.array([[0.0, 1, 2], [-3.5, 4, 5]], np.float32)
    (tmp_path / "a.pcd").write_bytes(pcd(xyz, np.array([[0.0, 0.5, 1], [1, 0, 0.2]])))
    read = o3d.t.io.read_point_cloud(str(tmp_path / "a.pcd")).point
    assert np.array_equal(read.positions.numpy(), xyz)
    assert read.colors.numpy().tolist() == [[0, 128, 255], [255, 0, 51]]


NO_EXPORT = {
    "no map": (["{tmp}/empty"], "holds no map.radmap: evaluate with --save-map"),
    "no file": (["{tmp}/none.radmap"], "does not exist"),
    "two of one scene": (["{tmp}/a", "{tmp}/b"], "are both of the scene room"),
    "no class list": (["{tmp}/a", "--objects", "object", "--encoder", "lite"], "--classes LIST"),
}


@pytest.mark.parametrize("case", NO_EXPORT)
def test_what_cannot_be_exported_is_refused_in_one_sentence(tmp_path, capsys, case):
    (tmp_path / "empty").mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "room").mkdir(parents=True)
        (tmp_path / name / "room" / "map.radmap").write_bytes(b"none")
    more, reason = NO_EXPORT[case]
    words = [word.format(tmp=tmp_path) for word in more]
    assert main(["export", "openlex3d", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_the_text_of_openlex3d_is_that_of_the_encoder(monkeypatch):
    """examples/openlex3d_text.py stands in its folder of models."""

    class VisualLanguageEncoder:
        pass

    base = types.ModuleType("openlex3d.models.base")
    base.VisualLanguageEncoder = VisualLanguageEncoder
    for name in ("openlex3d", "openlex3d.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "openlex3d.models.base", base)
    from color_encoder import ColorEncoder

    from radseg_ros.encoders import protocol

    made = []
    colors = {"colors": lambda options: made.append(options) or ColorEncoder()}
    monkeypatch.setattr(protocol, "ENCODERS", colors)
    scope: dict = {"__name__": "openlex3d.models.openlex3d_text"}
    source = (ROOT / "examples" / "openlex3d_text.py").read_text()
    exec(compile(source, "openlex3d_text.py", "exec"), scope)
    model = scope["load_model"](backbone="colors", checkpoint="file.pth", device="cpu")
    assert isinstance(model, VisualLanguageEncoder)
    assert made == [{"checkpoint": "file.pth", "device": "cpu"}]
    vectors = model.compute_text_features(["red", "blue"])
    assert vectors.dtype == np.float32 and vectors.tolist() == np.eye(8)[[0, 2]].tolist()
