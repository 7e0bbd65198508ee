# SPDX-License-Identifier: Apache-2.0
"""Map files: nothing is lost, nothing damaged is taken, and a process killed while saving leaves a
whole file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_worlds import assert_same, make_map, random_frame

from radseg_ros.config import LiftConfig, MapConfig
from radseg_ros.datatypes import InputError, MapFileError
from radseg_ros.voxels import map_file
from radseg_ros.voxels.map_file import (
    STAMP_LIMIT_NS,
    VERSION,
    MapIdentity,
    load_map,
    read_geometry,
    read_header,
    save_map,
)
from radseg_ros.voxels.voxel_map import VoxelMap

IDENTITY = MapIdentity("radseg:base", "abc123", "siglip2", frame_id="map")


def some_map(seed: int = 0, frames: int = 2, **options) -> VoxelMap:
    world = make_map(0.2, 5, **options)
    rng = np.random.default_rng(seed)
    for step in range(frames):
        world.integrate(*random_frame(rng, stamp_ns=step))
    return world


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_going_on_after_loading_is_as_if_it_was_never_saved(tmp_path, dtype):
    kept = some_map(dtype=dtype, carve_after=2, max_voxels=900, evict="farthest")
    save_map(tmp_path / "a.radmap", kept, IDENTITY)
    loaded, identity = load_map(tmp_path / "a.radmap")
    assert identity == IDENTITY and loaded.config == kept.config
    for step in range(5):
        rng = np.random.default_rng(100 + step)
        observed = random_frame(rng, stamp_ns=10 + step)
        assert kept.integrate(*observed) == loaded.integrate(*observed)
    a, b = kept.table.state(), loaded.table.state()
    assert (
        all(torch.equal(a[name], b[name]) for name in a)
        and kept.last_stamp_ns == loaded.last_stamp_ns == 14
    )


def test_an_empty_map_is_a_map(tmp_path):
    save_map(tmp_path / "a.radmap", make_map(0.05, 7))
    loaded, identity = load_map(tmp_path / "a.radmap")
    assert (
        len(loaded) == 0
        and loaded.channels == 7
        and identity == MapIdentity()
        and loaded.last_stamp_ns is None
    )


def test_options_of_the_reader_win_and_types_convert(tmp_path):
    saved = some_map()
    save_map(tmp_path / "a.radmap", saved)
    config = MapConfig(voxel_size=0.2, dtype="float16", max_voxels=5000)
    loaded, _ = load_map(tmp_path / "a.radmap", config=config, lift=LiftConfig(pixel_stride=2))
    assert loaded.config.max_voxels == 5000 and loaded.lift.pixel_stride == 2
    assert_same(loaded.snapshot(), saved.snapshot(), tolerance=2e-3)
    save_map(tmp_path / "b.radmap", loaded)
    assert_same(
        load_map(tmp_path / "b.radmap", config=MapConfig(voxel_size=0.2))[0].snapshot(),
        loaded.snapshot(),
    )


@pytest.mark.parametrize(
    "expect, config, said",
    [
        (MapIdentity(encoder="lite"), None, "encoder"),
        (MapIdentity(checkpoint_hash="x"), None, "checkpoint_hash"),
        (MapIdentity(language="clip"), None, "language"),
        (MapIdentity(frame_id="odom"), None, "frame_id"),
        (MapIdentity(labels=("a",)), None, "labels"),
        (None, MapConfig(voxel_size=0.1), "voxel_size"),
        (None, MapConfig(voxel_size=0.2, space="language"), "space"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path, expect, config, said):
    save_map(tmp_path / "a.radmap", some_map(), IDENTITY)
    with pytest.raises(MapFileError, match=said) as error:
        load_map(tmp_path / "a.radmap", expect, config=config)
    assert "\n" not in str(error.value)
    assert load_map(tmp_path / "a.radmap", MapIdentity(encoder="radseg:base"))[1] == IDENTITY


def test_every_cut_and_every_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "a.radmap"
    save_map(path, some_map(), IDENTITY)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    start_of_data = 8 + int.from_bytes(whole[:8], "little")
    for cut in [
        0,
        1,
        7,
        8,
        100,
        start_of_data,
        *rng.integers(0, len(whole), 20).tolist(),
        len(whole) - 1,
    ]:
        path.write_bytes(whole[:cut])
        with pytest.raises(MapFileError):
            load_map(path)
    for position in [
        *range(0, 8),
        *rng.integers(start_of_data, len(whole), 60).tolist(),
        len(whole) - 1,
    ]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(MapFileError):
            load_map(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(MapFileError):
        load_map(path)


def rewrite(path: Path, change) -> None:
    """Write the file again with a changed header or changed tensors, and honest checksums."""
    from radseg_ros.voxels.tensor_file import digests

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["radmap"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, state)
    header["sha256"] = digests(state)
    save_file(state, path, {"radmap": json.dumps(header)})


@pytest.mark.parametrize(
    "change",
    [
        lambda header, state: header.update(version=99),
        lambda header, state: header.pop("identity"),
        lambda header, state: header["map"].update(voxel_size=-1.0),
        lambda header, state: header["map"].update(unknown=1),
        lambda header, state: header.update(channels=6),
        lambda header, state: state.pop("hits"),
        lambda header, state: state.update(hits=state["hits"][1:]),
        lambda header, state: header.update(channels="five"),
        lambda header, state: header.update(channels=0),
        lambda header, state: header.update(channels=10**15),
        lambda header, state: header.update(channels=True),
        lambda header, state: header.update(last_stamp_ns=2**62),
        lambda header, state: header.update(last_stamp_ns=1.5),
        lambda header, state: header.update(camera=[0.0, 1.0]),
        lambda header, state: header.update(camera=[0.0, 1.0, float("inf")]),
        lambda header, state: header.update(camera="xyz"),
        lambda header, state: header.update(identity=[]),
        lambda header, state: header["identity"].update(labels=[1, 2]),
        lambda header, state: header["identity"].update(encoder={"a": 1}),
        lambda header, state: header["identity"].update(colour="red"),
        lambda header, state: header.update(map=[]),
        lambda header, state: header.update(lift="far"),
        lambda header, state: header["map"].update(voxel_size=float("nan")),
        lambda header, state: state.update(key=state["key"][0]),
        lambda header, state: state.update(vectors=state["vectors"].bfloat16()),
        lambda header, state: state["last_seen_ns"].__setitem__(0, -(2**62)),
        lambda header, state: state["first_seen_ns"].__setitem__(0, 2**40),
        lambda header, state: state["rgb_sum"].__setitem__((0, 0), -1.0),
        lambda header, state: state["rgb_sum"].__setitem__((0, 0), 1e9),
        lambda header, state: state["seen_through"].__setitem__(0, -4),
        lambda header, state: state["hits"].__setitem__(0, 0),
        lambda header, state: state["views"].__setitem__(0, 0),
        lambda header, state: state["views"].__setitem__(0, 1 + int(state["hits"][0])),
        lambda header, state: state.pop("views"),
        lambda header, state: header.update(version=0),
        lambda header, state: header.update(version=True),
        lambda header, state: header.update(version="2"),
        lambda header, state: state["key"].__setitem__(0, -5),
        lambda header, state: state["key"].__setitem__(0, state["key"][1]),
        lambda header, state: state["vectors"].__setitem__((0, 0), torch.nan),
        lambda header, state: state.update(vectors=state["vectors"].double()),
    ],
)
def test_files_that_were_made_wrong_are_refused(tmp_path, change):
    path = tmp_path / "a.radmap"
    save_map(path, some_map())
    rewrite(path, change)
    with pytest.raises(MapFileError):
        load_map(path)


def test_other_files_and_no_files_are_refused(tmp_path):
    with pytest.raises(MapFileError, match="no map file"):
        load_map(tmp_path / "none.radmap")
    save_file({"x": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(MapFileError, match="not a map"):
        load_map(tmp_path / "weights.safetensors")
    with pytest.raises(MapFileError):
        save_map(tmp_path / "no" / "a.radmap", some_map())


def test_a_header_of_any_depth_is_one_sentence(tmp_path):
    path = tmp_path / "a.radmap"
    save_map(path, some_map())
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for text in ("[" * 100_000, '{"a":' * 50_000, "null", "7", '"map"', "{", "\x00", "NaN"):
        save_file(state, path, {"radmap": text})
        with pytest.raises(MapFileError) as error:
            load_map(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_loading_keeps_to_the_bounds_of_the_reader(tmp_path):
    whole = some_map()
    save_map(tmp_path / "a.radmap", whole)
    for bounds in ({"max_voxels": 50}, {"max_bytes": 20_000}):
        config = MapConfig(voxel_size=0.2, **bounds)
        loaded, _ = load_map(tmp_path / "a.radmap", config=config)
        assert 0 < len(loaded) < len(whole)
        assert len(loaded) <= bounds.get("max_voxels", 10**9)
        assert loaded.nbytes <= bounds.get("max_bytes", 10**9)


def test_a_damaged_map_in_memory_is_not_written(tmp_path):
    path = tmp_path / "a.radmap"
    save_map(path, some_map())
    before = path.read_bytes()
    broken = some_map()
    broken.table["rgb_sum"][3, 1] = torch.nan
    with pytest.raises(MapFileError, match="the map in memory is damaged: impossible colours"):
        save_map(path, broken)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.radmap"]


VERSIONS = sorted((Path(__file__).parent / "data" / "maps").glob("*.radmap"))


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_files_of_earlier_versions_load(path):
    expect = MapIdentity("test-encoder", "0123456789ab", "siglip2", frame_id="map")
    snapshot = load_map(path, expect)[0].snapshot()
    with np.load(path.with_suffix(".npz")) as content:
        order = np.lexsort(snapshot.index.numpy().T)
        assert np.array_equal(snapshot.index.numpy()[order], content["index"])
        assert np.array_equal(snapshot.hits.numpy()[order], content["hits"])
        assert np.array_equal(snapshot.last_seen_ns.numpy()[order], content["last"])
        views = content["views"] if "views" in content else np.ones(len(order), np.int32)
        assert np.array_equal(snapshot.views.numpy()[order], views)
        for name in ("rgb", "features"):
            np.testing.assert_allclose(
                getattr(snapshot, name).numpy()[order], content[name], atol=1e-6
            )


def test_there_is_a_file_of_every_version():
    assert {f"v{version + 1}" for version in range(VERSION)} == {p.stem[:2] for p in VERSIONS}


def kinds_map(dtype: str = "float32", channels: int = 24, **options) -> VoxelMap:
    """A map whose vectors are those of a few kinds of things, and some noise."""
    world = make_map(0.2, channels, dtype=dtype, **options)
    rng = np.random.default_rng(3)
    kinds = rng.normal(size=(5, channels)).astype(np.float32)
    for step in range(3):
        frame, features = random_frame(rng, stamp_ns=step, channels=channels)
        which = torch.from_numpy(kinds[rng.integers(0, 5, features.data.shape[1:])])
        features.data.mul_(0.2).add_(which.permute(2, 0, 1))
        world.integrate(frame, features)
    return world


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_in_a_share_of_their_memory(tmp_path, dtype):
    world = kinds_map(dtype)
    exact, near, whole = world.snapshot(), [], tmp_path / "whole.radmap"
    save_map(whole, world, IDENTITY)
    for share in (4, 8, 16):
        path = tmp_path / f"{share}.radmap"
        save_map(path, world, IDENTITY, {"of": "somebody"}, share)
        loaded, identity = load_map(path, IDENTITY)
        assert identity == IDENTITY and read_header(path).notes == {"of": "somebody"}
        assert read_geometry(path)[0].hits.equal(exact.hits)
        coded = loaded.snapshot()
        for name in ("index", "hits", "views", "rgb", "first_seen_ns", "last_seen_ns"):
            assert getattr(coded, name).equal(getattr(exact, name)), name
        near.append(float(torch.cosine_similarity(coded.features, exact.features).mean()))
        loaded.integrate(*random_frame(np.random.default_rng(9), channels=24))
        with safe_open(path, framework="pt") as file:
            nbytes = file.get_tensor("codes").shape[1]
            assert 4 * 24 // share - 4 < nbytes <= 4 * 24 // share
            assert "vectors" not in file.keys()  # noqa: SIM118
        again = tmp_path / "again.radmap"
        save_map(again, world, IDENTITY, {"of": "somebody"}, share)
        assert again.read_bytes() == path.read_bytes()
    assert near == sorted(near, reverse=True) and near[0] > 0.999 and near[2] > 0.9


def test_what_has_no_share_is_refused(tmp_path):
    path = tmp_path / "a.radmap"
    for share in (0, -4, 65):
        with pytest.raises(InputError, match=f"1/{share} of their memory"):
            save_map(path, some_map(), share=share)
    with pytest.raises(InputError, match="vectors of 5 numbers"):
        save_map(path, some_map(), share=16)
    labelled = make_map(0.2, 2, space="probability", labels=["a", "b"])
    with pytest.raises(InputError, match="as they are"):
        save_map(path, labelled, share=2)
    assert not path.exists()
    save_map(path, make_map(0.2, 5), share=4)
    assert not len(load_map(path)[0]), "an empty map is a map"


CODED = {
    "no codec": lambda header, state: state.pop("codec0_axes"),
    "no hits": lambda header, state: state.pop("hits"),
    "codes of another width": lambda header, state: state.update(
        codes=state["codes"][:, 1:].contiguous()
    ),
    "codes of another number": lambda header, state: state.update(codes=state["codes"][1:]),
    "codes of another type": lambda header, state: state.update(codes=state["codes"].int()),
    "codes that are one number": lambda header, state: state.update(codes=state["codes"][0, 0]),
    "no number": lambda header, state: state["codec0_typical"][3].fill_(torch.nan),
    "too few directions": lambda header, state: state.update(
        codec0_typical=state["codec0_typical"][:9]
    ),
    "another width": lambda header, state: state.update(
        codec0_typical=torch.cat([state["codec0_typical"]] * 2, 1),
        codec0_axes=torch.cat([state["codec0_axes"]] * 2, 1),
    ),
    "axes for nothing": lambda header, state: state.update(codec0_axes=state["codec0_axes"][1:]),
    "a flat book": lambda header, state: state.update(codec0_book4=state["codec0_book4"].flatten()),
    "a book of half numbers": lambda header, state: state.update(
        codec0_book4=state["codec0_book4"].half()
    ),
    "a point": lambda header, state: state.update(codec0_typical=state["codec0_typical"][0, 0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", CODED)
def test_codes_that_cannot_be_are_refused(tmp_path, how):
    path = tmp_path / "a.radmap"
    save_map(path, kinds_map(), share=8)
    rewrite(path, CODED[how])
    with pytest.raises(MapFileError, match="is damaged") as error:
        load_map(path)
    assert "\n" not in str(error.value)


def test_a_few_bytes_do_not_become_all_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.radmap"
    save_map(path, kinds_map(), share=16)
    monkeypatch.setattr(map_file, "ALWAYS_DECODED", 0)
    load_map(path)
    monkeypatch.setattr(map_file, "SMALLEST", 15)
    with pytest.raises(MapFileError, match="more than they can"):
        load_map(path)


def test_a_file_of_another_width_is_refused(tmp_path):
    save_map(tmp_path / "a.radmap", some_map())
    with pytest.raises(MapFileError, match="holds 5 numbers per voxel, here it is 7"):
        load_map(tmp_path / "a.radmap", channels=7)


KILL_SAVES = """
import json, os, resource, signal, sys, time
from pathlib import Path
import torch
from radseg_ros.config import MapConfig
from radseg_ros.voxels.map_file import load_map, save_map
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.voxel_map import VoxelMap

