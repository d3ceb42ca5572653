"""The exception tree. Every error of this project is a NexusError; nothing here imports anything of ours.

NexusError
├── SettingsError            the environment or a declarative file is wrong
├── ServiceError             a database or cache server cannot be found, started or reached
├── DatabaseError            a statement was refused, or what is stored contradicts itself
│   └── MigrationError       the schema cannot be brought to, or is not at, the version of this code
├── PartitionError           rows outside the slice that is being written, or a slice that does not exist
├── FeatureStoreError        Redis refused, or holds something that is not ours
├── BackfillError            runs could not be planned, submitted or finished
├── TrainingSetError         a training set cannot be assembled or written as it was asked for
├── ProbeError               a feature function cannot be probed
└── ProviderError            a market data provider failed
    ├── TransientProviderError   the same request may work later
    │   ├── CircuitOpenError         nothing was sent: the provider failed repeatedly and is left alone for a while
    │   ├── RateLimitedError         the provider, or our budget for it, refuses more requests for now
    │   │   └── BudgetExhaustedError     nothing was sent: our budget would not allow it in time
    │   ├── StaleDataError           the provider answered, without the newest bars
    │   └── ImplausibleDataError     the provider answered with rows of which most cannot be true
    └── PermanentProviderError   the same request will not work later
        ├── UnknownSymbolError       the provider does not have this symbol
        └── SourceFormatError        the provider's answer, or a file, cannot be read
"""


class NexusError(Exception):
    """An error with a fact (what happened, with the values and the place) and the next step for the reader."""

    def __init__(self, fact: str, *, next_step: str = "") -> None:
        self.fact = fact
        self.next_step = next_step
        super().__init__(f"{fact} {next_step}".strip())


class SettingsError(NexusError):
    """The environment or a declarative file is wrong."""


class ServiceError(NexusError):
    """A database or cache server cannot be found, started or reached."""


class DatabaseError(NexusError):
    """A statement was refused, or what is stored contradicts itself."""


class MigrationError(DatabaseError):
    """The schema cannot be brought to, or is not at, the version of this code."""


class PartitionError(NexusError):
    """Rows outside the slice that is being written, or a slice that does not exist."""


class FeatureStoreError(NexusError):
    """Redis refused, or holds something that is not ours."""


class BackfillError(NexusError):
    """Runs could not be planned, submitted or finished."""


class TrainingSetError(NexusError):
    """A training set cannot be assembled or written as it was asked for."""


class ProbeError(NexusError):
    """A feature function cannot be probed: it cannot be found, it failed, or it returned something else."""


class ProviderError(NexusError):
    """A market data provider failed. `transient` says whether the same request may work later."""

    transient = False


class TransientProviderError(ProviderError):
    """The same request may work later: a timeout, a rate limit, a server error.

    `retry_after` is in how many seconds, where that is known.
    """

    transient = True

    def __init__(self, fact: str, *, next_step: str = "", retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(fact, next_step=next_step)


class CircuitOpenError(TransientProviderError):
    """Nothing was sent: the provider failed repeatedly and is left alone for a while."""


class RateLimitedError(TransientProviderError):
    """The provider, or our budget for it, refuses more requests for now."""


class BudgetExhaustedError(RateLimitedError):
    """Nothing was sent: our budget would not allow it in time."""


class StaleDataError(TransientProviderError):
    """The provider answered, without the newest bars."""


class ImplausibleDataError(TransientProviderError):
    """The provider answered with rows of which most cannot be true."""


class PermanentProviderError(ProviderError):
    """The same request will not work later: a wrong key, a wrong declaration."""


class UnknownSymbolError(PermanentProviderError):
    """The provider does not have this symbol."""


class SourceFormatError(PermanentProviderError):
    """The provider's answer, or a file, cannot be read as declared."""
