"""The exceptions fastrnn raises besides the built-in TypeError, ValueError and IndexError."""

__all__ = ["BackendError", "FastrnnError"]


class FastrnnError(Exception):
    """Base class of the errors that are fastrnn's own."""


class BackendError(FastrnnError, RuntimeError):
    """A backend was asked for by name that is unknown, not built, or cannot run on this machine."""
