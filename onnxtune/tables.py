"""Files and containers become frames and arrays, and their values the dtypes of a model."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from onnxtune.errors import DataError, MissingDependencyError
from onnxtune.separators import separator_hint

Array = np.ndarray[Any, Any]
TextColumns = Callable[[Sequence[str]], tuple[Collection[str], str | None]]
Place = Callable[[int], str]  # the index of a column -> what a message calls it

# What means in a .csv file that a number is missing (the words that pandas knows).
_MISSING = (
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>"),
    *("#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)


def read(path: Path, text_columns: TextColumns) -> Any:
    """Read a .csv, .parquet or .npz file, or a folder of .parquet files.

    Args:
        path: the file or the folder.
        text_columns: called with the header of a .csv file; returns the columns that must stay
            text whatever they hold, and the target column, if it is in the file.

    Returns:
        A pandas DataFrame, or for .npz a dictionary of name -> array.

    Raises:
        DataError: the file is missing, empty, cut short or of another kind.
        MissingDependencyError: a parquet file without pyarrow.
    """
    ending = path.suffix.lower()
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file.")
        if path.is_dir() or ending == ".parquet":
            return _read_parquet(path)
        if ending == ".csv":
            return _read_csv(path, text_columns)
        if ending == ".npz":
            return _read_npz(path)
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise DataError(f"{path}: cannot be read ({reason}).") from None
    raise DataError(
        f"{path}: is none of .csv, .parquet, .npz or a folder of .parquet files; "
        "convert it to one of these."
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _read_csv(path: Path, text_columns: TextColumns) -> Any:
    import pandas as pd

    options: dict[str, Any] = {"skipinitialspace": True, "index_col": False, "low_memory": False}
    try:
        with warnings.catch_warnings():
            # Without this, pandas only warns when it drops the surplus fields of long rows.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # As a row, not as a header: pandas would rename the second of two columns alike.
            head = pd.read_csv(path, header=None, nrows=1, dtype=object, na_filter=False, **options)
            names = [str(name) for name in head.iloc[0]]
            again = [name for place, name in enumerate(names) if name and name in names[:place]]
            if again:
                raise DataError(
                    f"{path}: its column '{again[0]}' is there 2 times; rename one of them."
                )
            with separator_hint(names):
                text, target = text_columns(names)
            # "NA" and "None" are categories in a column of strings, and may be class labels; only
            # in a column of numbers do they mean that nothing is there.
            missing = {name: list(_MISSING) for name in names if name not in text}
            if target is not None:
                missing[target] = [""]
            return pd.read_csv(
                path,
                keep_default_na=False,
                na_values=missing,
                dtype=dict.fromkeys(text, object),
                **options,
            )
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: is empty.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not text in UTF-8; save it in that encoding.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(
            f"{path}: is not a table with one header row ({_one_line(error)})."
        ) from None


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.dataset
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f"{path}: reading parquet needs pyarrow; pip install 'onnxtune[parquet]'."
        ) from None
    try:
        if not path.is_dir():
            return pyarrow.parquet.read_table(path, partitioning=None).to_pandas()
        files = [str(file) for file in sorted(path.rglob("*.parquet")) if file.is_file()]
        if not files:
            raise DataError(f"{path}: is a folder without .parquet files.")
        parts = pyarrow.dataset.dataset(files, format="parquet", partitioning="hive")
        fragments = list(parts.get_fragments())
        first = fragments[0].physical_schema
        for fragment in fragments[1:]:
            _check_same_columns(
                first.names, fragment.physical_schema.names, files[0], fragment.path
            )
        # A column that is empty in one file has no type there; the other files know it.
        schemas = [parts.schema, *(fragment.physical_schema for fragment in fragments)]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        return parts.replace_schema(schema).to_table().to_pandas()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a readable parquet file ({_one_line(error)}).") from None


def _check_same_columns(
    expected: Sequence[str], found: Sequence[str], first: str, other: str
) -> None:
    differing = set(expected) ^ set(found)
    if differing:
        raise DataError(
            f"{other}: has other columns than {first} ({listing(sorted(differing))}); "
            "all files of a folder need the same columns."
        )


def _read_npz(path: Path) -> dict[str, Array]:
    arrays = {}
    with path.open("rb") as file:  # numpy leaves it open when the archive is broken
        try:
            archive = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile):
            raise DataError(f"{path}: is not an .npz archive, or was cut short.") from None
        if not hasattr(archive, "files"):
            raise DataError(f"{path}: holds one bare array; save it with numpy.savez.")
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError:
                raise DataError(
                    f"{path}: array '{name}' holds Python objects, which are not read; "
                    "save strings with astype(str)."
                ) from None
            except (EOFError, zipfile.BadZipFile, zlib.error):
                raise DataError(f"{path}: array '{name}' is damaged or cut short.") from None
    return arrays


def to_frame(data: Any) -> Any | None:
    """The pandas DataFrame of a pandas, polars or pyarrow table; None for anything else."""
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return data
    if not (hasattr(data, "to_pandas") and hasattr(data, "columns")):
        return None
    try:
        return data.to_pandas()
    except ImportError:  # polars needs pyarrow for this
        import pandas as pd

        return pd.DataFrame(data.to_dict(as_series=False))


def to_array(values: Any, origin: str) -> Array:
    """The numpy array of an array, a list, a Series, a tensor or a sparse matrix.

    Numbers and strings stay what they are: a list of both becomes an array of objects.

    Raises:
        DataError: rows of different lengths.
    """
    if hasattr(values, "iloc"):
        return values.to_numpy() if values.ndim > 1 else series_array(values)
    if isinstance(values, np.ma.MaskedArray):
        plain = np.asarray(values).astype(object)
        plain[np.ma.getmaskarray(values)] = None
        return plain
    if hasattr(values, "tocsr"):
        return np.asarray(values.toarray())
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if hasattr(values, "to_numpy"):
        return np.asarray(values.to_numpy())
    try:
        array = np.asarray(values)
        # numpy would turn the numbers of a mixed list into strings.
        if array.dtype.kind == "U" and not hasattr(values, "dtype"):
            array = np.array(values, dtype=object)
    except ValueError:
        raise DataError(f"{origin}: the rows have different lengths.") from None
    return array


def series_array(series: Any) -> Array:
    """The values of a pandas Series: plain numbers (missing ones NaN) or an array of objects."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        return np.asarray(series.to_numpy())
    plain = getattr(dtype, "numpy_dtype", None)
    if (
        plain is not None
        and plain.kind in "biuf"
        and (is_numeric_dtype(dtype) or is_bool_dtype(dtype))
    ):
        if series.isna().any():
            return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(series.to_numpy(dtype=plain))
    return np.asarray(series.to_numpy(dtype=object))


