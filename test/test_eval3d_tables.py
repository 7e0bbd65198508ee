# SPDX-License-Identifier: Apache-2.0
"""The paper's tables: what was printed is what the files say, and the rows run as they should."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import random_clip
import torch
from browser import open_browser
from color_encoder import ColorEncoder
from conftest import golden_file
from PIL import Image

from eval3d.classes import IMAGE_CLASSES, class_file
from eval3d.cli import main
from eval3d.datasets.labelled_images import FIRST_LABEL, pair_files
from eval3d.tables import pieces, plan
from eval3d.tables.networks import VISION, cosine_of, row_encoder
from eval3d.tables.published import (
    AVERAGE,
    DIFFERENCE,
    TABLES,
    load_image_sets,
    load_table,
    load_weights,
)
from radseg_ros.config import from_texts
from radseg_ros.datatypes import CheckpointError, ConfigError, InputError
from radseg_ros.encoders.protocol import ENCODERS, make_encoder
from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
from radseg_ros.encoders.radseg.heads import build_head
from radseg_ros.language.cache import LABEL, save_embeddings
from radseg_ros.segmentation.probabilities import read_classes
from radseg_ros.segmentation.settings import SETTINGS

RESULTS = ("table.json", "table.md", "report.html")
RED, GREEN = (255, 0, 0), (0, 255, 0)
# averages that the paper prints and that are not the means of their columns
ODD = {
    ("Base, low", "TextRegion"), ("Base, low", "RADSeg+"), ("Huge, low", "RADSeg+"),
    ("Huge, mid", "ProxyCLIP"), ("Huge, mid", "RADSeg+"), ("Base, high", "RADSeg+"),
    ("Huge, high", "RADSeg+"),
}  # fmt: skip


def write_set(root, images=2, first_label=1, wrong=0):
    """Pictures that are half red and half green; the truth of the last ``wrong`` is red alone."""
    for i in range(images):
        rgb = np.full((48, 64, 3), RED, np.uint8)
        rgb[:, 32:] = GREEN
        label = np.full((48, 64), first_label, np.uint8)
        if i < images - wrong:
            label[:, 32:] += 1
        for folder, array in (("images", rgb), ("labels", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"p{i}.png")
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    return root


def run(capsys, *arguments):
    status = main(["table", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rows_of(out):
    return {row["row"]: row for row in json.loads((out / "table.json").read_text())["rows"]}


@pytest.fixture
def colors(monkeypatch):
    """Every encoder that Table A.8 asks for knows colours."""
    made = []

    def make(options):
        made.append(options)
        return ColorEncoder()

    for name in ("radseg", "naclip", "proxyclip", "resclip"):
        monkeypatch.setitem(ENCODERS, name, make)
    monkeypatch.setattr(plan, "typed", lambda encoder, texts: dict(t.split("=") for t in texts))
    monkeypatch.setenv("EVAL3D_REVISION", "under test")
    pieces._work.cache_clear()
    yield made
    pieces._work.cache_clear()


@pytest.mark.parametrize("name", TABLES)
def test_tables_hold_what_the_paper_printed(name):
    table = load_table(name)
    assert table.title and table.unit and "RADSeg, supplementary material" in table.source
    assert len({plan.cell_key(table, row, "x") for row in table.rows}) == len(table.rows)
    above = []
    for row in table.rows:
        values = [v for c, v in row.paper.items() if c != AVERAGE and v is not None]
        if row.run == DIFFERENCE:
            for column, value in row.paper.items():
                off = above[-1].paper[column] - above[-2].paper[column]
                assert value == pytest.approx(off, abs=0.011)
        elif AVERAGE in row.paper and len(values) == 5:
            odd = abs(np.mean(values) - row.paper[AVERAGE]) > 0.011
            assert odd == ((row.group, row.name) in ODD and name == "A.2"), row
        above.append(row)


def test_known_numbers_stand_where_they_should():
    by_name = {row.title: row for row in load_table("A.2").rows}
    assert by_name["Base, mid: RADSeg"].paper["VOC"] == 89.28
    assert by_name["Huge, low: TextRegion"].paper["City"] == 47.35
    assert by_name["Base, high: NACLIP"].paper["Stuff"] == 20.04
    rows = {row.name: row for row in load_table("A.8").rows}
    assert rows["ResRADIO"].paper["ADE"] == 26.63 and rows["ProxyRADIO-S"].paper["Avg"] == 46.05


@pytest.mark.parametrize("name", TABLES)
def test_rows_name_weights_sets_and_sizes_that_there_are(name):
    table, weights, sets = load_table(name), load_weights(), load_image_sets()
    for row in table.rows:
        for word in row.run.split()[1:]:
            value = word.partition("=")[2]
            assert not value.startswith("@") or value.lstrip("@?") in weights, word
        for column in table.columns:
            if column != AVERAGE:
                spec = sets[column]
                assert row.resolution == "-" or f"{spec.name}-{row.resolution}" in SETTINGS
    assert all(w.text == "-" or w.text in weights for w in weights.values())


@pytest.mark.parametrize("name", [name for name in TABLES if name != "fig-A.2"])
def test_rows_name_options_that_their_encoders_have(name):
    table = load_table(name)
    given = {weights: f"{weights}.file" for weights in load_weights()}
    for row in table.rows:
        for column in table.columns if row.run != DIFFERENCE else ():
            how, missing = plan._row_options(row, column, plan.Request(weights=given))
            assert not missing, row
            if how["encoder"] != "radseg":  # whose options are looked at there
                module = importlib.import_module(f"radseg_ros.encoders.clip.{how['encoder']}")
                from_texts(module.ENCODER.CONFIG, how["options"])


def test_class_lists_of_images_come_along():
    sizes = {name: len(read_classes(class_file(name))) for name in IMAGE_CLASSES}
    assert sizes == {
        "voc20": 20, "context59": 59, "stuff171": 171, "ade150": 150, "cityscapes19": 19,
    }  # fmt: skip
    given = {spec.classes for spec in load_image_sets().values()} - {"-"}
    assert given == set(IMAGE_CLASSES)
    assert {spec.name for spec in load_image_sets().values()} == {*FIRST_LABEL, "imagenet"}


def test_without_data_it_says_what_to_get_and_where(capsys, colors):
    status, out, err = run(capsys, "A.8")
    assert status == 0 and not err
    assert "45.64" in out and "| NACLIP | paper |" in out and "| ours |" not in out
    for text in (
        "--data voc=FOLDER: PASCAL VOC 2012, 20 classes",
        "--weights clip-b=PATH",
        "(15 cells)",
    ):
        assert text in out
    assert "nvidia/C-RADIOv3-B" in out and "Nothing was run" in out
    assert "Optional: --weights text-siglip2=PATH: text embeddings" in out


ALL = [f"{name}-b=some/where" for name in ("rv3", "clip")] + ["dino-b8=else/where"]


def weights(names=ALL):
    return [word for name in names for word in ("--weights", name)]


def test_a_small_world_gives_the_known_numbers(tmp_path, capsys, colors):
    voc = write_set(tmp_path / "voc")
    city = write_set(tmp_path / "city", 2, FIRST_LABEL["cityscapes"], wrong=1)
    data = ["--data", f"voc={voc}", "--data", f"cityscapes={city}"]
    out = tmp_path / "out"
    some = "ProxyCLIP,NARADIO,ProxyRADIO-S"
    status, text, err = run(capsys, "A.8", *data, *weights(), "--out", out, "--rows", some)
    assert status == 0, err
    rows = rows_of(out)
    ours = {name: row["ours"]["VOC"] for name, row in rows.items()}
    assert ours == {**dict.fromkeys(ours), **dict.fromkeys(some.split(","), 100)}
    # one image of two is all red in truth and half green in the prediction
    expected = 100 * (2 / 3 + 1 / 2) / 2
    naradio = rows["NARADIO"]
    assert naradio["ours"]["City"] == pytest.approx(expected, abs=0.5)
    assert naradio["difference"]["VOC"] == pytest.approx(100 - 86.25)
    assert naradio["ours"]["Avg"] is naradio["ours"]["ADE"] is None
    assert "--data ade=FOLDER" in text and "(3 cells)" in text and "+13.75" in text
    # windows are those of Table A.1, and what a row says goes to its encoder
    assert {"crop": 336, "stride": 112}.items() <= colors[0].items()
    assert any(made.get("attention") == "proxy_sam" for made in colors)
    cell = json.loads((out / "cells" / "02-NARADIO" / "VOC.json").read_text())
    assert cell["protocol"]["images"] == "2 used" and "336 px" in cell["protocol"]["resolution"]
    assert cell["protocol"]["ignored classes"] == "values below 1 and 255"


def test_all_five_sets_make_an_average(tmp_path, capsys, colors):
    data = []
    for name, first in FIRST_LABEL.items():
        data += ["--data", f"{name}={write_set(tmp_path / name, 1, first)}"]
    arguments = ["A.4", *data, *weights(["rv3-b=x"]), "--limit", 1]
    assert run(capsys, *arguments, "--out", tmp_path / "out")[0] == 0
    lines = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    rows = {(row["group"], row["row"]): row["ours"] for row in lines}
    assert rows["Rv3-b", "Base"]["Avg"] == 100 and rows["Rv3-b", "Δ"]["Avg"] == 0
    assert rows["Rv2.5-b", "Base"]["Avg"] is rows["Rv2.5-b", "Δ"]["Avg"] is None


def test_what_was_done_is_not_repeated_and_an_interruption_changes_nothing(
    tmp_path, capsys, colors, monkeypatch
):
    monkeypatch.setattr(plan, "PIECE", 2)
    monkeypatch.setattr(pieces, "PIECE", 2)
    voc = write_set(tmp_path / "voc", 5, wrong=2)
    given = ["A.8", "--data", f"voc={voc}", *weights(["rv3-b=x"]), "--rows", "RADSeg,NARADIO"]
    for out in ("whole", "cut"):
        pieces._work.cache_clear()
        done = []
        original = pieces._do

        def counted(name, place, done=done, out=out, original=original):
            if out == "cut" and len(done) == 4:
                raise KeyboardInterrupt
            done.append(name)
            return original(name, place)

        monkeypatch.setattr(pieces, "_do", counted)
        status = run(capsys, *given, "--out", tmp_path / out)[0]
        assert status == (130 if out == "cut" else 0)
        monkeypatch.setattr(pieces, "_do", original)
        assert len(done) == (4 if out == "cut" else 6)
    again = []
    monkeypatch.setattr(pieces, "_do", lambda *a: again.append(a[0]) or original(*a))
    assert run(capsys, *given, "--out", tmp_path / "cut")[0] == 0
    assert len(again) == 2, "two of six pieces were left"
    for name in RESULTS:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # another number of images is another evaluation
    assert run(capsys, *given, "--limit", 3, "--out", tmp_path / "cut")[0] == 0
    assert len(again) == 2 + 4


def test_a_cell_that_fails_is_named_and_costs_itself(tmp_path, capsys, colors):
    voc, ade = write_set(tmp_path / "voc"), write_set(tmp_path / "ade")
    (voc / "classes.txt").write_text("red\ngreen\nunicorn\n")
    data = ["--data", f"voc={voc}", "--data", f"ade={ade}"]
    arguments = ["A.6", *data, *weights(["rv3-b=x"]), "--rows", "Sliding Window"]
    status, text, _ = run(capsys, *arguments, "--out", tmp_path / "out")
    assert status == 1 and "## Failed" in text and "'unicorn'" in text
    ours = rows_of(tmp_path / "out")["Sliding Window"]["ours"]
    assert ours["ADE"] == 100 and ours["VOC"] is None
    assert "unicorn" in (tmp_path / "out" / "report.html").read_text()


def test_a_published_program_has_its_row(tmp_path, capsys, monkeypatch):
    """What it predicted is scored beside ours: here half of one image of three is wrong."""
    monkeypatch.setattr(plan, "PIECE", 2)
    monkeypatch.setattr(pieces, "PIECE", 2)
    voc, theirs = write_set(tmp_path / "voc", 3), tmp_path / "theirs"
    (theirs / "voc").mkdir(parents=True)
    for i in range(3):
        labels = np.array(Image.open(voc / "labels" / f"p{i}.png"))
        np.savez(theirs / "voc" / f"p{i}.npz", labels=np.ones_like(labels) if i == 2 else labels)
    given = ["--data", f"voc={voc}", "--predicted", f"Base, mid: Trident={theirs}"]
    out = tmp_path / "out"
    assert run(capsys, "A.2", *given, "--out", out)[0] == 0
    lines = json.loads((out / "table.json").read_text())["rows"]
    rows = {(row["group"], row["row"]): row["ours"] for row in lines}
    assert rows["Base, mid", "Trident"]["VOC"] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert rows["Base, low", "Trident"]["VOC"] is None
    cell = json.loads(next(out.glob("cells/*Trident/VOC.json")).read_text())
    assert cell["protocol"]["encoder"] == "another program's labels"
    assert cell["protocol"]["resolution"].startswith("unknown")
    (theirs / "voc" / "p1.npz").unlink()
    status, _, err = run(capsys, "A.2", *given, "--out", out)
    assert status == 2 and "no image for 1 of 3 label images, e.g. p1.png" in err
    status, text, _ = run(capsys, "A.2", "--predicted", f"Trident={tmp_path / 'nowhere'}")
    assert status == 0 and "nowhere/voc: no such folder of predictions" in text


REFUSED = {
    "no such table": (["A.9"], "invalid choice"),
    "no such set": (["A.8", "--data", "vok=x"], "did you mean 'voc'"),
    "no such weights": (["A.8", "--weights", "rv3=x"], "did you mean 'rv3-"),
    "no such row": (["A.8", "--rows", "RADSeq"], "did you mean 'RADSeg'"),
    "no row to predict": (["A.8", "--predicted", "NACLIB=x"], "did you mean 'NACLIP'"),
    "no path": (["A.8", "--data", "voc"], "is not NAME=PATH"),
    "twice": (["A.8", "--data", "voc=a", "--data", "voc=b"], "given twice"),
    "no folder": (["A.8", "--data", "voc=/nowhere"], "is no folder"),
    "no such layout": (["A.8", "--data", "voc={tmp}"], "JPEGImages and SegmentationClass nor"),
    "no encoder": (["A.8", "--set", "radsek.offline=on"], "did you mean 'radseg'"),
    "no such option": (["A.8", "--set", "radseg.ofline=on"], "did you mean offline"),
    "no option": (["A.8", "--set", "offline"], "is not ENCODER.OPTION=VALUE"),
    "nowhere to": (["A.8", "--data", "voc={voc}", "--weights", "rv3-b=x"], "--out DIR"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, capsys, case):
    words, reason = REFUSED[case]
    (tmp_path / "empty").mkdir()
    voc = write_set(tmp_path / "voc")
    words = [word.format(tmp=tmp_path / "empty", voc=voc) for word in words]
    try:
        status, _, err = run(capsys, *words)
    except SystemExit as stop:
        status, err = stop.code, capsys.readouterr().err
    assert status == 2 and reason in err and "Traceback" not in err


def test_a_list_of_names_and_training_ids_choose_the_images(tmp_path):
    root = write_set(tmp_path / "voc", 3)
    shutil.copy(root / "labels" / "p1.png", root / "labels" / "p1_labelTrainIds.png")
    pairs = pair_files(root / "images", root / "labels", {"p1", "p2"})
    assert [label.name for _, label in pairs] == ["p1_labelTrainIds.png", "p2.png"]
    with pytest.raises(InputError, match="no label image for 1 of 2 names, e.g. p7"):
        pair_files(root / "images", root / "labels", {"p1", "p7"})


@pytest.mark.parametrize(
    ("images", "labels", "listed"),
    [(s.images, s.labels, s.listed) for s in load_image_sets().values() if s.labels != "-"],
)
def test_sets_are_found_as_they_come(tmp_path, images, labels, listed):
    spec = next(s for s in load_image_sets().values() if s.images == images and s.labels == labels)
    made = write_set(tmp_path / "made", 3, FIRST_LABEL[spec.name])
    root = tmp_path / "root"
    for source, place in (("images", images), ("labels", labels)):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made / source, root / place)
    if listed != "-":
        (root / listed).parent.mkdir(parents=True)
        (root / listed).write_text("p0\np2\n")
    found = plan._image_set(spec, plan.Request(data={spec.name: str(root)}))
    assert len(found["pairs"]) == (3 if listed == "-" else 2)
    assert len(found["classes"]) == len(read_classes(class_file(spec.classes)))


# Tiny weights

TINY = "A.8"


def text_vectors(path, encoder):
    """What an encoder sees of plain colours, as their names' vectors: it finds them again."""
    seen = {}
    for name, color in {"red": RED, "green": GREEN, "blue": (0, 0, 255)}.items():
        features = encoder.encode(np.full((336, 336, 3), color, np.uint8)).data
        seen[name] = encoder.project(features.flatten(1).T).mean(0).numpy()
    middle = np.mean(list(seen.values()), 0)
    save_embeddings(path, "", {(LABEL, name): v - middle for name, v in seen.items()})
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Words that give data and weights."""
    root = tmp_path_factory.mktemp("tiny")
    radio = golden_file("tiny_radio.pth.tar")
    text = text_vectors(root / "text.npz", make_encoder("radseg", checkpoint=radio, device="cpu"))
    words = ["--device", "cpu", "--threads", "1"]
    words += ["--data", f"voc={write_set(root / 'voc', wrong=1)}"]
    clip = random_clip.write(root / "clip", width=32, projection=16)
    dino = golden_file("peers/tiny_dino_hf")
    given = {"rv3-b": radio, "text-siglip2": text, "clip-b": clip, "dino-b8": dino}
    return [*words, *weights([f"{name}={path}" for name, path in given.items()])]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The results of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAL3D_REVISION", "under test")
        assert main(["table", TINY, *tiny, "--out", str(out)]) == 0
    return out


def assert_same_bytes(a, b):
    for name in RESULTS:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    cells = sorted(path.relative_to(a) for path in (a / "cells").rglob("*.*"))
    assert cells == sorted(path.relative_to(b) for path in (b / "cells").rglob("*.*"))
    assert all((a / cell).read_bytes() == (b / cell).read_bytes() for cell in cells)


@pytest.mark.slow
def test_tiny_weights_run_all_rows(whole):
    rows = rows_of(whole)
    assert len(rows) == len(load_table(TINY).rows)
    for row in rows.values():
        values = {column: value is not None for column, value in row["ours"].items()}
        assert values == {**dict.fromkeys(values, False), "VOC": True}, row
    # colours are found again, so the second of two images costs what it must
    assert rows["RADSeg"]["ours"]["VOC"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "execution", [["--jobs", "2"], ["--cluster", "local:2"]], ids=["jobs", "cluster"]
)
def test_pieces_beside_each_other_give_the_same_bytes(
    whole, tiny, tmp_path, monkeypatch, execution
):
    if "--cluster" in execution:
        pytest.importorskip(
            "distributed", reason="the optional package distributed is not installed"
        )
    monkeypatch.setenv("EVAL3D_REVISION", "under test")
    assert main(["table", TINY, *tiny, *execution, "--out", str(tmp_path)]) == 0
    assert_same_bytes(tmp_path, whole)


DIES = """
import os, signal, sys
from eval3d.cli import main
from eval3d.tables import pieces

