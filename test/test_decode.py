# SPDX-License-Identifier: Apache-2.0
"""Message fields -> arrays: encodings, padding, byte order, damaged messages."""

from __future__ import annotations

import array
import io

import numpy as np
import pytest
from PIL import Image
from plain_messages import Message, file_bytes, raw_image

from radseg_ros.datatypes import InputError
from radseg_ros.frames.decode import (
    Damaged,
    camera_matrix,
    frame_id,
    make_frame,
    pose_matrix,
    pose_message,
    reading,
    stamp_to_ns,
)
from radseg_ros.frames.drops import Unusable
from radseg_ros.frames.images.color import color_image
from radseg_ros.frames.images.depth import depth_image
from radseg_ros.frames.images.raw import image_to_array

RGB = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
ALPHA = np.full((3, 5), 255, np.uint8)
MM = np.array([[0, 1, 1000], [2500, 65535, 42]], np.uint16)
METRES = np.array([[0, 0.001, 1], [2.5, 0, 0.042]])  # 65535 is no return


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize(
    "container",
    [bytes, bytearray, lambda b: array.array("B", b), lambda b: np.frombuffer(b, np.uint8)],
)
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("8UC3", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, ALPHA])),
        ("bgra8", np.dstack([RGB[..., ::-1], ALPHA])),
        ("8UC4", np.dstack([RGB[..., ::-1], ALPHA])),
    ],
)
def test_color_encodings(encoding, pixels, padding, container):
    decoded = color_image(raw_image(pixels, encoding, padding, container=container))
    np.testing.assert_array_equal(decoded, RGB)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_one_channel_becomes_grey(encoding):
    np.testing.assert_array_equal(
        color_image(raw_image(RGB[..., 0], encoding, 3)), np.repeat(RGB[..., :1], 3, axis=2)
    )


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 2, 5])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_16_bit_depth_is_millimetres(encoding, padding, big):
    depth = depth_image(raw_image(MM, encoding, padding, big))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, METRES, rtol=1e-6)
    np.testing.assert_allclose(
        depth_image(raw_image(MM, encoding, padding, big), 0.0002), METRES / 5, rtol=1e-6
    )


@pytest.mark.parametrize("big", [False, True])
def test_float_depth_is_metres_and_keeps_nan(big):
    metres = np.array([[0.5, np.nan, np.inf], [0.0, -1.0, 7.25]], np.float32)
    np.testing.assert_array_equal(depth_image(raw_image(metres, "32FC1", 3, big), 0.5), metres)


def test_a_last_row_without_its_padding_is_fine():
    message = raw_image(RGB, "rgb8", padding=7)
    message.data = message.data[:-7]
    np.testing.assert_array_equal(color_image(message), RGB)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoding": "nv21"}, "'nv21' is not supported; supported: rgb8, bgr8"),
        ({"height": 0}, "empty"),
        ({"width": 0}, "empty"),
        ({"step": 14}, "step 14 is shorter"),
        ({"data": b""}, "truncated: 0 bytes"),
        ({"data": bytes(44)}, "truncated: 44 bytes, 5x3 rgb8 needs 45"),
        ({"encoding": "16UC1"}, "colour image has encoding '16UC1'; supported"),
    ],
)
def test_unusable_color_is_refused_with_its_reason(change, text):
    message = raw_image(RGB, "rgb8")
    message.__dict__.update(change)
    with pytest.raises(InputError, match=text):
        color_image(message)


def test_color_is_no_depth():
    with pytest.raises(InputError, match="depth image has encoding 'rgb8'; supported: 16UC1"):
        depth_image(raw_image(RGB, "rgb8"))


def test_the_result_does_not_change_with_the_message():
    buffer = bytearray(raw_image(RGB, "rgb8").data)
    message = raw_image(RGB, "rgb8")
    message.data = buffer
    decoded = color_image(message)
    buffer[:] = bytes(len(buffer))
    np.testing.assert_array_equal(decoded, RGB)


def test_compressed_color():
    message = Message(
        format="bgr8; png compressed bgr8", data=array.array("B", file_bytes(RGB, "png"))
    )
    np.testing.assert_array_equal(color_image(message), RGB)
    smooth = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    found = color_image(Message(format="jpeg", data=file_bytes(smooth, "jpeg")))
    assert np.abs(found.astype(int) - smooth).max() < 6
    with pytest.raises(InputError, match="cannot be read"):
        color_image(Message(format="jpeg", data=file_bytes(smooth, "jpeg")[:100]))


