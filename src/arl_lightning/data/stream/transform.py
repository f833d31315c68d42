"""From a raw sample to the views of its image."""

# H, W an image's height and width; G global and L local views, C channels

import hashlib
import json
from typing import TypedDict

import cv2
import numpy as np

from arl_lightning.data.anatomy import AnatomyVocabulary
from arl_lightning.data.stream.records import BadSampleError, RawSample
from arl_lightning.data.views import MultiCrop


class PretrainingSample(TypedDict):
    """One element of a PretrainingBatch, before it is stacked."""

    global_views: np.ndarray
    local_views: np.ndarray
    anatomy: int
    seed: int
    key: str


class PretrainingTransform:
    """Decodes a raw sample and cuts its views.

    Args:
        multi_crop: Cuts the views.
        vocabulary: Gives the anatomy its index.
        in_chans: 1 decodes to grey, 3 to RGB.
        check_images: Compare each image's sha256 with its record's, which finds damage that still decodes.
    """

    def __init__(
        self, multi_crop: MultiCrop, vocabulary: AnatomyVocabulary, in_chans: int, check_images: bool = False
    ) -> None:
        self.multi_crop = multi_crop
        self.vocabulary = vocabulary
        self.in_chans = in_chans
        self.check_images = check_images

    def __call__(self, raw: RawSample, seed: int) -> PretrainingSample:
        """Return the sample whose views the seed draws.

        Raises:
            BadSampleError: If the image or the record cannot be decoded, or they do not belong together.
        """
        encoded = raw.get("jpg") or raw.get("png") or b""
        try:
            record = json.loads(raw["json"])
            anatomy = record["anatomy"]
        except (KeyError, ValueError) as error:
            raise BadSampleError(f"record without an anatomy ({error!r})") from error
        if self.check_images and hashlib.sha256(encoded).hexdigest() != record.get("sha256"):
            raise BadSampleError("image whose checksum is not its record's")
        image = decode_image(encoded, self.in_chans)
        # What `default_rng` makes, in two thirds of its time.
        views = self.multi_crop(image, np.random.Generator(np.random.PCG64(seed)))
        return {**views, "anatomy": self.vocabulary.index(anatomy), "seed": seed, "key": raw["__key__"]}


def decode_image(encoded: bytes, in_chans: int) -> np.ndarray:
    """Decode to uint8, (H, W) for one channel, (H, W, 3) RGB for three.

    Raises:
        BadSampleError: If it is no image.
    """
    if not encoded:
        raise BadSampleError("no jpg or png, or an empty one")
    flag = cv2.IMREAD_GRAYSCALE if in_chans == 1 else cv2.IMREAD_COLOR
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)
    if image is None:
        raise BadSampleError("undecodable image")
    return image if in_chans == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
