"""What can go wrong for a user, as one tree.

AnemoneError            a mistake a user can mend; the message names the file, line or setting, and the fix
├── ConfigError         a setting is unknown, of the wrong type, or impossible
├── DataError           a manifest, recording or text cannot be used
├── ArchiveError        a model archive or checkpoint is broken, hostile, or does not fit
├── TrainingError       a run cannot go on
└── PortError           modules whose neural types do not fit were composed
"""


class AnemoneError(ValueError):
    """A mistake a user can mend."""


class ConfigError(AnemoneError):
    """A setting is unknown, of the wrong type, or impossible.

    Args:
        message: what is wrong.
        path: the setting that the message is about, such as ``optim.lr``; empty where it is about none, or several.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class DataError(AnemoneError):
    """A manifest, recording or text cannot be used."""


class ArchiveError(AnemoneError):
    """A model archive or checkpoint is broken, hostile, or does not fit the model."""


class TrainingError(AnemoneError):
    """A run cannot go on."""


class PortError(AnemoneError, TypeError):
    """Modules whose ports do not fit were composed, or a tensor does not fit its port."""