def listing(names: Sequence[Any], most: int = 20) -> str:
    """Names for a message, the first few when there are many."""
    if not names:
        return "none"
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


def convert(values: Array, dtype: np.dtype[Any], place: Place) -> Array:
    """Values as a model's dtype, of the same shape: exact, but for the rounding of floats.

    Missing values become NaN for floats and the empty string for strings (dtype `object`).

    Raises:
        DataError: naming the first value that does not fit, and its row.
    """
    if dtype.kind == "O":
        return strings(values, place)
    found = numbers(values, place)
    if dtype.kind == "f":
        return _floats(found, dtype, place)
    if np.can_cast(found.dtype, dtype):
        return found.astype(dtype, copy=False)
    if found.dtype.kind == "f":
        none = f"{dtype} knows no missing value; fill it in or drop the row"
        _refuse(values, np.isnan(found), place, none)
    if dtype.kind == "b":
        _refuse(values, (found != 0) & (found != 1), place, "the model wants true or false")
        return found.astype(dtype)
    if found.dtype.kind == "f":
        whole = f"the model wants whole numbers ({dtype}); round or convert them"
        _refuse(values, found != np.floor(found), place, whole)
    limits = np.iinfo(dtype)
    low, high = int(limits.min), int(limits.max) + 1
    # A float holds both bounds exactly, as powers of two; an integer dtype not always `high`.
    outside = found < low
    outside |= found >= float(high) if found.dtype.kind == "f" else found > high - 1
    _refuse(values, outside, place, f"the model wants {dtype}, which ends before that")
    return found.astype(dtype)