torch.set_num_threads(1)  # a process that forks must have no threads

def world(count):
    made = VoxelMap(128, MapConfig(device='cpu'))
    number = torch.arange(count)
    slots, order = made.table.claim(pack(torch.stack([number, number * 0, number * 0]).double()))
    one = torch.ones(count, dtype=torch.int64)
    black = torch.zeros(count, 3).double()
    rows = {'hits': one, 'views': one.int(), 'rgb_sum': black}
    rows |= {name: one for name in ('first_seen_ns', 'last_seen_ns', 'seen_at')}
    made.table.add(slots, rows, lambda a, b: torch.full((b - a, 128), float(count)))
    return made

path, maps = Path(sys.argv[1]), [world(20_000), world(30_000)]
for _ in range(3):  # the last one is as fast as those of the children
    start = time.perf_counter()
    save_map(path, maps[0])
    duration = time.perf_counter() - start
whole = path.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
result = {"killed": 0, "leftovers": 0, "sizes": []}
for trial in range(40):
    by_bytes, part = trial % 2, trial / 40
    child = os.fork()
    if child == 0:
        if by_bytes:  # the system kills it at this byte
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(part * whole), whole))
        save_map(path, maps[trial // 2 % 2])
        os._exit(0)
    if not by_bytes:
        time.sleep(1.5 * duration * part)
        os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    result["killed"] += by_bytes and killed
    result["leftovers"] += by_bytes and len(list(path.parent.glob(".*.part*")))
    loaded, _ = load_map(path)
    result["sizes"].append(len(loaded))
    assert bool((loaded.snapshot().features == len(loaded)).all())
print(json.dumps(result))
"""


@pytest.mark.slow
def test_a_process_killed_at_any_moment_of_saving_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.radmap"
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", KILL_SAVES, str(path)],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert set(result["sizes"]) <= {20_000, 30_000}
    assert result["killed"] == result["leftovers"] == 20, "each of those at a byte fell into a save"
    save_map(path, some_map())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # leftovers of the dead are gone


def test_a_header_that_was_changed_is_refused(tmp_path):
    """Another stamp or frame would be a sound header too: only its digest tells."""
    path = tmp_path / "a.radmap"
    save_map(path, some_map(), IDENTITY)
    whole = path.read_bytes()
    start = whole.index(b"identity")
    end = whole.index(b"sha256", start)
    for at in np.random.default_rng(0).integers(start, end, 60).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(MapFileError):
            load_map(path)
    for old, new in ((b'last_stamp_ns\\": 1', b'last_stamp_ns\\": 2'), (b'"map\\', b'"mat\\')):
        assert old in whole
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(MapFileError, match="header does not match its checksum"):
            load_map(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hits": 0, "rgb_sum": 0.0}, "hits"),
        ({"views": 0}, "views"),
        ({"last_seen_ns": STAMP_LIMIT_NS}, "stamps"),
        ({"first_seen_ns": -STAMP_LIMIT_NS}, "stamps"),
        ({"first_seen_ns": -(2**63), "last_seen_ns": -(2**63)}, "stamps"),
        ({"first_seen_ns": 5, "last_seen_ns": 4}, "stamps"),
        ({"seen_through": -1}, "looks through"),
    ],
)
def test_values_at_their_limits_are_refused(tmp_path, changes, said):
    path = tmp_path / "a.radmap"
    save_map(path, some_map())

    def change(_header, state):
        for name, value in changes.items():
            state[name][0] = value

    rewrite(path, change)
    with pytest.raises(MapFileError, match=f"impossible .*{said}"):
        load_map(path)


def test_values_within_their_limits_are_read(tmp_path):
    path = tmp_path / "a.radmap"
    save_map(path, some_map())
    limits = {"first_seen_ns": 1 - STAMP_LIMIT_NS, "last_seen_ns": STAMP_LIMIT_NS - 1}

    def change(header, state):
        header["last_stamp_ns"] = limits["last_seen_ns"]
        for name, value in limits.items():
            state[name][0] = value

    rewrite(path, change)
    loaded, _ = load_map(path)
    assert {name: int(loaded.table[name][0]) for name in limits} == limits
    assert loaded.last_stamp_ns == limits["last_seen_ns"]


@pytest.mark.parametrize("name", ["", "a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg"])
def test_the_numbers_of_a_file_are_aligned(tmp_path, name):
    path = tmp_path / "a.radmap"
    save_map(path, make_map(0.2, 5), MapIdentity(encoder=name))
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_place_that_cannot_be_written_is_told_in_words(tmp_path):
    path = tmp_path / "no" / "a.radmap"
    with pytest.raises(MapFileError) as error:
        save_map(path, make_map(0.2, 5))
    assert str(error.value) == f"the map cannot be written to {path}: No such file or directory"


def test_one_number_per_voxel_is_a_map(tmp_path):
    world = make_map(0.2, 1)
    world.integrate(*random_frame(np.random.default_rng(0), channels=1))
    save_map(tmp_path / "a.radmap", world)
    assert_same(load_map(tmp_path / "a.radmap")[0].snapshot(), world.snapshot())
