"""The scene in beam space, and the brushes that anatomies are painted with.

For demos and tests only.

All maps are (D depth samples, L scan lines); distances are in units of the imaged depth, negative inside a shape.
"""

import cv2
import numpy as np

from arl_lightning.data.phantom.geometry import FloatArray, Geometry

TILE = 96  # texture cells along a side of the noise that `texture` bends over the scene
TILE_PIXELS = 4


class Canvas:
    """Acoustic maps of a scene, all of homogeneous tissue at first.

    Args:
        geometry: The field of view.
        num_samples: Depth samples D.
        num_lines: Scan lines L.

    Attributes:
        x, z: Scene coordinates.
        depth: Distance from the probe's face along the beam, 0 to 1.
        half_width: Half the field's width at mid depth.
        echo_db: Diffuse scattering; 0 is average soft tissue.
        loss_db: Loss per depth unit beyond average tissue; negative in fluid, large in stones, bone and gas.
        specular: Amplitude of coherent reflectors, beside diffuse scattering of amplitude 1.
        overlay: Grey drawn over the picture, 0 to 1, where `opacity` is above 0; None for none.
        opacity: Of the overlay, 0 to 1.
    """

    def __init__(self, geometry: Geometry, num_samples: int, num_lines: int) -> None:
        self.x, self.z = geometry.beam_coordinates(num_samples, num_lines)
        self.depth = np.repeat(np.linspace(0.0, 1.0, num_samples, dtype=np.float32)[:, None], num_lines, axis=1)
        self.half_width = geometry.half_width
        self.step = 1.0 / num_samples
        self.echo_db = np.zeros_like(self.x)
        self.loss_db = np.zeros_like(self.x)
        self.specular = np.zeros_like(self.x)
        self.overlay: FloatArray | None = None
        self.opacity: FloatArray | None = None

    def half_width_at(self, depth: float) -> float:
        """Return half the field's width at a depth."""
        return float(self.x[int(depth * (self.x.shape[0] - 1)), -1])

    def coverage(self, distance: FloatArray, edge: float = 0.008) -> FloatArray:
        """Return how far each sample lies inside a shape, 0 to 1 over an edge of the given width."""
        edge = max(edge, 1.5 * self.step)
        return np.clip(np.float32(0.5) - distance * np.float32(1.0 / edge), 0.0, 1.0)

    def fill(
        self,
        distance: FloatArray,
        echo_db: float | FloatArray,
        loss_db: float = 0.0,
        edge: float = 0.008,
    ) -> FloatArray:
        """Replace the tissue inside a shape; return its coverage."""
        cover = self.coverage(distance, edge)
        self.echo_db += cover * (echo_db - self.echo_db)
        self.loss_db += cover * (np.float32(loss_db) - self.loss_db)
        return cover

    def clear(self, distance: FloatArray, edge: float = 0.008) -> None:
        """Remove the coherent reflectors inside a shape."""
        self.specular *= 1.0 - self.coverage(distance, edge)

    def interface(self, distance: FloatArray, amplitude: float | FloatArray, thickness: float = 0.006) -> None:
        """Add a reflector along a shape's boundary, brightest where it faces the beam."""
        thickness = max(thickness, 1.2 * self.step)
        cosine = np.empty_like(distance)
        np.subtract(distance[1:], distance[:-1], out=cosine[1:])
        cosine[0] = cosine[1]
        cosine *= np.float32(1.0 / self.step)
        facing = np.minimum(np.float32(0.2) + np.float32(0.8) * cosine * cosine, 1.0)
        ridge = np.maximum(1.0 - np.abs(distance) * np.float32(1.0 / thickness), 0.0)
        self.specular += amplitude * ridge * facing

    def ellipse(self, cx: float, cz: float, a: float, b: float, degrees: float = 0.0) -> FloatArray:
        """Return the signed distance, to first order, to an ellipse with half axes a (turned by degrees) and b."""
        u, v = self._turned(cx, cz, degrees)
        u *= np.float32(1.0 / a)
        v *= np.float32(1.0 / b)
        rho = cv2.magnitude(u, v)
        slope = cv2.magnitude(u * np.float32(1.0 / a), v * np.float32(1.0 / b))
        rho, slope = np.asarray(rho, dtype=np.float32), np.asarray(slope, dtype=np.float32)
        return (rho - 1.0) * (rho + np.float32(1e-4)) / (slope + np.float32(1e-4 / max(a, b)))

    def tube(
        self, start: tuple[float, float], end: tuple[float, float], radius: float, bend: float = 0.0
    ) -> FloatArray:
        """Return the signed distance to a rounded bar between two (x, z) points, bowed sideways by `bend`."""
        dx, dz = end[0] - start[0], end[1] - start[1]
        length = max(float(np.hypot(dx, dz)), 1e-3)
        along = ((self.x - start[0]) * np.float32(dx) + (self.z - start[1]) * np.float32(dz)) / np.float32(length)
        across = ((self.z - start[1]) * np.float32(dx) - (self.x - start[0]) * np.float32(dz)) / np.float32(length)
        fraction = np.clip(along / np.float32(length), 0.0, 1.0)
        across -= np.float32(4.0 * bend) * fraction * (1.0 - fraction)
        distance = np.asarray(cv2.magnitude(along - fraction * np.float32(length), across), dtype=np.float32)
        return distance - np.float32(radius)

    def below(self, depth: float, rng: np.random.Generator, waviness: float = 0.01, slope: float = 0.0) -> FloatArray:
        """Return the signed distance to the half space deeper than a wavy layer, measured along the beams."""
        surface = np.float32(depth) + np.float32(slope) * self.x
        if waviness > 0.0:
            rate, phase = rng.uniform(3.0, 9.0), rng.uniform(0.0, 2.0 * np.pi)
            surface = surface + np.float32(waviness) * np.sin(np.float32(rate) * self.x + np.float32(phase))
        return surface - self.depth

    def texture(self, rng: np.random.Generator, along: float, across: float, degrees: float = 0.0) -> FloatArray:
        """Return smooth noise of mean 0 and standard deviation about 1, its grains `along` x `across` large."""
        cells = rng.standard_normal((TILE, TILE), dtype=np.float32) * np.float32(1.5)
        tile = cv2.resize(cells, None, fx=TILE_PIXELS, fy=TILE_PIXELS, interpolation=cv2.INTER_CUBIC)
        u, v = self._turned(0.0, 0.0, degrees)
        u = u * np.float32(TILE_PIXELS / along) + np.float32(TILE * TILE_PIXELS / 2)
        v = v * np.float32(TILE_PIXELS / across) + np.float32(TILE)
        noise = cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(noise, dtype=np.float32)

    def weather(self, rng: np.random.Generator) -> None:
        """Make the scene uneven: reflectors that come and go, broad light and dark patches, beams in poor contact."""
        patches = self.texture(rng, 0.06, 0.03)
        self.specular *= np.clip(np.float32(0.8) + np.float32(0.5) * patches, 0.15, 1.6)
        self.echo_db += np.float32(1.8) * self.texture(rng, 0.35, 0.25)
        contact = rng.standard_normal((1, 7), dtype=np.float32) * np.float32(1.5)
        self.echo_db += cv2.resize(contact, (self.x.shape[1], 1), interpolation=cv2.INTER_CUBIC)

    def cumulative_loss_db(self) -> FloatArray:
        """Return the loss from the probe's face down to each sample."""
        return np.cumsum(self.loss_db, axis=0, dtype=np.float32) * np.float32(self.step)

    def _turned(self, cx: float, cz: float, degrees: float) -> tuple[FloatArray, FloatArray]:
        cos, sin = np.float32(np.cos(np.deg2rad(degrees))), np.float32(np.sin(np.deg2rad(degrees)))
        dx, dz = self.x - np.float32(cx), self.z - np.float32(cz)
        return dx * cos + dz * sin, dz * cos - dx * sin
