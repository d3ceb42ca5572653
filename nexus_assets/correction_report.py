"""What corrections do to each table: partitions, rows, and the largest change of each column."""

import math
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from nexus_assets.partitions import day_of_rows, partition_key
from nexus_assets.schemas import Table


@dataclass
class Effect:
    """What corrections do to one table.

    Attributes:
        partitions: Keys of the days whose input changed, `2024-01-04|EURUSD` or `2024-01-04`; of the history, whose
            partitions are months, as well.
        changed: Keys of those whose rows differ.
        rows: Rows that differ, inserted and deleted ones included.
        largest: By column, the largest absolute change of a value.
    """

    partitions: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    rows: int = 0
    largest: dict[str, float] = field(default_factory=dict)

    def add(self, table: Table, old: pd.DataFrame, new: pd.DataFrame) -> None:
        """Count what differs between two states of the same slices."""
        before, after = (pd.MultiIndex.from_frame(frame[list(table.key)]) for frame in (old, new))
        position = before.get_indexer(after)
        common = position >= 0
        lefts, rights = old.iloc[position[common]].reset_index(drop=True), new[common].reset_index(drop=True)
        differs = np.zeros(len(rights), dtype=bool)
        for column in table.columns:
            if column.name in table.key:
                continue
            left, right = lefts[column.name], rights[column.name]
            missing = (left.isna() & right.isna()).to_numpy()
            unequal = ~missing & ~(left.eq(right).fillna(False).to_numpy(dtype=bool))
            differs |= unequal
            if column.type == "float" and unequal.any():
                # Missing where a value appeared or went.
                moved = (right[unequal] - left[unequal]).abs().max()
                if not math.isnan(moved):
                    self.largest[column.name] = max(float(moved), self.largest.get(column.name, 0.0))
        gone = np.delete(np.arange(len(old)), position[common])
        parts = [rights.loc[differs], old.iloc[gone], new[~common]]
        touched = pd.concat([part[list(table.key)] for part in parts], ignore_index=True)
        self.rows += len(touched)
        if len(touched) and table.key[0] == "symbol":
            self.changed |= {
                partition_key(symbol, day) for symbol, day in zip(touched["symbol"], day_of_rows(touched), strict=True)
            }
        elif len(touched):
            self.changed |= {str(day) for day in touched["day"]}


@dataclass
class Corrections:
    """What a propagation found (and, unless it was a plan, wrote).

    Attributes:
        effects: By table, in the order of the graph.
        splits: Whether features.dataset_splits has to be made again.
        months: First days of the months whose labels or features changed.
        symbols: Whose served features may have changed.
        deleted: Symbols and timeframes of which a bar is gone.
    """

    effects: dict[str, Effect] = field(default_factory=dict)
    splits: bool = False
    months: list[date] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    deleted: set[tuple[str, str]] = field(default_factory=set)

    def of(self, table: Table) -> Effect:
        """The effect on a table, made when first asked for."""
        return self.effects.setdefault(table.qualified, Effect())

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not any(effect.rows for effect in self.effects.values())
