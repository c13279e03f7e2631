"""The expert zoo: six small committed language models and the questions they answer."""

from pathlib import Path

__all__ = ["EXPERTS", "FIELDS", "WEIGHTS", "model_dir"]

FIELDS: tuple[str, ...] = ("arithmetic", "geography", "chemistry", "vocabulary", "text")
EXPERTS: tuple[str, ...] = (*FIELDS, "generalist")
WEIGHTS = Path(__file__).resolve().parent / "weights"


def model_dir(name: str) -> Path:
    """Return the Hugging Face directory of one expert; ValueError for a name not in EXPERTS."""
    if name not in EXPERTS:
        raise ValueError(f"unknown expert {name!r}; known: {', '.join(EXPERTS)}")
    return WEIGHTS / name