def test_only_jpeg_and_png_are_decoded_whatever_the_message_calls_them():
    for kind in ("gif", "bmp", "tiff", "ppm"):
        for reader, name, known in (
            (color_image, "jpeg", "JPEG or PNG"),
            (depth_image, "16UC1; png", "PNG"),
        ):
            with pytest.raises(Unusable) as caught:
                reader(Message(format=name, data=file_bytes(RGB, kind)))
            assert caught.value.reason in ("compressed colour damaged", "compressed depth damaged")
            assert caught.value.detail.endswith(
                f"image cannot be read: damaged, truncated, or not {known}"
            )


def test_compressed_depth_in_both_of_its_kinds():
    header = np.zeros(3, np.float32).tobytes()
    message = Message(format="16UC1; compressedDepth png", data=header + file_bytes(MM, "png"))
    np.testing.assert_allclose(depth_image(message), METRES, rtol=1e-6)
    metres = np.array([[0.5, 1.0], [4.0, 0.0]], np.float32)
    a, b = 5000.0, 100.0
    inverse = np.where(metres > 0, np.round(a / np.maximum(metres, 1e-9) + b), 0).astype(np.uint16)
    header = np.zeros(1, np.int32).tobytes() + np.array([a, b], np.float32).tobytes()
    depth = depth_image(
        Message(format="32FC1; compressedDepth png", data=header + file_bytes(inverse, "png"))
    )
    np.testing.assert_allclose(depth, metres, rtol=1e-3)
    near = bytes(4) + np.array([0.5, 0.5], "<f4").tobytes() + file_bytes(MM, "png")
    depth = depth_image(Message(format="32FC1; compressedDepth png", data=near))
    np.testing.assert_allclose(depth[0], [0, 1, 0.5 / 999.5], rtol=1e-6)
    for data in (b"short", header + b"no png"):
        with pytest.raises(InputError, match="truncated|cannot be read"):
            depth_image(Message(format="16UC1; compressedDepth png", data=data))


