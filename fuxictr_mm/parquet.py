"""Parquet tables, each in one file or in many parts: a folder of them, as Spark writes it, or a glob.

The only place that opens parquet files for reading. Encodings end here: what is handed on has no dictionaries, views or
extension types. What values mean is :mod:`fuxictr_mm.forms`' business.
"""

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fuxictr_mm.errors import DataError
from fuxictr_mm.files import file_fingerprint, system_error

__all__ = ["ParquetTable", "Unchanged", "open_parquet", "parts_of", "table_fingerprint"]

_CHECK = "check the path in the dataset's YAML"


def parts_of(path: str | Path) -> list[Path]:
    """The files that a path stands for, sorted by name.

    A path may be a file, with or without ``.parquet``; a folder of parquet parts, where names that begin with ``_`` or
    ``.`` are left out (``_SUCCESS``, ``_metadata``, ``.part-0.crc``); or a glob of files and such folders.

    Raises:
        DataError: there is nothing, or a folder holds something else than parts.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _parts_in(path)
    if glob.has_magic(str(path)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        found = [one for one in found if not one.name.startswith(("_", "."))]
        if not found:
            raise DataError(f"{path}: no file matches; {_CHECK}.")
        return [part for one in found for part in parts_of(one)]
    with_suffix = path.with_name(f"{path.name}.parquet")
    if with_suffix.is_file():
        return [with_suffix]
    raise DataError(f"{path}: file not found; {_CHECK}.")


def _parts_in(folder: Path) -> list[Path]:
    if (folder / "_temporary").exists():
        raise DataError(f"{folder}: has a folder _temporary, so the job that writes it has not ended; wait for it.")
    parts = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(("_", ".")))
    for part in parts:
        if part.is_dir():
            kind = "partitions" if "=" in part.name else "folders"
            raise DataError(
                f"{folder}: a folder of {kind} ({part.name}, ...), whose names are not read; write the table without "
                f"them, or name the parts by a glob: {folder}/*."
            )
        if part.suffix != ".parquet":
            raise DataError(
                f"{folder}: a folder, in which {part.name} is no .parquet file; only parquet parts are expected in it."
            )
    if not parts:
        raise DataError(f"{folder}: a folder without parquet files; {_CHECK}.")
    return parts


def table_fingerprint(path: str | Path) -> str:
    """16-digit hexadecimal digest of the bytes of a file, or of those of all parts in their order."""
    digests = [file_fingerprint(part) for part in parts_of(path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.blake2b(" ".join(digests).encode(), digest_size=8).hexdigest()


class Unchanged:
    """Tells whether files are still those that they were when this was made, by name, size and times.

    Args:
        paths: see :func:`parts_of`; ``None`` is left out.
    """

    def __init__(self, paths: Iterable[str | Path | None]) -> None:
        self._paths = [path for path in paths if path is not None]
        self._before = self._stamps()

    def __call__(self) -> bool:
        return self._stamps() == self._before

    def _stamps(self) -> list[tuple[Path, int, int, int, int]]:
        found = []
        for path in self._paths:
            with suppress(DataError):  # it is not there, which whoever reads it says
                found += [(part, part.stat()) for part in parts_of(path)]
        return [(part, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for part, s in found]


def open_parquet(path: str | Path, columns: Sequence[str] = ()) -> "ParquetTable":
    """Open a table and check that it has ``columns``.

    Args:
        path: see :func:`parts_of`.
        columns: names.

    Raises:
        DataError: it is missing; a part is no whole parquet file or has other columns than the first; a column is
            missing or occurs twice.
    """
    path, parts = Path(path), parts_of(path)
    table = ParquetTable(parts[0] if len(parts) == 1 and not path.is_dir() else path, parts)
    names = table.schema_arrow.names
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(f"{table.path}: column {missing[0]!r} is missing; found {names}; check the names in the YAML.")
    return table


class ParquetTable:
    """A table whose parts, one or more, are read one after the other.

    Args:
        path: what it is called in sentences.
        parts: its files, in order; parts without rows say nothing of the columns.

    Attributes:
        path, parts: as given.
        metadata: one record of pyarrow's per part.
        schema_arrow: its columns, plain: no dictionaries, views and extension types.
        num_rows: of all parts.

    Raises:
        DataError: see :func:`open_parquet`.
    """

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        self.path = path
        self.parts = list(parts)
        self.metadata: list[pq.FileMetaData] = []
        schemas = []
        for part in self.parts:
            with _opened(part) as file:
                self.metadata.append(file.metadata)
                schemas.append(_plain_schema(part, file.schema_arrow))
        rows = [part.num_rows for part in self.metadata]
        first = next((at for at, count in enumerate(rows) if count), 0)
        self.schema_arrow = schemas[first]
        for part, schema, count in zip(self.parts, schemas, rows):
            if count:
                _check_alike(part, schema, self.parts[first], self.schema_arrow)
        self.num_rows = sum(rows)
        self._ends = np.cumsum(rows)

    def place(self, row: int) -> tuple[Path, int]:
        """The file that holds a row of the table, and the row's number in it."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[at], row - int(self._ends[at]) + self.metadata[at].num_rows

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Whole columns, in the order of ``columns``."""
        schema = pa.schema([self.schema_arrow.field(name) for name in columns])
        batches = [batch for number in range(len(self.parts)) for batch in self._decode(number, columns, 1 << 16, True)]
        return pa.Table.from_batches(batches, schema)

    def samples(self, rows: int, column: str) -> Iterator[pa.Array]:
        """The first ``rows`` values of up to three row groups: the first, the middle and the last one with rows."""
        groups = [
            (number, group)
            for number, part in enumerate(self.metadata)
            for group in range(part.num_row_groups)
            if part.row_group(group).num_rows
        ]
        for at in sorted({0, len(groups) // 2, len(groups) - 1}):
            number, group = groups[at]
            yield next(self._decode(number, [column], rows, False, [group])).column(0)

    def iter_batches(self, batch_size: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of exactly ``batch_size`` rows (the last may be smaller), whatever row groups and parts are.

        Row groups are asked for one by one, or a few small ones together, and without a memory map: an iteration over
        a whole file keeps the bytes of every group it has passed.

        Raises:
            DataError: a part is damaged inside.
        """
        pending: list[pa.RecordBatch] = []
        missing = batch_size
        decoded = self._decode_all(columns, batch_size)
        # The next record batch is decoded while the last one is looked at: decoding is most of the work.
        with ThreadPoolExecutor(1) as worker:
            ahead = worker.submit(next, decoded, None)
            while (batch := ahead.result()) is not None:
                ahead = worker.submit(next, decoded, None)
                while len(batch) >= missing:
                    yield _joined([*pending, batch[:missing]])
                    batch, pending, missing = batch[missing:], [], batch_size
                if len(batch):
                    pending.append(batch)
                    missing -= len(batch)
            if pending:
                yield _joined(pending)

    def _decode_all(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for number, metadata in enumerate(self.metadata):
            for groups in _runs_of_row_groups(metadata, rows):
                yield from self._decode(number, columns, rows, False, groups)

    def _decode(
        self, number: int, columns: Sequence[str], rows: int, mapped: bool, groups: list[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        if not self.metadata[number].num_rows:
            return
        schema = pa.schema([self.schema_arrow.field(name).with_nullable(True) for name in columns])
        part = self.parts[number]
        try:
            with pq.ParquetFile(part, memory_map=mapped, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, row_groups=groups, columns=list(columns)):
                    arrays = [_plain(batch.column(field.name), field.type) for field in schema]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        except (pa.ArrowException, OSError) as err:  # damage within a file shows only when its rows are decoded
            if told := system_error(err, part):
                raise told from err
            raise DataError(
                f"{part}: damaged inside, cannot be decoded ({str(err).splitlines()[0]}); copy or download it again."
            ) from err


def _opened(path: Path) -> pq.ParquetFile:
    if path.suffix.lower() in (".csv", ".tsv", ".txt", ".json", ".jsonl"):
        raise DataError(
            f"{path}: a {path.suffix} file; tables are read from parquet, so convert it, "
            f"e.g. pandas.read_csv(...).to_parquet({path.with_suffix('.parquet').name!r})."
        )
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as err:
        if told := system_error(err, path):
            raise told from err
        raise DataError(
            f"{path}: not a whole parquet file ({path.stat().st_size:,} bytes; {str(err).splitlines()[0]}); "
            "copy or download it again."
        ) from err


def _plain_schema(path: Path, schema: pa.Schema) -> pa.Schema:
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} occurs {schema.names.count(twice[0])} times; keep one of them.")
    return pa.schema([(field.name, _plain_type(field.type)) for field in schema])


def _check_alike(part: Path, found: pa.Schema, first: Path, expected: pa.Schema) -> None:
    for name in dict.fromkeys([*expected.names, *found.names]):
        kinds = [schema.field(name).type if name in schema.names else None for schema in (found, expected)]
        if kinds[0] != kinds[1]:
            here, there = ("no such column" if kind is None else f"the type {kind}" for kind in kinds)
            raise DataError(
                f"{part}: column {name!r} has {here} here and {there} in {first.name}; all parts of a table need the "
                "same columns, so write them anew from one table."
            )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """What is left of a type when dictionaries, views and extensions are taken away, inside lists too."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type), kind.list_size)
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(_plain_type(kind.value_type))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain_type(kind.value_type))
    if types.is_string_view(kind):
        return pa.large_string()
    return kind


def _plain(values: pa.Array, kind: pa.DataType) -> pa.Array:
    while isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_list_view(values.type) or pa.types.is_large_list_view(values.type):
        # By hand: the cast of pyarrow 26 forgets the last offset.
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        form = pa.ListArray if pa.types.is_list_view(values.type) else pa.LargeListArray
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32() if form is pa.ListArray else pa.int64())
        values = form.from_arrays(ends, values.flatten(), mask=values.is_null())
    return values if values.type == kind else values.cast(kind)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _runs_of_row_groups(metadata: pq.FileMetaData, rows: int) -> Iterator[list[int]]:
    """Consecutive row groups that hold at least ``rows`` rows together."""
    run: list[int] = []
    held = 0
    for group in range(metadata.num_row_groups):
        run.append(group)
        held += metadata.row_group(group).num_rows
        if held >= rows or group == metadata.num_row_groups - 1:
            yield run
            run, held = [], 0
