"""Images: read safely from files and arrays, and prepared for an encoder as its bundle says."""

from rag_infer.images.image import Image
from rag_infer.images.reading import ImageSource, read_image

__all__ = ["Image", "ImageSource", "read_image"]
