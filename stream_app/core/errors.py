"""Everything this application raises on purpose, in one small tree.

NextclickError
├── ConfigurationError        a setting is wrong: exit 2, the message says which and what to write
│   └── TopicsChangedError    the topics are not those we served: exit 2, no restart can mend it
├── ServiceAwayError          a needed service does not answer: exit 69
├── InvariantError            continuing would break a promise: exit 70, a supervisor restarts us
│   └── StoreCorruptError     RocksDB is damaged: the next start puts it aside and restores
├── BadRecordError            one message is unusable: dead-letter it, carry on
├── StateDecodeError          stored session state is unreadable: refuse it, count it
├── ForeignRecordError        stored session state of another click topic: refuse it, count it
├── ClickFileError            a click file cannot be read as the format says
└── BundleError               a model may not be served: keep the live one, raise the alarm
    └── VocabularyMismatchError
"""

from typing import ClassVar


class NextclickError(Exception):
    """Base of all of them.  `exit_status` is what the program ends with when nobody handles it."""

    exit_status: ClassVar[int] = 70


class ConfigurationError(NextclickError):
    """A flag, setting or argument is wrong.  The message names it and says what to write instead."""

    exit_status = 2


class TopicsChangedError(ConfigurationError):
    """The topics were recreated, repartitioned, or truncated under us.  The message says how to go on.

    Status 2 like any configuration that cannot work, so that a supervisor does not restart for ever."""


class ServiceAwayError(NextclickError):
    """A service we need (usually the broker) cannot be reached, or lacks what we need of it."""

    exit_status = 69


class InvariantError(NextclickError):
    """A write failed or a promise would be broken.  The process ends; nothing was acknowledged."""


class StoreCorruptError(InvariantError):
    """RocksDB reads as damaged.  A mark is left, by which the next start puts it aside and restores."""


class BadRecordError(NextclickError):
    """One message is unusable.  `kind` goes into the header `nextclick-error`, the text beside it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class StateDecodeError(NextclickError):
    """A stored session record is truncated, of an unknown version, or otherwise unreadable."""


class ForeignRecordError(NextclickError):
    """A stored session record belongs to another incarnation of the click topic."""

    def __init__(self, topic_id: bytes) -> None:
        super().__init__(f"a session record belongs to click topic id {topic_id.hex()}")
        self.topic_id = topic_id


class ClickFileError(NextclickError):
    """A click file does not hold what its format promises.  The message names file, line and column."""

    exit_status = 2


class BundleError(NextclickError):
    """A model bundle failed a check.  A worker keeps the live one; a command that was given it ends."""

    exit_status = 2


class VocabularyMismatchError(BundleError):
    """The vocabulary beside a model is not the one the model was trained with."""

    def __init__(self, *, expected_sha256: str, actual_sha256: str) -> None:
        super().__init__(
            f"the vocabulary is {actual_sha256[:12]}, but the model was trained with "
            f"{expected_sha256[:12]}: publish the bundle again from its checkpoint"
        )
        self.expected_sha256 = expected_sha256
        self.actual_sha256 = actual_sha256
