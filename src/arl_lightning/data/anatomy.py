"""The anatomy vocabulary that conditions the encoder (paper section 3.3 and appendix A.1)."""

from collections.abc import Sequence
from difflib import get_close_matches

from arl_lightning.errors import UserError

# Appendix A.1 names these sixteen and "Other"; the one-hot vector of section 3.3 has sixteen places.
ANATOMIES: tuple[str, ...] = (
    "abdominal",
    "aorta",
    "bladder",
    "breast",
    "cardiac",
    "doppler",
    "esophageal",
    "gallbladder",
    "kidney",
    "liver",
    "lung",
    "muscle",
    "oncology",
    "soft_tissue",
    "testicle",
    "thyroid",
)

# Everything outside the vocabulary, and an unknown organ: conditions the encoder with the zero vector.
OTHER = "other"

# Names that data sets use for the same thing (Table 5: MSK, Ovarian; the fetal sets have no class of their own).
ALIASES: dict[str, str] = {
    "echocardiography": "cardiac",
    "fetal": OTHER,
    "heart": "cardiac",
    "msk": "muscle",
    "musculoskeletal": "muscle",
    "ovarian": OTHER,
    "soft tissue": "soft_tissue",
    "unknown": OTHER,
}


class AnatomyVocabulary:
    """Maps anatomy names to indices: the names in order, then `other` as index `num_anatomies`.

    Args:
        names: The conditioned anatomies, without `other`.

    Raises:
        UserError: If a name stands twice, or `other` is among them.
    """

    def __init__(self, names: Sequence[str] = ANATOMIES) -> None:
        self.names = tuple(name.strip().lower() for name in names)
        if len(set(self.names)) != len(self.names) or OTHER in self.names:
            raise UserError(
                f"anatomies: {list(names)} must be distinct and must not hold '{OTHER}' (it is the zero vector)"
            )

    @property
    def num_anatomies(self) -> int:
        """Length of the one-hot vector; also the index of `other`."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the index of an anatomy, `num_anatomies` for `other`.

        Raises:
            UserError: If the vocabulary does not know the name.
        """
        canonical = self.canonical(name)
        return self.num_anatomies if canonical == OTHER else self.names.index(canonical)

    def name(self, index: int) -> str:
        """Return the name of an index that `index` gave."""
        return OTHER if index == self.num_anatomies else self.names[index]

    def canonical(self, name: str) -> str:
        """Return the vocabulary's spelling of a name or alias.

        Raises:
            UserError: If the vocabulary does not know the name.
        """
        lowered = name.strip().lower()
        if lowered in self.names or lowered == OTHER:
            return lowered
        alias = ALIASES.get(lowered)
        if alias is not None and (alias in self.names or alias == OTHER):
            return alias
        known = [*self.names, OTHER]
        close = get_close_matches(lowered, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "choose one of " + ", ".join(known)
        raise UserError(f"anatomy '{name}' is not in the vocabulary: {hint}")
