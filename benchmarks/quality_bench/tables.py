"""Pipelines on real tables of mixed columns: strings in one-hot code, numbers scaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from quality_bench.cases import Case, lightgbm_classifier
from quality_bench.tasks import Array

_MISSING = "?"


@dataclass(frozen=True)
class Table:
    """A CSV file, its target, and the value of the target that counts as class 1."""

    file: str
    target: str
    positive: str


_TABLES = {
    "adult": Table("adult.csv", "label(IsOver50K)", "1"),
    "credit": Table("credit_approval.csv", "A16", "+"),
}
_ESTIMATORS: dict[str, Callable[[int], Any]] = {
    "logreg": lambda seed: LogisticRegression(max_iter=1000),
    "lgb": lambda seed: lightgbm_classifier(n_estimators=100, num_leaves=31),
}
TABLE_CASES = {
    f"{table}_{estimator}": (table, estimator) for table in _TABLES for estimator in _ESTIMATORS
}


def cases(folder: Path) -> dict[str, Case]:
    """A linear model and boosted trees on every table."""
    return {
        name: Case(
            name, "classes", partial(rows, folder, _TABLES[table]), _steps, _ESTIMATORS[estimator]
        )
        for name, (table, estimator) in TABLE_CASES.items()
    }


def rows(folder: Path, table: Table, seed: int) -> tuple[pd.DataFrame, Array]:
    """The table without its target, and the target as 0 and 1."""
    return _read(folder / table.file, table)


@cache
def _read(path: Path, table: Table) -> tuple[pd.DataFrame, Array]:
    """Columns of numbers as float32, with NaN; a missing string is a category of its own."""
    text = pd.read_csv(path, skipinitialspace=True, dtype=str, keep_default_na=False)
    y = (text.pop(table.target) == table.positive).to_numpy(dtype=np.int64)
    columns = {}
    for name in text.columns:
        given = text[name].where(text[name] != _MISSING)
        numbers = pd.to_numeric(given, errors="coerce")
        strings = (numbers.isna() & given.notna()).any()
        columns[name] = text[name].astype(object) if strings else numbers.astype(np.float32)
    return pd.DataFrame(columns), y


def _steps() -> list[Any]:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    strings = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    of_numbers = make_column_selector(dtype_include=np.number)
    of_strings = make_column_selector(dtype_exclude=np.number)
    return [ColumnTransformer([("numbers", numbers, of_numbers), ("strings", strings, of_strings)])]
