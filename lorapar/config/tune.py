"""A search for settings: what may vary, how far a trial goes before it is compared, and when the search ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from lorapar.config.base import SYSTEMS, Fraction, Name, Positive, Section
from lorapar.config.load import parse_settings, read_text
from lorapar.config.mistakes import validated
from lorapar.config.study import OF_THE_STUDY, Seed, Values


class Dimension(Section):
    """What one setting may be: a range of numbers, or values."""

    low: float | None = Field(None, description="Least value of a range")
    high: float | None = Field(None, description="Greatest value of a range")
    log: bool = Field(False, description="Draw the logarithm evenly, as for learning rates")
    values: tuple[JsonValue, ...] = Field((), description="Values, instead of a range")

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, given: Any) -> Any:
        if not isinstance(given, Dimension | dict):
            raise ValueError(f"write {{low: ..., high: ...}} or {{values: [...]}} (got {given})")
        return given

    @model_validator(mode="after")
    def _range_or_values(self) -> Dimension:
        if self.values:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("values: give them or a range (low, high), not both")
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("low and high: give both, low below high; or values")
        elif self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, which has no logarithm; it must be above 0 with log")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Least and greatest value of a range."""
        assert self.low is not None and self.high is not None  # noqa: S101, PT018
        return self.low, self.high


SPACE = {
    "partition.theta": Dimension(low=0.7, high=1.0),
    "partition.alpha": Dimension(low=0.0, high=1.0),
    "partition.beta": Dimension(low=0.0, high=1.0),
    "sft.learning_rate": Dimension(low=5e-5, high=2e-3, log=True),
    "rl.learning_rate": Dimension(low=1e-6, high=1e-3, log=True),
}
"""What is searched where a search does not say."""


class TuneConfig(Section):
    """A search over settings by successive halving."""

    name: Name = Field("tune", description="Name of the search; its folder is studies/NAME")
    space: Annotated[dict[str, Dimension], Field(min_length=1)] = Field(
        SPACE, description="What each section.key may be"
    )
    settings: Values = Field({}, description="Settings of every trial by section.key, on top of the base settings")
    trials: Positive = Field(20, description="Trials in all, those that are ruled out included")
    measure: Literal["system1", "system2", "both"] = Field(
        "system2", description="Held-out rows that trials are compared on"
    )
    seed: Seed = Field(0, description="Seed of the search and of its trials")
    looks: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] = Field(
        (0.1, 0.4, 1.0),
        description="Shares of the training after which trials are compared, by held-out loss; at 1 by right answers",
    )
    keep_one_of: Annotated[int, Field(ge=2)] = Field(
        3, description="Of this many trials about one continues after each look"
    )
    least_active: Fraction = Field(
        0.02, description="Share of the elements that SFT and RL must train; the sweep rules out what trains fewer"
    )
    confirm_seeds: tuple[Seed, ...] = Field(
        (1, 2, 3),
        description="Other seeds that the settings found and those given run with in the end; none: no such runs",
    )

    @model_validator(mode="after")
    def _looks_rise_to_one(self) -> TuneConfig:
        if list(self.looks) != sorted(set(self.looks)) or self.looks[-1] != 1.0:
            raise ValueError("looks must rise and end with 1, the whole training")
        for key in (*self.space, *self.settings):
            if (reason := OF_THE_STUDY.get(key.partition(".")[0])) is not None:
                raise ValueError(f"{key}: a search sets it itself ({reason}); leave it out")
        twice = [key for key in self.settings if key in self.space]
        if twice:
            raise ValueError(f"settings: {twice[0]} is in space too; leave one of them out")
        if self.seed in self.confirm_seeds:
            raise ValueError(f"confirm_seeds: {self.seed} is the seed of the search, which chose by it; name others")
        again = [seed for place, seed in enumerate(self.confirm_seeds) if seed in self.confirm_seeds[:place]]
        if again:
            raise ValueError(f"confirm_seeds: {again[0]} is there twice; keep one")
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """The systems whose rows decide."""
        return tuple(SYSTEMS) if self.measure == "both" else (self.measure,)


def load_search(path: Path | None) -> TuneConfig:
    """The search of a YAML file, or the default one; raises BadInputError in one line."""
    if path is None:
        return TuneConfig()
    text = read_text(
        path, absent=f"there is no search {path}; without one, theta, alpha, beta and learning rates are searched"
    )
    return validate_search(parse_settings(text, str(path)), str(path))


def validate_search(values: Any, origin: str) -> TuneConfig:
    """The search of these values; raises BadInputError that names each wrong key, in one line."""
    return validated(TuneConfig, values, origin)