write, written = pieces.write_whole, []

def write_and_die(path, data):
    write(path, data)
    written.append(path)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

pieces.write_whole = write_and_die
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(whole, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("EVAL3D_REVISION", "under test")
    command = [sys.executable, "-c", DIES, "table", TINY, *tiny, "--out", str(tmp_path)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cells/*/*/[!.]*.npz")}
    assert len(done) == 2 and not (tmp_path / "table.json").exists()
    assert main(["table", TINY, *tiny, "--out", str(tmp_path)]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert_same_bytes(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_shows_ours_the_paper_and_the_difference(whole, width):
    rows = rows_of(whole)
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.goto(f"file://{whole / 'report.html'}")
        shown = tab.locator("table.compared tbody tr").all_inner_texts()
        for row in rows.values():
            ours, off = row["ours"]["VOC"], row["difference"]["VOC"]
            line = next(text for text in shown if text.split("\t")[0].strip() == row["row"])
            words = line.split()
            assert {f"{ours:.2f}", f"{row['paper']['VOC']:.2f}", f"{off:+.2f}"} <= set(words)
        tab.locator("details > summary").first.click()
        assert "weights: SHA-256" in tab.locator("pre").first.inner_text()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


# The networks of Table A.7 and Figure A.2

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16,
         "image_size": 48, "intermediate_size": 64}  # fmt: skip


def vision_folder(kind, folder):
    """A vision model with random weights."""
    import transformers as hf

    torch.manual_seed(0)
    text = SMALL | {"vocab_size": 8}
    configs = {
        "dinov2_with_registers": lambda: hf.Dinov2WithRegistersConfig(**SMALL),
        "clip": lambda: hf.CLIPConfig(vision_config=SMALL, text_config=text, projection_dim=16),
        "siglip": lambda: hf.SiglipConfig(vision_config=SMALL, text_config=text),
        "vit": lambda: hf.ViTConfig(**SMALL),
    }
    model = hf.AutoModel.from_config(configs[kind]()).eval()
    model.save_pretrained(folder)
    return model


def tokens_of(model, kind, pixels):
    """Pooled output and patches, as the models give them."""
    with torch.no_grad():
        if kind == "clip":
            seen = model.vision_model(pixels)
            patches = model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
            return model.get_image_features(pixels), model.visual_projection(patches)[0]
        if kind == "siglip":
            seen = model.vision_model(pixels)
            return seen.pooler_output, seen.last_hidden_state[0]
        tokens = model(pixels).last_hidden_state
        return tokens[:, 0], tokens[0, -9:]  # 3 x 3 patches


@pytest.mark.parametrize(
    "kind", [pytest.param("dinov2_with_registers", marks=pytest.mark.slow), "clip", "siglip"]
)
def test_alignment_is_the_mean_cosine_of_patches_and_pooled_output(tmp_path, kind):
    model = vision_folder(kind, tmp_path / "model")
    measure, source = cosine_of(
        {"encoder": "vision", "options": {"checkpoint": tmp_path / "model"}}
    )
    rgb = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in VISION[kind])
    pixels = (torch.from_numpy(rgb).permute(2, 0, 1) / 255 - mean) / std
    pooled, patches = tokens_of(model, kind, pixels[None])
    pooled = getattr(pooled, "pooler_output", pooled)
    expected = torch.nn.functional.cosine_similarity(pooled, patches).mean()
    assert measure(rgb) == pytest.approx(float(expected), abs=1e-5)
    assert source["windows"] == "none (48 x 48 px)" and source["weights"].startswith("SHA-256")


def test_another_kind_of_model_is_refused(tmp_path):
    vision_folder("vit", tmp_path / "model")
    with pytest.raises(CheckpointError, match="vit is not one of dinov2"):
        cosine_of({"encoder": "vision", "options": {"checkpoint": str(tmp_path / "model")}})


@pytest.mark.slow
def test_figure_a2_is_the_mean_over_images(tmp_path, capsys, monkeypatch):
    vision_folder("clip", tmp_path / "clip")
    measure, _ = cosine_of({"encoder": "vision", "options": {"checkpoint": tmp_path / "clip"}})
    images = write_set(tmp_path / "set", 3) / "images"
    rng = np.random.default_rng(0)
    seen = [rng.integers(0, 256, (40, 60, 3)).astype(np.uint8) for _ in range(3)]
    for i, rgb in enumerate(seen):
        Image.fromarray(rgb).save(images / f"p{i}.png")
    monkeypatch.setattr(plan, "PIECE", 2)
    monkeypatch.setattr(pieces, "PIECE", 2)
    given = ["--data", f"imagenet={images}", "--weights", f"dfn-b={tmp_path / 'clip'}"]
    out = tmp_path / "out"
    assert run(capsys, "fig-A.2", *given, "--device", "cpu", "--out", out)[0] == 0
    found = json.loads((out / "table.json").read_text())["rows"]
    ours = {row["group"]: row["ours"]["ImageNet"] for row in found if row["row"] == "Base"}
    assert ours["DFN CLIP"] == pytest.approx(np.mean([measure(rgb) for rgb in seen]), abs=1e-5)
    assert ours["RADIO v3"] is None


def test_the_patch_adaptor_is_the_feature_head():
    path = golden_file("tiny_radio.pth.tar")
    how = {"encoder": "radseg", "options": {"checkpoint": str(path), "device": "cpu"}}
    usual, patch = (row_encoder({**how, "adaptor": name}) for name in ("", "patch"))
    vectors = torch.randn(5, usual.channels, generator=torch.Generator().manual_seed(0))
    heads = read_checkpoint(path).feature_heads
    expected = build_head(heads[usual.language], "here")(vectors)
    assert torch.allclose(patch.project(vectors), expected, atol=1e-5)
    assert not torch.allclose(patch.project(vectors), usual.project(vectors), atol=1e-2)
    assert patch.name == f"{usual.name}-patch" and patch.channels == usual.channels
    with pytest.raises(ConfigError, match="adaptor: 'neck'"):
        row_encoder({**how, "adaptor": "neck"})
