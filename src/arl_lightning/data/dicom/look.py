"""A few frames of an object, on which the detectors work.

H rows, W columns of a picture, h and w of a box in it.
"""

import numpy as np

from arl_lightning.data.dicom.outline import find_outline
from arl_lightning.data.dicom.pixels import Frames
from arl_lightning.data.dicom.regions import Box
from arl_lightning.data.dicom.text import has_text
from arl_lightning.data.media import UnreadableError

LOOKED_AT = 12  # frames of a cine, spread over all of it
LOOKED_AT_BYTES = 2**26  # of decoded pixels
BRIGHTEST = 99  # percentile of deep pixels that is shown as white


class Look:
    """Frames spread over a cine but for damaged ones, or the still itself; decoded when they are first needed."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._pixels: dict[int, np.ndarray] = {}
        self._images: list[np.ndarray] = []
        self._text: dict[tuple[Box, bytes | None], bool] = {}

    @property
    def pixels(self) -> dict[int, np.ndarray]:
        """Index of a frame -> its pixels as stored.

        Raises:
            UnreadableError: If none of them can be decoded.
        """
        if not self._pixels:
            frames = self._frames
            at_most = max(1, min(LOOKED_AT, frames.num_frames, LOOKED_AT_BYTES // frames.num_bytes))
            indices = np.unique(np.linspace(0, frames.num_frames - 1, at_most).astype(int))
            decoded = ((int(index), self._decode(int(index))) for index in indices)
            self._pixels = {index: pixels for index, pixels in decoded if pixels is not None}
            if not self._pixels:
                frames.decode(0)  # tells what is wrong with it
        return self._pixels

    @property
    def images(self) -> list[np.ndarray]:
        """The frames as uint8 (H, W), the brightest of a pixel's channels."""
        if not self._images:
            self._images = [self._visible(pixels) for pixels in self.pixels.values()]
        return self._images

    def outline(self, box: Box, strict: bool) -> np.ndarray | None:
        """Return the mask, bool (h, w), of the ultrasound within a box, None where the detector is not sure."""
        return find_outline((self._visible(pixels[box.slices]) for pixels in self.pixels.values()), strict)

    def shows_text(self, box: Box, mask: np.ndarray | None) -> bool:
        """Tell whether text stands in what is kept of the frames, in any of them or in what they have in common.

        Args:
            box: The part that is cut out.
            mask: bool (h, w), True = kept, None for all of the box.
        """
        key = box, None if mask is None else mask.tobytes()
        if key not in self._text:
            kept = [_brightest(self._frames.render(pixels[box.slices], mask)) for pixels in self.pixels.values()]
            # Text that stays is seen best where tissue that sticks to its letters in each frame has moved away.
            self._text[key] = any(has_text(image, mask) for image in kept) or (
                len(kept) > 1 and has_text(np.min(kept, axis=0), mask)
            )
        return self._text[key]

    def _visible(self, pixels: np.ndarray) -> np.ndarray:
        """Render pixels for an eye or a detector: in deep ones, beside a few bright letters all else may be black."""
        if self._frames.is_deep:
            pixels = np.minimum(pixels, np.percentile(pixels, BRIGHTEST).astype(pixels.dtype))
        return _brightest(self._frames.render(pixels))

    def _decode(self, index: int) -> np.ndarray | None:
        try:
            return self._frames.decode(index)
        except UnreadableError:
            return None


def _brightest(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else image.max(axis=-1)