def info(width: int = 5, height: int = 3, **fields: object) -> Message:
    roi = Message(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    k = [500.0, 0, 320, 0, 510, 240, 0, 0, 1]
    default = {
        "width": width,
        "height": height,
        "k": k,
        "p": [0.0] * 12,
        "binning_x": 0,
        "binning_y": 0,
        "roi": roi,
    }
    return Message(**{**default, **fields})


def test_camera_matrix_prefers_the_rectified_projection():
    K, size = camera_matrix(info(640, 480))
    np.testing.assert_array_equal(K, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
    assert size == (480, 640)
    K, _ = camera_matrix(info(p=[400.0, 0, 300, 0, 0, 410, 200, 0, 0, 0, 1, 0]))
    np.testing.assert_array_equal(K, [[400, 0, 300], [0, 410, 200], [0, 0, 1]])


def test_camera_matrix_of_normalised_coordinates_and_of_no_size():
    K, size = camera_matrix(info(0, 0, p=[0.9, 0, 0.5, 0, 0, 0.8, 0.4, 0, 0, 0, 1, 0]))
    np.testing.assert_array_equal(K, [[0.9, 0, 0.5], [0, 0.8, 0.4], [0, 0, 1]])
    assert size == (0, 0)
    color, depth = raw_image(RGB, "rgb8"), raw_image(np.ones((3, 5), np.float32), "32FC1")
    frame = make_frame(0, color, depth, info(0, 0), np.eye(4))
    np.testing.assert_array_equal(frame.K, camera_matrix(info())[0])
    K, size = camera_matrix(info(640, 480, binning_x=2, binning_y=4))
    assert size == (120, 320)
    np.testing.assert_array_equal(K, [[250, 0, 160], [0, 127.5, 60], [0, 0, 1]])


def test_camera_matrix_with_binning_and_region_of_interest():
    roi = Message(x_offset=20, y_offset=40, width=600, height=400, do_rectify=False)
    K, size = camera_matrix(info(640, 480, binning_x=2, binning_y=2, roi=roi))
    np.testing.assert_array_equal(K, [[250, 0, 150], [0, 255, 100], [0, 0, 1]])
    assert size == (200, 300)


@pytest.mark.parametrize("k", [[0.0] * 9, [np.nan] * 9, [-1.0, 0, 0, 0, 1, 0, 0, 0, 1]])
def test_an_uncalibrated_camera_is_refused(k):
    with pytest.raises(InputError, match="not calibrated"):
        camera_matrix(info(k=k))


def ros_pose(quat_xyzw, position=(1.0, 2.0, 3.0)) -> Message:
    x, y, z = position
    return Message(
        orientation=Message(**dict(zip("xyzw", quat_xyzw, strict=True))),
        position=Message(x=x, y=y, z=z),
    )


def test_pose_matrix_turns_as_quaternions_do():
    rng = np.random.default_rng(1)
    for x, y, z, w in rng.normal(size=(20, 4)):
        x, y, z, w = np.array([x, y, z, w]) / np.linalg.norm([x, y, z, w])
        T = pose_matrix(ros_pose((x, y, z, w)))
        v = rng.normal(size=3)
        t = 2 * np.cross([x, y, z], v)  # q v q*, written out
        np.testing.assert_allclose(T[:3, :3] @ v, v + w * t + np.cross([x, y, z], t), atol=1e-12)
        np.testing.assert_array_equal(T[:, 3], [1, 2, 3, 1])


@pytest.mark.parametrize("quat", [(0, 0, 0, 0), (0, 0, 0, 2.0), (np.nan, 0, 0, 1)])
def test_a_quaternion_that_is_no_rotation_is_refused(quat):
    with pytest.raises(Unusable, match="pose not rigid: its quaternion has norm"):
        pose_matrix(ros_pose(quat))


def test_make_frame_takes_different_sizes_of_the_same_view():
    rgb, depth = np.zeros((6, 10, 3), np.uint8), np.ones((3, 5), np.float32)
    frame = make_frame(7, raw_image(rgb, "rgb8"), raw_image(depth, "32FC1"), info(10, 6), np.eye(4))
    assert (frame.stamp_ns, frame.rgb.shape, frame.depth.shape) == (7, (6, 10, 3), (3, 5))
    np.testing.assert_allclose(
        frame.K[:2], [[250, 0, 160], [0, 255, 120]]
    )  # camera info of twice the size is scaled


def test_make_frame_refuses_different_views():
    rgb, depth = np.zeros((6, 10, 3), np.uint8), np.ones((4, 5), np.float32)
    with pytest.raises(
        InputError, match=r"colour image \(10x6\) and depth image \(5x4\) do not show the same view"
    ):
        make_frame(7, raw_image(rgb, "rgb8"), raw_image(depth, "32FC1"), info(5, 4), np.eye(4))
    with pytest.raises(InputError, match="camera info"):
        make_frame(
            7,
            raw_image(rgb, "rgb8"),
            raw_image(np.ones((6, 10), np.float32), "32FC1"),
            info(10, 10),
            np.eye(4),
        )
    with pytest.raises(InputError, match="rigid"):
        make_frame(
            7,
            raw_image(rgb, "rgb8"),
            raw_image(np.ones((6, 10), np.float32), "32FC1"),
            info(10, 6),
            np.zeros((4, 4)),
        )


def test_stamp():
    assert stamp_to_ns(Message(sec=1_700_000_000, nanosec=123)) == 1_700_000_000_000_000_123
    assert stamp_to_ns(Message(sec=0, nanosec=0)) == 0
    last = stamp_to_ns(Message(sec=2**31 - 1, nanosec=999_999_999))
    assert last == 2_147_483_647_999_999_999 == int(np.int64(last))


@pytest.mark.parametrize(
    ("sec", "nanosec"),
    [
        (-1, 0),
        (2**31, 0),
        (2**32 - 1, 5),
        (0, 10**9),
        (5, 2**32 - 1),
        (5, -1),
        (-(2**31), 999_999_999),
        (10**30, 0),
        (0, 10**400),
    ],
)
def test_a_stamp_that_is_no_time_is_refused_and_never_wrapped(sec, nanosec):
    with pytest.raises(Unusable) as caught:
        stamp_to_ns(Message(sec=sec, nanosec=nanosec))
    assert caught.value.reason.startswith("stamp that is no time")
    assert len(caught.value.detail) < 100


def test_frame_ids_are_names():
    for name in ("map", "/map", "caméra 2", "", "x" * 255):
        assert frame_id(name) == name
    for name in ("x" * 256, "map\nERROR", "\x1b[2J", "a\0", "\ud800"):
        with pytest.raises(Unusable, match="frame id that is no name") as caught:
            frame_id(name)
        assert caught.value.detail.isprintable() and len(caught.value.detail) < 100


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data": bytes(46)}, "longer than its rows: 46 bytes, 5x3 rgb8 needs 45"),
        ({"data": bytes(10_000)}, "longer than its rows"),
        ({"step": 20, "data": bytes(54)}, "truncated: 54 bytes, 5x3 rgb8 needs 55"),
        ({"step": 20, "data": bytes(61)}, "longer than its rows"),
        ({"step": 2**32 - 1}, "truncated"),
        ({"height": 2}, "longer than its rows"),
        ({"height": 4}, "truncated"),
    ],
)
def test_data_that_does_not_fit_its_rows_is_refused(changes, what):
    message = raw_image(RGB, "rgb8")
    message.__dict__.update(changes)
    with pytest.raises(Unusable) as caught:
        color_image(message)
    assert caught.value.reason == "colour damaged" and what in caught.value.detail