def _floats(found: Array, dtype: np.dtype[Any], place: Place) -> Array:
    with np.errstate(over="ignore"):
        floats = found.astype(dtype, copy=False)
    if not np.can_cast(found.dtype, dtype):
        lost = np.isinf(floats)
        if lost.any():
            problem = f"the model wants {dtype}, which ends before that; scale the values"
            _refuse(found, lost & ~np.isinf(found), place, problem)
    return floats


def numbers(values: Array, place: Place) -> Array:
    """Values as an array of booleans, integers or floats (missing: NaN), of the same shape.

    Raises:
        DataError: naming the first value that is no number, and its row.
    """
    if values.dtype.kind in "biuf":
        return values
    advice = "the model wants numbers; convert them, or mend or drop the row"
    if values.dtype.kind in "UST":
        values = values.astype(object)
    elif values.dtype.kind != "O":  # dates, complex numbers
        _refuse(values, np.ones(values.shape, bool), place, advice)
        return np.zeros(values.shape)
    import pandas as pd

    missing = np.asarray(pd.isna(values))
    present = values[~missing]
    kind = pd.api.types.infer_dtype(present, skipna=False)
    if kind not in ("boolean", "integer", "floating", "mixed-integer-float", "decimal", "empty"):
        _check_all_numbers(values, missing, place, advice)
    try:
        if kind == "boolean" and not missing.any():
            return values.astype(np.bool_)
        if kind == "integer" and not missing.any():
            return values.astype(np.int64)
    except OverflowError:
        pass  # beyond int64: a float will do, or the caller refuses it
    floats = np.full(values.shape, np.nan)
    try:
        floats[~missing] = present.astype(np.float64)
    except OverflowError:
        raise DataError(f"{place(0)} holds a number too large for float64.") from None
    return floats


def _check_all_numbers(values: Array, missing: Array, place: Place, advice: str) -> None:
    kinds = (Real, Decimal, np.bool_)
    flat = values.ravel()
    good = np.fromiter((isinstance(value, kinds) for value in flat), bool, flat.size)
    bad = ~good.reshape(values.shape) & ~missing
    if bad.any():
        # Among the strings of a damaged column, the first that does not read as a number tells.
        readable = np.fromiter((_reads_as_number(value) for value in flat), bool, flat.size)
        worse = bad & ~readable.reshape(values.shape)
        _refuse(values, worse if worse.any() else bad, place, advice)


def _reads_as_number(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def strings(values: Array, place: Place) -> Array:
    """Values as an array of `str` objects (missing: ""), of the same shape.

    Raises:
        DataError: naming the first value that is no string, and its row. Numbers are not
            converted: whether 1 was '1' or '1.0' at training is not known here.
    """
    if values.dtype.kind in "UT":
        return values.astype(object)
    import pandas as pd

    missing = np.asarray(pd.isna(values))
    if values.dtype.kind == "O":
        text = pd.api.types.infer_dtype(values[~missing], skipna=False) in ("string", "empty")
    else:
        text = bool(missing.all())
    if not text:
        flat = values.astype(object).ravel()
        good = np.fromiter((isinstance(value, str) for value in flat), bool, flat.size)
        advice = "the model wants strings; convert them to those that the model was trained on"
        _refuse(values, ~(good.reshape(values.shape) | missing), place, advice)
    filled = values.astype(object)
    filled[missing] = ""
    return filled


def _refuse(values: Array, bad: Array, place: Place, problem: str) -> None:
    """Raise for the first bad value, if there is one."""
    if not bad.any():
        return
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    column = int(index[1]) if len(index) > 1 else 0
    raise DataError(
        f"{place(column)} holds {shown(values[index])} in row {index[0]} (counting from 0), "
        f"but {problem}."
    )


def shown(value: Any) -> str:
    """A value for a message: on one line, and short."""
    if isinstance(value, np.generic) and value.dtype.kind not in "mM":  # dates would be numbers
        value = value.item()
    text = repr(value) if isinstance(value, str | bytes) else " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
