"""The errors that rise at the edges. Refusals inside the cores are data, never exceptions."""


class OfferflowError(Exception):
    """Base of ours. `str()` is one sentence that says what to do."""


class PeerError(OfferflowError):
    """A peer sent something we cannot take. `code` is a short stable token, counted in metrics."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class ConfigError(OfferflowError):
    """The operator's file or option is wrong; the text names the place and the mend."""


class StorageError(OfferflowError):
    """The journal could not be made durable. The owner stops offering and steps down; it never retries an fsync."""