def test_data_with_or_without_the_last_padding_fits():
    for size in range(55, 61):
        message = raw_image(RGB, "rgb8", padding=5)
        message.data = message.data[:size]
        np.testing.assert_array_equal(color_image(message), RGB)


def test_headers_that_promise_too_much_cost_nothing():
    for height, width in ((2**32 - 1, 2**32 - 1), (1, 2**32 - 1), (6001, 6000), (10**400, 1)):
        for encoding, reader in (("rgb8", color_image), ("32FC1", depth_image)):
            step = width * 12
            message = Message(
                height=height, width=width, encoding=encoding, step=step, is_bigendian=0, data=b"xy"
            )
            with pytest.raises(Unusable, match="(colour|depth) (too large|damaged)"):
                reader(message)
    message.height, message.width, message.data = 6000, 6000, b""
    with pytest.raises(Unusable, match="depth damaged"):
        depth_image(message)
    message.height, message.width = -1, 5
    with pytest.raises(Unusable, match="depth empty"):
        depth_image(message)


def test_a_compressed_image_of_too_many_pixels_is_not_decoded():
    content = io.BytesIO()
    Image.new("1", (6001, 6001)).save(content, "PNG")
    with pytest.raises(Unusable, match="compressed colour damaged: .* 36 million pixels"):
        color_image(Message(format="png", data=content.getvalue()))
    for head in (b"", bytes(12)):
        kind = f"16UC1; {'compressedDepth ' if head else ''}png"
        with pytest.raises(Unusable, match="compressed depth damaged: .* 36 million pixels"):
            depth_image(Message(format=kind, data=head + content.getvalue()))


def test_no_program_is_started_for_an_image(monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 9 9 rectfill\n"
    for name in ("jpeg", "png", "eps"):
        with pytest.raises(Unusable, match="not JPEG or PNG"):
            color_image(Message(format=name, data=script))


@pytest.mark.parametrize(
    ("a", "b"), [(0.0, 1.0), (-5.0, 1.0), (np.nan, 1.0), (np.inf, 1.0), (5.0, np.nan)]
)
def test_an_impossible_quantisation_of_depth_is_refused(a, b):
    data = bytes(4) + np.array([a, b], "<f4").tobytes() + file_bytes(MM, "png")
    with pytest.raises(Unusable, match="compressed depth damaged: its quantisation"):
        depth_image(Message(format="32FC1; compressedDepth png", data=data))


def test_compressed_depth_of_8_bit_or_of_colour_is_refused():
    for pixels in (RGB, RGB[..., 0]):
        with pytest.raises(Unusable, match="depth of wrong type: it has mode"):
            depth_image(Message(format="16UC1; png", data=file_bytes(pixels, "png")))


def test_65535_is_no_return_in_every_kind_of_message():
    units = np.array([[65535, 2000, 65534]], np.uint16)
    for message in (
        raw_image(units, "16UC1"),
        raw_image(units, "mono16", big=True),
        Message(format="16UC1; png", data=file_bytes(units, "png")),
        Message(format="16UC1; compressedDepth png", data=bytes(12) + file_bytes(units, "png")),
    ):
        np.testing.assert_allclose(depth_image(message), [[0, 2, 65.534]], rtol=1e-6)
    metres = np.array([[65535.0]], np.float32)
    assert depth_image(raw_image(metres, "32FC1")) == 65535, "metres are metres"


@pytest.mark.parametrize(
    "changes",
    [
        {"k": [1e-30, 0, 0, 0, 1e-30, 0, 0, 0, 1]},
        {"k": [500.0, 0, np.nan, 0, 500, 0, 0, 0, 1]},
        {"k": [500.0, 0, 320, 0, 0, 240, 0, 0, 1]},
        {"k": [500.0, 0, 1e300, 0, 500, 240, 0, 0, 1]},
        {"k": [500.0, -1e10, 320, 0, 500, 240, 0, 0, 1]},
        {"k": [1e10, 0, 320, 0, 500, 240, 0, 0, 1]},
        {"k": [500.0, 0, 320, 0, 500, 240, 0, 0, 0]},
        {"k": [500.0, 0, 320, 0, 500, 240, 1, 0, 1]},
        {"k": [500.0]},
        {"binning_x": 2**32 - 1},
    ],
)
def test_a_camera_matrix_that_is_none_is_refused(changes):
    with pytest.raises(Unusable, match="camera info without a camera matrix: .* not calibrated"):
        camera_matrix(info(**changes))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300, -1.1e9])
