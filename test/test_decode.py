# SPDX-License-Identifier: Apache-2.0
"""Message fields -> arrays: encodings, padding, byte order, damaged messages."""

from __future__ import annotations

import array
import io
from types import SimpleNamespace as Message

import numpy as np
import pytest
from PIL import Image

from radseg_ros.datatypes import InputError
from radseg_ros.frames.decode import (
    camera_matrix,
    color_image,
    depth_image,
    image_to_array,
    make_frame,
    pose_matrix,
    stamp_to_ns,
)
from radseg_ros.frames.drops import Unusable

RGB = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
MM = np.array([[0, 1, 1000], [2500, 65535, 42]], np.uint16)
METRES = np.array([[0, 0.001, 1], [2.5, 0, 0.042]])  # 65535 is no return


def image(
    pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False, container=bytes
) -> Message:
    height, width = pixels.shape[:2]
    ordered = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    row = ordered.itemsize * pixels[0].size
    rows = np.full((height, row + padding), 0xEE, np.uint8)
    rows[:, :row] = np.frombuffer(ordered.tobytes(), np.uint8).reshape(height, row)
    size = {"height": height, "width": width, "step": row + padding}
    return Message(**size, encoding=encoding, is_bigendian=int(big), data=container(rows.tobytes()))


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
        ("rgba8", np.dstack([RGB, RGB[..., :1]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., :1]])),
    ],
)
def test_color_encodings(encoding, pixels, padding, container):
    decoded = color_image(image(pixels, encoding, padding, container=container))
    np.testing.assert_array_equal(decoded, RGB)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous


def test_mono8_becomes_grey():
    np.testing.assert_array_equal(
        color_image(image(RGB[..., 0], "mono8", 3)), np.repeat(RGB[..., :1], 3, axis=2)
    )


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 2, 5])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_16_bit_depth_is_millimetres(encoding, padding, big):
    depth = depth_image(image(MM, encoding, padding, big))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, METRES, rtol=1e-6)
    np.testing.assert_allclose(
        depth_image(image(MM, encoding, padding, big), 0.0002), METRES / 5, rtol=1e-6
    )


@pytest.mark.parametrize("big", [False, True])
def test_float_depth_is_metres_and_keeps_nan(big):
    metres = np.array([[0.5, np.nan, np.inf], [0.0, -1.0, 7.25]], np.float32)
    np.testing.assert_array_equal(depth_image(image(metres, "32FC1", 3, big), 0.5), metres)


def test_a_last_row_without_its_padding_is_fine():
    message = image(RGB, "rgb8", padding=7)
    message.data = message.data[:-7]
    np.testing.assert_array_equal(color_image(message), RGB)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoding": "yuv422"}, "'yuv422' is not supported; supported: rgb8, bgr8"),
        ({"height": 0}, "empty"),
        ({"width": 0}, "empty"),
        ({"step": 14}, "step 14 is shorter"),
        ({"data": b""}, "truncated: 0 bytes"),
        ({"data": bytes(44)}, "truncated: 44 bytes, 5x3 rgb8 needs 45"),
        ({"encoding": "16UC1"}, "colour image has encoding '16UC1'; supported"),
    ],
)
def test_unusable_color_is_refused_with_its_reason(change, text):
    message = image(RGB, "rgb8")
    message.__dict__.update(change)
    with pytest.raises(InputError, match=text):
        color_image(message)


def test_color_is_no_depth():
    with pytest.raises(InputError, match="depth image has encoding 'rgb8'; supported: 16UC1"):
        depth_image(image(RGB, "rgb8"))


def test_the_result_does_not_change_with_the_message():
    buffer = bytearray(image(RGB, "rgb8").data)
    message = image(RGB, "rgb8")
    message.data = buffer
    decoded = color_image(message)
    buffer[:] = bytes(len(buffer))
    np.testing.assert_array_equal(decoded, RGB)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_compressed_color():
    message = Message(
        format="bgr8; png compressed bgr8", data=array.array("B", encoded(RGB, "png"))
    )
    np.testing.assert_array_equal(color_image(message), RGB)
    smooth = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    assert (
        np.abs(
            color_image(Message(format="jpeg", data=encoded(smooth, "jpeg"))).astype(int) - smooth
        ).max()
        < 6
    )
    with pytest.raises(InputError, match="cannot be read"):
        color_image(Message(format="jpeg", data=encoded(smooth, "jpeg")[:100]))


def test_only_jpeg_and_png_are_decoded_whatever_the_message_calls_them():
    for kind in ("gif", "bmp", "tiff", "ppm"):
        for reader, name, known in (
            (color_image, "jpeg", "JPEG or PNG"),
            (depth_image, "16UC1; png", "PNG"),
        ):
            with pytest.raises(Unusable) as caught:
                reader(Message(format=name, data=encoded(RGB, kind)))
            assert caught.value.reason in ("compressed colour damaged", "compressed depth damaged")
            assert caught.value.detail.endswith(
                f"image cannot be read: damaged, truncated, or not {known}"
            )


def test_compressed_depth_in_both_of_its_kinds():
    header = np.zeros(3, np.float32).tobytes()
    message = Message(format="16UC1; compressedDepth png", data=header + encoded(MM, "png"))
    np.testing.assert_allclose(depth_image(message), METRES, rtol=1e-6)
    metres = np.array([[0.5, 1.0], [4.0, 0.0]], np.float32)
    a, b = 5000.0, 100.0
    inverse = np.where(metres > 0, np.round(a / np.maximum(metres, 1e-9) + b), 0).astype(np.uint16)
    header = np.zeros(1, np.int32).tobytes() + np.array([a, b], np.float32).tobytes()
    depth = depth_image(
        Message(format="32FC1; compressedDepth png", data=header + encoded(inverse, "png"))
    )
    np.testing.assert_allclose(depth, metres, rtol=1e-3)
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
    frame = make_frame(7, image(rgb, "rgb8"), image(depth, "32FC1"), info(10, 6), np.eye(4))
    assert (frame.stamp_ns, frame.rgb.shape, frame.depth.shape) == (7, (6, 10, 3), (3, 5))
    np.testing.assert_allclose(
        frame.K[:2], [[250, 0, 160], [0, 255, 120]]
    )  # camera info of twice the size is scaled


def test_make_frame_refuses_different_views():
    rgb, depth = np.zeros((6, 10, 3), np.uint8), np.ones((4, 5), np.float32)
    with pytest.raises(
        InputError, match=r"colour image \(10x6\) and depth image \(5x4\) do not show the same view"
    ):
        make_frame(7, image(rgb, "rgb8"), image(depth, "32FC1"), info(5, 4), np.eye(4))
    with pytest.raises(InputError, match="camera info"):
        make_frame(
            7,
            image(rgb, "rgb8"),
            image(np.ones((6, 10), np.float32), "32FC1"),
            info(10, 10),
            np.eye(4),
        )
    with pytest.raises(InputError, match="rigid"):
        make_frame(
            7,
            image(rgb, "rgb8"),
            image(np.ones((6, 10), np.float32), "32FC1"),
            info(10, 6),
            np.zeros((4, 4)),
        )


def test_stamp():
    assert stamp_to_ns(Message(sec=1_700_000_000, nanosec=123)) == 1_700_000_000_000_000_123


def test_every_supported_encoding_is_decoded():
    np.testing.assert_array_equal(image_to_array(image(MM, "16UC1", 3, big=True)), MM)
    assert image_to_array(image(MM, "16UC1", big=True)).dtype == np.uint16
