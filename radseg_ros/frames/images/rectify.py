# SPDX-License-Identifier: Apache-2.0
"""Images as a lens makes them -> images of the pinhole camera that CameraInfo describes.

Each pixel of the pinhole image looks along a ray, and the lens model says where that ray met the
image that came (sensor_msgs/CameraInfo; the models and their coefficients are OpenCV's). OpenCV is
asked for by whoever rectifies only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...datatypes import ConfigError
from ..drops import Unusable

# distortion_model of CameraInfo -> how many coefficients it takes
MODELS = {
    "plumb_bob": (4, 5),  # k1 k2 p1 p2, k3
    "rational_polynomial": (8, 12, 14),  # the same and k4 k5 k6, thin prism, tilt of the sensor
    "equidistant": (4,),  # k1 k2 k3 k4 (Kannala and Brandt 2006)
}
STEPS = 1024  # on the way from the axis to the farthest corner, where a lens may fold the image
LONGEST_SIDE = 2**15 - 1  # px; OpenCV keeps places in 16 bit
OUTSIDE = -2.0  # px; a place of which no part is in the image


@dataclass(frozen=True, slots=True, eq=False)
class Lens:
    """How images of one size are distorted, and the pinhole camera that they are rectified to."""

    model: str  # one of MODELS
    D: tuple[float, ...]
    K: np.ndarray  # (3, 3) px, of the image as it comes
    P: np.ndarray  # (3, 3) px, of the rectified one

    def scaled(self, old_hw: tuple[int, int], new_hw: tuple[int, int]) -> Lens:
        """The lens of the same view in another resolution."""
        if old_hw == new_hw:
            return self
        from ...geometry import scale_intrinsics  # brings torch

        K, P = (scale_intrinsics(matrix, old_hw, new_hw) for matrix in (self.K, self.P))
        return replace(self, K=K, P=P)


class Rectifier:
    """Rectifies the images of one camera.

    Where each pixel comes from is worked out once for a lens, and kept until another one comes: up
    to 10 bytes for a pixel of colour and depth.

    Raises:
        ConfigError: OpenCV is not installed.
        Unusable: an image, later: OpenCV cannot hold its longer side.
    """

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ConfigError(
                "node.rectify needs OpenCV: pip install 'radseg_ros[rectify]', or apt install "
                f"python3-opencv ({error})"
            ) from error
        self._cv2: Any = cv2
        self._kept: dict[int, tuple[tuple[object, ...], Any]] = {}  # interpolation -> key, places

    def color(self, rgb: np.ndarray, lens: Lens) -> np.ndarray:
        """(H, W, 3) uint8, bilinear between the pixels that came; black where none did."""
        return self._remapped(rgb, lens, self._cv2.INTER_LINEAR)

    def depth(self, depth: np.ndarray, lens: Lens) -> np.ndarray:
        """(H, W) float32 m along the optical axis, which rectifying leaves as it is.

        The nearest pixel that came, so that no two surfaces are mixed; 0 where none did.
        """
        return self._remapped(depth, lens, self._cv2.INTER_NEAREST)

    def _remapped(self, image: np.ndarray, lens: Lens, interpolation: int) -> np.ndarray:
        size = image.shape[:2]
        if max(size) >= LONGEST_SIDE:
            raise Unusable("image too large", f"node.rectify takes sides below {LONGEST_SIDE} px")
        key = (lens.model, lens.D, lens.K.tobytes(), lens.P.tobytes(), size)
        kept = self._kept.get(interpolation)
        if kept is None or kept[0] != key:
            nearest = interpolation == self._cv2.INTER_NEAREST
            places = self._cv2.convertMaps(
                *self._places(lens, size), self._cv2.CV_16SC2, nninterpolation=nearest
            )
            kept = self._kept[interpolation] = key, places
        return self._cv2.remap(np.ascontiguousarray(image), *kept[1], interpolation)

    def _places(self, lens: Lens, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Column and row (h, w) float32 of the image that came, for each pixel of the rectified.

        A lens model holds up to some angle. Where it turns back, rays farther out would show a
        second time what is within; they count as outside, as do those beside the image.
        """
        height, width = size
        u, v = self._distorted(lens, lens.K, lens.P, (width, height))
        across, down = (width - 1) / 2, (height - 1) / 2
        inside = (np.abs(u - across) <= width / 2) & (np.abs(v - down) <= height / 2)
        (fx, _, cx), (_, fy, cy), _ = lens.P
        x, y = np.abs(np.arange(width) - cx) / fx, np.abs(np.arange(height) - cy)[:, None] / fy
        inside &= x * x + y * y <= self._reach(lens, np.hypot(x.max(), y.max())) ** 2
        # half a pixel beside the outermost ones they still are the nearest, and alone
        u = np.where(inside, u.clip(0, width - 1), np.float32(OUTSIDE))
        v = np.where(inside, v.clip(0, height - 1), np.float32(OUTSIDE))
        return u, v

    def _reach(self, lens: Lens, farthest: float) -> float:
        """The distance from the axis (tangent of the angle) up to which a lens turns outwards.

        Along x, which tells for all directions: what is not radial in a lens is small.
        """
        step = max(farthest, 1e-9) / (STEPS - 1)
        line = np.diag([1 / step, 1.0, 1.0])
        place = self._distorted(lens, np.eye(3), line, (STEPS, 1))[0][0]
        with np.errstate(invalid="ignore"):
            back = ~(np.diff(place) > 0)  # NaN compares as false
        return float(back.argmax() * step) if back.any() else np.inf

    def _distorted(
        self, lens: Lens, K: np.ndarray, P: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the rays of pinhole camera ``P`` are in the distorted image of ``K``, px; size is
        (w, h).
        """
        of = self._cv2.fisheye if lens.model == "equidistant" else self._cv2
        D = np.array(lens.D)
        return of.initUndistortRectifyMap(K, D, np.eye(3), P, size, self._cv2.CV_32FC1)
