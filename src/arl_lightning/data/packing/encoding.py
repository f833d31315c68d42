"""How images are stored in shards.

Shapes: an image is uint8, (H, W) grey or (H, W, 3) RGB.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from arl_lightning.errors import UserError


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    The default short side keeps the smallest local crop of pretraining (5 % of the area for 96 pixels: 86 of 384) near
    its own resolution, while shards stay small and decode fast.

    Attributes:
        image_format: `jpg` or, lossless, `png`.
        quality: Of a JPEG, 1 to 100.
        short_side: Images with a longer short side are scaled down to it; `keep`, or None, which it becomes, keeps
            every size.
        colour: `grey` or `rgb` for all images, `auto` keeps colour where an image has it.

    Raises:
        UserError: If a value is out of its range.
    """

    image_format: Literal["jpg", "png"] = "jpg"
    quality: int = 92
    short_side: int | Literal["keep"] | None = 384
    colour: Literal["auto", "grey", "rgb"] = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality {self.quality}: must be 1 to 100")
        if self.short_side == "keep":
            object.__setattr__(self, "short_side", None)
        elif self.short_side is not None and self.short_side < 1:
            raise UserError(f"short_side {self.short_side}: must be at least 1 pixel, or keep, for every size")

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return the image in the colours and at the size it is stored in."""
        if self.colour == "grey" and image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        elif self.colour == "rgb" and image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        height, width = image.shape[:2]
        if not isinstance(self.short_side, int) or min(height, width) <= self.short_side:
            return image
        scale = self.short_side / min(height, width)
        size = (round(width * scale), round(height * scale))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    def encode(self, image: np.ndarray) -> bytes:
        """Return the bytes of a .jpg or .png file of a prepared image."""
        pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, self.quality] if self.image_format == "jpg" else []
        done, encoded = cv2.imencode(f".{self.image_format}", pixels, options)
        if not done:
            raise ValueError(f"image of shape {image.shape} and type {image.dtype} cannot be encoded")
        return encoded.tobytes()
