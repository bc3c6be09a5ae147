"""The exceptions of the project; `onnxtune.errors` hands them on."""


class OnnxTuneError(Exception):
    """Base of every error that the library raises on purpose."""


class ModelError(OnnxTuneError, ValueError):
    """The model argument is missing, unreadable or not a valid ONNX model."""


class DataError(OnnxTuneError, ValueError):
    """The data do not fit the model: columns, types, widths, targets."""


class ArgumentError(OnnxTuneError, ValueError):
    """An argument has a value that cannot be used."""


class UnsupportedError(OnnxTuneError):
    """A node, or the whole model, cannot be handled in the way that was asked for."""


class ProviderError(OnnxTuneError, RuntimeError):
    """An execution provider was asked for that this machine does not have."""


class MissingDependencyError(OnnxTuneError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""