def test_a_position_that_is_no_place_is_refused(number):
    for axis in range(3):
        position = [1.0, 2.0, 3.0]
        position[axis] = number
        with pytest.raises(Unusable, match="pose not finite"):
            pose_matrix(ros_pose((0, 0, 0, 1), position))
    assert pose_matrix(ros_pose((0, 0, 0, 1), (-1e9, 1e9, 0)))[0, 3] == -1e9


def test_focal_lengths_at_their_bounds_are_taken():
    for low in (1e-3, 1e9):
        K, _ = camera_matrix(info(k=[low, 0, 1, 0, low, 1, 0, 0, 1]))
        assert K[0, 0] == K[1, 1] == low


FRAME = {"color": raw_image(RGB, "rgb8"), "depth": raw_image(np.ones((3, 5), np.float32), "32FC1")}


@pytest.mark.parametrize("part", ["color", "depth", "info"])
@pytest.mark.parametrize(
    "fields",
    [
        {"width": "wide"},
        {"height": None},
        {"height": float("nan")},
        {"height": -3, "width": -5},
    ],
)
def test_fields_of_other_types_are_refused_in_one_sentence(part, fields):
    parts = {**FRAME, "info": info()}
    parts[part] = Message(**{**vars(parts[part]), **fields})
    with pytest.raises(Unusable) as caught:
        make_frame(0, parts["color"], parts["depth"], parts["info"], np.eye(4))
    assert "0x" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("part", ["color", "depth", "info"])
def test_messages_without_fields_are_refused(part):
    for nothing in (Message(), None, 5, Message(encoding=[], k="", format=None)):
        parts = {**FRAME, "info": info(), part: nothing}
        with pytest.raises(Unusable):
            make_frame(0, parts["color"], parts["depth"], parts["info"], np.eye(4))


def test_data_that_is_a_number_is_not_taken_for_a_size():
    for kind in ("jpeg", "16UC1; png"):
        with pytest.raises(TypeError):
            color_image(Message(format=kind, data=10**12))


def test_a_damaged_message_has_its_stamp_and_a_reason():
    fault = Unusable("colour message damaged", "cut")
    damaged = Damaged(fault, (3, 5))
    assert stamp_to_ns(damaged.header.stamp) == 3_000_000_005 and damaged.header.frame_id == ""
    for reader in (color_image, depth_image, image_to_array, camera_matrix, pose_message):
        with pytest.raises(Unusable, match="colour message damaged: cut"):
            reader(damaged)
    with pytest.raises(Unusable, match="cut"):
        _ = Damaged(fault).header
    for what in (MemoryError(), fault):
        with pytest.raises(type(what)), reading("x"):
            raise what
    with pytest.raises(Unusable, match="^x refused: no pose$"), reading("x"):
        raise InputError("no pose")
    with pytest.raises(Unusable, match="^x whose fields cannot be read: KeyError$"), reading("x"):
        raise KeyError(object())


def test_every_supported_encoding_is_decoded():
    np.testing.assert_array_equal(image_to_array(raw_image(MM, "16UC1", 3, big=True)), MM)
    assert image_to_array(raw_image(MM, "16UC1", big=True)).dtype == np.uint16
