"""Makes DICOM objects for tests."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

STILL = "1.2.840.10008.5.1.4.1.1.6.1"
CINE = "1.2.840.10008.5.1.4.1.1.3.1"
# GDCM's encoder ends the process over frames of odd length.
ENCODERS = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}
KEY = "9f3a61c4d27e805b1e94a7f06c3d82b5407be9d16fa852c3e08d3b7491c6f52a"


def make(path: Path, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Path:
    """Write an object whose frames are `pixels`: (H, W), (N, H, W), (H, W, 3) or (N, H, W, 3), little endian."""
    colour = pixels.shape[-1] == 3 and pixels.ndim > 2
    cine = pixels.ndim == 4 or (pixels.ndim == 3 and not colour)
    data = dataset(CINE if cine else STILL, syntax)
    height, width = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.Rows, data.Columns = height, width
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if cine:
        data.NumberOfFrames = len(pixels)
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    if "BitsStored" in attributes:
        data.HighBit = data.BitsStored - 1
    if "PixelData" not in data:
        stored = pixels.byteswap() if syntax == ExplicitVRBigEndian else pixels
        data.PixelData = stored.tobytes() + b"\0" * (pixels.nbytes % 2)
        data["PixelData"].VR = "OB" if bits == 8 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    if "PixelData" not in attributes and data.file_meta.TransferSyntaxUID.is_encapsulated:
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(syntax, generate_instance_uid=False, encoding_plugin=ENCODERS[str(syntax)])
    data.save_as(path, enforce_file_format=True)
    return path


def dataset(sop_class: str, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return an ultrasound object without a picture."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = sop_class, generate_uid()
    data.StudyInstanceUID = generate_uid()
    data.Modality = "US"
    data.PatientID = "12345"
    return data


def region(left: int, top: int, right: int, bottom: int, space: int = 1, data: int = 1, **attributes: Any) -> Dataset:
    """Return an item of SequenceOfUltrasoundRegions; the ends are pixels of it."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = space, data, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def code(value: str, scheme: str, meaning: str = "") -> Dataset:
    """Return an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def jpeg(frames: Sequence[np.ndarray], **options: Any) -> dict[str, Any]:
    """Return the attributes of JPEG baseline frames, for `make`."""
    encoded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95, **options)
        encoded.append(buffer.getvalue())
    return {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate(encoded)}


def fan(height: int = 300, width: int = 400, seed: int = 0) -> np.ndarray:
    """Draw a sector of speckle, its apex above the picture's middle, on black: uint8 (H, W)."""
    rows, columns = np.mgrid[:height, :width]
    depth = np.hypot(rows + 60, columns - width / 2)
    angle = np.arctan2(columns - width / 2, rows + 60)
    inside = (depth > 120) & (depth < height + 30) & (np.abs(angle) < 0.6)
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    speckle = cv2.GaussianBlur(noise, (0, 0), 1.5)  # as broad as a scanner's beam
    return np.where(inside, np.clip(120 + 120 * speckle, 20, 220), 0).astype(np.uint8)


REGION = region(40, 30, 359, 289, PhysicalDeltaX=0.03, PhysicalDeltaY=0.02, PhysicalUnitsXDirection=3,
                PhysicalUnitsYDirection=3)  # fmt: skip


def archive(root):
    """Three good objects and one of each kind that is none."""
    regions = {"SequenceOfUltrasoundRegions": [REGION]}
    make(root / "a/still", fan(), TransducerType="CURVED LINEAR", StudyDescription="US LIVER", **regions)
    frames = np.stack([fan(seed=seed) for seed in range(10)])
    make(root / "a/cine", frames, FrameTime="100", BodyPartExamined="THYROID", TransducerType="LINEAR", **regions,
         **jpeg(frames))  # fmt: skip
    make(root / "a/doppler", fan(), SequenceOfUltrasoundRegions=[REGION, region(60, 60, 99, 99, 1, 2)])
    make(root / "b/capture", fan(), SOPClassUID="1.2.840.10008.5.1.4.1.1.7", **regions)
    make(root / "b/ct", fan(), Modality="CT")
    (root / "b/empty").write_bytes(b"")
    (root / "b/notes.txt").write_text("hello")
    (root / "b/locked").write_bytes(bytes.fromhex("30820fa006092a864886f70d010703") + b"x" * 200)
    content = (root / "a/cine").read_bytes()
    (root / "b/cut").write_bytes(content[:-100])
    return root
