"""A trigger from an image file, for a planted pattern that the user has."""

import hashlib
import io
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from pargate import seeds
from pargate.core.stamp import ONE, Mix, Paste
from pargate.errors import InputError
from pargate.files import open_file, refuse_pointer, sha256_stream
from pargate.images.decode import FORMATS
from pargate.triggers.base import ROUNDING, TRIGGERS, ControlKind, Invariant, Length, Trigger, fixed
from pargate.triggers.blend import Alpha, blend
from pargate.triggers.patch import Position, place

NOISE = 0.25
"""Correlation of neighbouring pixels below which an image counts as noise; photographs and drawings have 0.5 to 1."""

FAINT = 16.0
"""Standard deviation, in levels, below which noise counts as grain on one colour; uniform noise has 74."""


@TRIGGERS.add("file")
class FileTrigger(Trigger):
    """An image file that is pasted, blended over the whole image, or blended where it is not black.

    Reading the file sets `sha256`; a `sha256` in a policy must match.
    """

    kind = "file"
    paths = ("path",)
    strength = "alpha"
    source = "the user's own pattern"
    invariants = frozenset[Invariant]()

    path: Path = Field(description="the picture; relative to the policy")
    sha256: str = Field("", description="digest of the picture")
    mode: Literal["patch", "blend", "masked-blend"] = Field(
        "patch", description="paste it, blend it everywhere, or blend it where it is not black"
    )
    alpha: Alpha = 0.2
    size: Length | None = Field(None, description="side of the patch; the picture's own by default")
    position: Position = "random"

    @classmethod
    def of_png(cls, png: bytes, path: Path, **parameters: Any) -> Self:
        """Return the trigger that `read` would give if `png` were the content of the file at `path`."""
        found = cls(path=path, sha256=hashlib.sha256(png).hexdigest(), **parameters)
        with Image.open(io.BytesIO(png)) as image:
            found.__dict__["picture"] = image.convert("RGB")
        return found

    @property
    def control(self) -> ControlKind:
        """Kind of the control: flat for patches and for blended noise, which shuffling leaves noise; else shuffled."""
        return "flat" if self.mode == "patch" or (self.mode == "blend" and self._is_noise) else "shuffled"

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters except the path: the digest identifies the file."""
        return {key: value for key, value in super().parameters.items() if key != "path"}

    @property
    def label(self) -> str:
        """Name in reports: `name`, or the name of the file, the mode and the strength."""
        strength = "" if self.mode == "patch" else f", alpha {self.alpha:g}"
        return self.name or f"file {self.path.name} ({self.mode}{strength})"

    @property
    def pin(self) -> dict[str, str]:
        """Digest of the file."""
        return {"sha256": self.sha256}

    def read(self, folder: Path) -> Self:
        """Return the trigger with its file read; the path is relative to `folder`.

        Raises:
            InputError: the file is missing, no picture, or not the one whose digest was given.
        """
        path = folder / self.path
        try:
            with open_file(path) as stream:
                refuse_pointer(f"the trigger file {path}", stream.peek())
                digest = sha256_stream(stream)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read the trigger file {path}: {reason}", "check `path`") from error
        if self.sha256 not in ("", digest):
            raise InputError(
                f"the trigger file {path} has digest {digest}, not {self.sha256}",
                "restore the file or its `sha256`",
            )
        found = self.model_copy(update={"path": path, "sha256": digest})
        found.picture  # noqa: B018 - decoded now, so that a broken file is refused before the scan measures anything
        return found

    @cached_property
    def picture(self) -> Image.Image:
        """Decoded image in RGB; an array would break the comparison of triggers.

        Raises:
            InputError: the file cannot be decoded.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about odd metadata
                with Image.open(self.path, formats=FORMATS) as image:
                    return image.convert("RGB")
        except Exception as error:  # any error of a decoder means unreadable
            raise InputError(f"the trigger file {self.path} is not a complete picture", "give a PNG or JPEG") from error

    @cached_property
    def _is_noise(self) -> bool:
        """Whether the pixels of the image differ, and neighbours are nearly uncorrelated."""
        deviations = np.asarray(self.picture, dtype=np.float64)
        deviations -= deviations.mean(axis=(0, 1))
        energy = (deviations**2).mean()
        alike = [(deviations[1:] * deviations[:-1]).mean(), (deviations[:, 1:] * deviations[:, :-1]).mean()]
        return bool(energy >= FAINT**2 and max(map(abs, alike)) < NOISE * energy)

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Mix | Paste:
        if self.mode == "patch":
            width, height = self.picture.size
            if self.size is not None:
                height = width = self.pixels(self.size, min(size))
            places = place(self.position, (height, width), size, keys)
            window = _resize(self.picture, (height, width))[None].astype(np.float64)
            return Paste(fixed(window), places, False, self.overflow)
        pattern = _resize(self.picture, size)[None].astype(np.float64)
        if self.mode == "blend":
            return blend(pattern, self.alpha, self.overflow)
        # A black pixel is transparent; a pixel with any colour covers all channels.
        alpha = np.where(pattern.any(axis=3, keepdims=True), self.alpha, 0.0)
        gain = np.rint((1.0 - alpha) * ONE).astype(np.int32)
        rounding = np.where((alpha > 0) & (alpha < 1), ROUNDING, 0).astype(np.int32)
        return Mix(gain, fixed(alpha * pattern) + rounding, self.overflow)


def _resize(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture)
