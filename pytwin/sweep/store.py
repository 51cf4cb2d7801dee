"""A directory of Parquet parts: each written whole or not at all, none ever overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin.errors import DataError
from pytwin.sweep.expand import Design
from pytwin.sweep.lock import LOCK_NAME
from pytwin.sweep.manifest import MANIFEST_NAME, now, read_manifest, refuse_changes

if TYPE_CHECKING:
    import polars as pl

JOURNAL_NAME = "parts.jsonl"


class WriteError(DataError):
    """A file that cannot be written: a full disk, a read-only directory."""


def part_name(part: int) -> str:
    """File name of a part; names sort in row order."""
    return f"part-{part:06d}.parquet"


def make_directory(path: Path) -> None:
    """Create the directory of results, with its parents."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DataError(f"{path} is no directory: choose another name") from None
    except OSError as error:
        raise DataError(f"{path} cannot be made: {error.strerror}: choose another") from None


class Store:
    """The results of one sweep. Its directory must be locked by the caller.

    Parameters
    ----------
    directory: an existing directory.
    design: the sweep's rows.
    manifest: the manifest of a sweep that would start now.
    columns: name and type of each result column.
    resume: go on with what is there; without it the directory must be empty.

    Attributes
    ----------
    finished: numbers of the parts that are there, whole.

    Raises
    ------
    DataError: the directory holds other things, another sweep, or a damaged part.
    """

    def __init__(
        self,
        directory: Path,
        design: Design,
        manifest: dict[str, Any],
        columns: Mapping[str, pl.DataType],
        *,
        resume: bool,
    ) -> None:
        self.directory = directory
        self._design = design
        self._columns = columns
        self.finished: set[int] = set()
        held = self._held_names()
        if MANIFEST_NAME in held and resume:
            self.manifest = read_manifest(directory)
            refuse_changes(directory, self.manifest, manifest)
            self._remove_unfinished()
            self.finished = self._check_parts(held)
        elif held:
            raise DataError(
                f"{directory} is not empty: "
                + (
                    "it holds no sweep, so choose another directory"
                    if resume or MANIFEST_NAME not in held
                    else "add --resume to go on with its sweep, or choose another directory"
                )
            )
        else:
            self._remove_unfinished()
            self.manifest = manifest
            self._write_manifest()

    def write_part(self, part: int, rows: int, content: bytes) -> None:
        """Put a finished part of so many rows on disk: whole and durable when this returns.

        Raises
        ------
        WriteError: nothing of the part remains, and finished parts are untouched.
        """
        # The checksum goes first: a part whose line is missing would be a part that no one can
        # check, a line whose part is missing is simply made again.
        entry = {"part": part, "rows": rows, "sha256": hashlib.sha256(content).hexdigest()}
        self._append(entry | {"written": now()})
        _write_whole(self.directory / part_name(part), content)
        self.finished.add(part)

    def finish(self, status: str, summary: Mapping[str, int] | None = None) -> None:
        """Note in the manifest how the sweep ended."""
        self.manifest["status"] = status
        self.manifest["summary"] = None if summary is None else dict(summary)
        self.manifest["finished"] = now() if status == "finished" else None
        self._write_manifest()

    def status_counts(self) -> dict[str, int]:
        """Rows by status over the finished parts."""
        import polars as pl

        counts = {"ok": 0, "infeasible": 0, "failed": 0}
        for part in sorted(self.finished):
            column = pl.read_parquet(self.directory / part_name(part), columns=["status"])
            for status, count in column["status"].value_counts().iter_rows():
                counts[status] += count
        return counts

    def _held_names(self) -> set[str]:
        """What lies there, apart from our lock and from what a killed sweep left unfinished."""
        try:
            names = [path.name for path in self.directory.iterdir()]
        except OSError as error:
            raise DataError(f"{self.directory} cannot be read: {error.strerror}") from None
        return {name for name in names if name != LOCK_NAME and not name.endswith(".tmp")}

    def _remove_unfinished(self) -> None:
        for path in self.directory.glob("*.tmp"):
            path.unlink(missing_ok=True)

    def _check_parts(self, held: set[str]) -> set[int]:
        expected = {part_name(part): part for part in range(self._design.n_parts)}
        checksums = self._journal()
        finished = set()
        for name in sorted(held):
            path = self.directory / name
            if name in expected:
                part = expected[name]
                trouble = self._trouble(path, part, checksums.get(part))
                if trouble:
                    raise DataError(
                        f"{path} is damaged ({trouble}): delete it and run again with --resume"
                    )
                finished.add(part)
            elif name.endswith(".parquet"):
                raise DataError(f"{path} is no part of this sweep: move it away")
        return finished

    def _trouble(self, path: Path, part: int, checksum: str | None) -> str | None:
        """What is wrong with a part, or None."""
        import polars as pl

        start, stop = self._design.part_range(part)
        try:
            content = path.read_bytes()
        except OSError as error:
            return error.strerror or "unreadable"
        if checksum is not None:
            same = hashlib.sha256(content).hexdigest() == checksum
            return None if same else f"its checksum is not the one in {JOURNAL_NAME}"
        try:
            frame = pl.read_parquet(content)
        except Exception:  # polars has no one class for what a broken file may raise
            return "not readable as Parquet"
        if frame.height != stop - start:
            return f"{frame.height} rows, expected {stop - start}"
        return None if frame.schema == self._columns else "other columns than this sweep's"

    def _journal(self) -> dict[int, str]:
        """Checksum of each part; a last line torn by a kill is passed over."""
        try:
            lines = (self.directory / JOURNAL_NAME).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{self.directory / JOURNAL_NAME} cannot be read ({error}): "
                "delete it and run again with --resume"
            ) from None
        checksums = {}
        for line in lines:
            try:
                entry = json.loads(line)
                checksums[int(entry["part"])] = str(entry["sha256"])
            except (ValueError, KeyError, TypeError):
                continue
        return checksums

    def _append(self, entry: Mapping[str, Any]) -> None:
        path = self.directory / JOURNAL_NAME
        try:
            with open(path, "ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    if file.read(1) != b"\n":  # torn by a kill or a full disk
                        file.write(b"\n")
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _write_error(path, error) from None

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest, indent=2) + "\n"
        _write_whole(self.directory / MANIFEST_NAME, text.encode())


def encode(frame: pl.DataFrame) -> bytes:
    """A frame as Parquet: the same frame gives the same bytes (nothing in them tells the time)."""
    buffer = io.BytesIO()
    frame.write_parquet(
        buffer,
        compression="zstd",
        compression_level=3,
        statistics=True,
        row_group_size=max(frame.height, 1),
    )
    return buffer.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    """Write to a neighbour, flush to disk, then rename over `path`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _discard(temporary)
        raise _write_error(path, error) from None


def _discard(path: Path) -> None:
    # On a disk that refuses even this, a .tmp is left; the next run removes it.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _write_error(path: Path, error: OSError) -> WriteError:
    return WriteError(f"{path} cannot be written: {error.strerror or error}")
