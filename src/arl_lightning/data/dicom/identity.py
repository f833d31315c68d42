"""What of an object's identity goes into a sample: keyed hashes, and words from a fixed list."""

from pydicom.dataset import Dataset

from arl_lightning.data.dicom.deidentify import Secret
from arl_lightning.data.dicom.header import text, texts

# Parts of words in Transducer Type (0018,6031) and Transducer Data (0018,5010) -> a probe of the schema, in this order:
# CURVED LINEAR is convex.
PROBES = (("CURVED", "convex"), ("CONVEX", "convex"), ("SECTOR", "sector"), ("PHASED", "sector"), ("LINEAR", "linear"))


def patient_hash(header: Dataset, secret: Secret) -> str | None:
    """Return the hash of Patient ID and its issuer; without an ID that of the study, as one study is one patient."""
    patient, study = _whole(header, "PatientID"), text(header, "StudyInstanceUID")
    if patient:
        return secret.hash("patient", patient, _whole(header, "IssuerOfPatientID"))
    return secret.hash("study", study) if study else None


def _whole(header: Dataset, keyword: str) -> str:
    """Return an attribute of one value, which a backslash that somebody typed has turned to several."""
    return "\\".join(texts(header, keyword))


def video_hash(header: Dataset, secret: Secret) -> str | None:
    """Return the hash of SOP Instance UID."""
    uid = text(header, "SOPInstanceUID")
    return secret.hash("object", uid) if uid else None


def probe_type(header: Dataset) -> str | None:
    """Return `linear`, `convex` or `sector` where the transducer's data says so in words, None otherwise."""
    for keyword in ("TransducerType", "TransducerData"):
        words = " ".join(texts(header, keyword)).upper()
        for part, probe in PROBES:
            if part in words:
                return probe
    return None
