"""Images in: which files of a folder are images, and how each becomes 8-bit RGB.

Rules: names are relative paths with forward slashes, sorted. EXIF orientation is applied. Grey, palette and CMYK
become RGB; alpha is dropped; 16-bit values are divided by 257 and rounded; of an animation the first frame counts.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from weights_convert.store import write_atomic

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
MAX_PIXELS = 64_000_000

_ORIENTATION_TAG, _TRANSPOSED = 0x0112, frozenset({5, 6, 7, 8})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})

# Larger images are refused by `read_size` with our own message; Pillow's warning would come first.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """An image that cannot be used; the message is one sentence."""


def list_images(root: Path) -> list[str]:
    """Names of the images under a folder, recursively, or of the one file given.

    Raises:
      FileNotFoundError: when there is nothing there.
    """
    if root.is_file():
        return [root.name]
    if not root.is_dir():
        raise FileNotFoundError(f"--images={root} does not exist; give a folder of images or one image file")
    files = (path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    names = sorted(path.relative_to(root).as_posix() for path in files)
    if not names:
        known = " ".join(sorted(EXTENSIONS))
        raise FileNotFoundError(f"--images={root} holds no image (looked for {known}, in sub-folders too)")
    return names


def image_path(root: Path, name: str) -> Path:
    """File of an image that `list_images` named."""
    return root if root.is_file() else root / name


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as displayed, from its header.

    Raises:
      ImageError: when the file is no readable image, or a too large one.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            transposed = picture.getexif().get(_ORIENTATION_TAG) in _TRANSPOSED
    except Exception as error:
        raise ImageError(_reason(path, error)) from error
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS // 10**6} megapixels")
    return (width, height) if transposed else (height, width)


def load_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image to 8-bit RGB by the rules of this module.

    Raises:
      ImageError: when it cannot be decoded.
    """
    read_size(path)
    try:
        with Image.open(path) as picture:
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(_reason(path, error)) from error


def _to_rgb(picture: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if picture.mode in _SIXTEEN_BIT:
        values = np.asarray(picture, np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("holds 32-bit integers; expected 8 or 16 bits per channel")
        grey = np.round(values / 257.0).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "F":
        raise ImageError("holds floating-point values; expected 8 or 16 bits per channel")
    return np.asarray(picture.convert("RGB"))


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is empty" if path.stat().st_size == 0 else "is not an image that can be read"
    return f"cannot be read: {error}" if str(error) else f"cannot be read ({type(error).__name__})"


def save_png(path: Path, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write an image losslessly, as a whole, making its folder if needed."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
