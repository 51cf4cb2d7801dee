"""Reading measured runs: what is wrong with a table is said in one line."""

import polars as pl
import pytest

from pytwin.calibrate import read

STEPS = pl.DataFrame(
    {
        "run_idx": [1, 1],
        "step": [0, 1],
        "phase": ["bench", "bench"],
        "dt_ms": [13.0, 13.5],
        "unique_adapters": [0, 1],
        "batched_tokens": [1, 1],
        "lora_loads_before": [0, 0],
    }
)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_good_table_comes_back(tmp_path):
    STEPS.write_parquet(tmp_path / "steps.parquet")
    assert read.table(tmp_path, "steps").equals(STEPS)


def test_a_missing_directory(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read.table(tmp_path / "nowhere", "steps")
    assert "does not exist" in one_line(error)


def test_a_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read.table(tmp_path, "steps")
    assert "steps.parquet is missing" in one_line(error)


def test_a_file_that_is_not_parquet(tmp_path):
    (tmp_path / "steps.parquet").write_text("run_idx,step\n1,0\n")
    with pytest.raises(ValueError, match="must be a readable Parquet file") as error:
        read.table(tmp_path, "steps")
    one_line(error)


def test_a_truncated_file(tmp_path):
    STEPS.write_parquet(tmp_path / "steps.parquet")
    whole = (tmp_path / "steps.parquet").read_bytes()
    (tmp_path / "steps.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a readable Parquet file"):
        read.table(tmp_path, "steps")


def test_a_missing_column_is_named(tmp_path):
    STEPS.drop("dt_ms").write_parquet(tmp_path / "steps.parquet")
    with pytest.raises(ValueError, match="dt_ms") as error:
        read.table(tmp_path, "steps")
    one_line(error)


def test_a_column_of_another_type_is_named(tmp_path):
    STEPS.with_columns(pl.col("dt_ms").cast(pl.String)).write_parquet(tmp_path / "steps.parquet")
    with pytest.raises(ValueError, match=r"dt_ms \(String\) must be number"):
        read.table(tmp_path, "steps")


def test_an_empty_table_is_never_fitted(tmp_path):
    STEPS.clear().write_parquet(tmp_path / "steps.parquet")
    with pytest.raises(ValueError, match="must not be empty"):
        read.table(tmp_path, "steps")
