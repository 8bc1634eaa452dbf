"""Every error that rag_infer raises on purpose.

Bad arguments are ``ValueError`` or ``TypeError``; what is wrong with a file, a model, a knowledge base
or a device is a ``RagInferError``. A message gives the names and numbers it is about and, where there is
one, the remedy. The command line prints it as one line and exits with status 1.
"""


class RagInferError(Exception):
    """Base of all errors about files, models, knowledge bases and devices."""


class BundleError(RagInferError):
    """A model bundle is missing, altered, of a newer format or inconsistent."""


class ExportError(RagInferError):
    """A checkpoint could not be exported, or its export is not equal to the original."""


class KnowledgeBaseError(RagInferError):
    """A knowledge base is missing, locked, inconsistent or of a newer format."""


class CorruptIndexError(KnowledgeBaseError):
    """Stored data of a knowledge base fails its checksum or structural check."""


class RecallError(KnowledgeBaseError):
    """An approximate index finds too few of the nearest passages, however large it is made."""


class EncoderMismatchError(KnowledgeBaseError):
    """A knowledge base was made with another passage encoder than the one given."""


class CorpusError(KnowledgeBaseError):
    """A corpus file has a line that cannot become a passage; the message gives file and line."""


class VectorFileError(KnowledgeBaseError):
    """A file of vectors is damaged, does not fit, or is not safe to read; the message gives file and place."""


class ImageError(RagInferError):
    """An image is damaged, too large, or no image at all; the message names it."""


class GenerationError(RagInferError):
    """The generator could not produce an answer."""


class DeviceError(RagInferError):
    """The device asked for is not to be had; nothing runs silently on another one."""


class RagInferWarning(UserWarning):
    """Something was done differently from what was asked, and the message says what."""
