"""What is said when a lumen cannot be measured."""

from data.errors import DataError


class QcaError(DataError):
    """A lumen, edges or a calibration that cannot be measured; the text says what was seen and what to do."""
