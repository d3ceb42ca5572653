"""Training sets as Parquet files, each beside a manifest that says what it is and how to make it again.

What belongs here: writing files whole or not at all. What stands in the manifest is in manifests.py.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nexus_assets.errors import TrainingSetError
from nexus_assets.manifests import Contents, manifest
from nexus_assets.settings import Settings
from nexus_assets.training_request import TrainingRequest
from nexus_assets.training_sets import Reader, parts

DATA, MANIFEST = "data.parquet", "manifest.json"

_ROW_GROUP = 131_072


def export(
    reader: Reader,
    asked: TrainingRequest,
    folder: Path,
    config: Settings,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Write data.parquet and manifest.json into a folder, one symbol in memory at a time.

    Each file is complete or absent: it is written beside its place and renamed. The manifest is renamed last, and
    removed first where an older export is overwritten, so a manifest always belongs to the data beside it.

    Args:
        folder: Made if it is not there.
        overwrite: Replace an export that is there.
        progress: Called with each symbol and the rows so far.

    Returns:
        The manifest, with the file's name, size and SHA-256 under `file`.

    Raises:
        TrainingSetError: the folder holds an export already, cannot be written to, or there is no row to write.
    """
    data, description = folder / DATA, folder / MANIFEST
    if not overwrite and (data.exists() or description.exists()):
        raise TrainingSetError(
            f"{folder} holds an export already.", next_step="Name another folder, or pass --overwrite."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = data.with_suffix(f".{os.getpid()}.unfinished")
        try:
            contents, dropped = _write(reader, asked, unfinished, config, progress)
            facts = manifest(asked, contents, dropped)
            facts["file"] = {"name": DATA, "bytes": unfinished.stat().st_size, "sha256": _sha256(unfinished)}
            description.unlink(missing_ok=True)
            unfinished.replace(data)
        finally:
            unfinished.unlink(missing_ok=True)
        _write_whole(description, json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise TrainingSetError(
            f"The export to {folder} failed: {error.strerror or error}.", next_step="Name a folder that can be written."
        ) from error
    return facts


def _write(
    reader: Reader,
    asked: TrainingRequest,
    path: Path,
    config: Settings,
    progress: Callable[[str, int], None] | None,
) -> tuple[Contents, Counter[str]]:
    contents, dropped = Contents(), Counter[str]()
    writer: pq.ParquetWriter | None = None
    try:
        for symbol, rows in zip(asked.symbols, parts(reader, asked, config, dropped), strict=True):
            writer = writer or pq.ParquetWriter(path, rows.schema, compression="zstd")
            writer.write_table(rows, row_group_size=_ROW_GROUP)
            contents.add(rows)
            if progress:
                progress(symbol, contents.rows)
    finally:
        if writer:
            writer.close()
    return contents, dropped


def verify(folder: Path) -> list[str]:
    """Compare an export with its manifest: a sentence for each thing that differs.

    Raises:
        TrainingSetError: there is no export in the folder, or its files cannot be read.
    """
    try:
        facts = json.loads((folder / MANIFEST).read_text())
        file = pq.ParquetFile(folder / DATA)
        contents = Contents()
        for group in range(file.num_row_groups):
            contents.add(file.read_row_group(group))
        wanted, found = facts["hashes"]["columns"], contents.hashes()["columns"]
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        sentences = [f"Column {name} differs from the manifest." for name in differing]
        if contents.rows != facts["rows"]:
            sentences.append(f"There are {contents.rows:,} rows; the manifest says {facts['rows']:,}.")
        if set(found) - set(wanted):
            sentences.append(f"The manifest does not know {', '.join(sorted(set(found) - set(wanted)))}.")
        return sentences
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise TrainingSetError(
            f"{folder} holds no readable export: {error}.", next_step="Make one with `nexus export`."
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
