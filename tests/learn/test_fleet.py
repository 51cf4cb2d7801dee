"""Which adapters of a concrete fleet fit: `--adapters FILE.csv` and `pt.recommend_fleet`."""

from __future__ import annotations

import json

import pytest

import pytwin as pt
from tests.conftest import LLAMA


def fleet_file(tmp_path, *rows, header="adapter,rate_rps,rank"):
    path = tmp_path / "fleet.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def answer(cli, path, *arguments):
    done = cli("recommend", "--profile", LLAMA, "--adapters", path, *arguments, "--format", "json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_small_fleet_fits_whole(cli, tmp_path):
    path = fleet_file(tmp_path, "chat,0.5,8", "sql,0.2,16", "idle,0,8")
    found = answer(cli, path)
    assert found["feasible"]
    assert found["adapters"] == ["chat", "sql", "idle"]
    assert found["left_out"] == []
    assert found["served_adapters"] == found["max_cpu_loras"] == 3
    assert found["max_loras"] <= 3
    assert found["max_lora_rank"] == 16


def test_of_a_large_fleet_the_most_requested_fit(cli, tmp_path):
    """The server gives out at 20 to 30 requests/s: two or three of ten."""
    path = fleet_file(tmp_path, *(f"a{k},{9 + 0.1 * k},8" for k in range(6)))
    found = answer(cli, path)
    assert found["feasible"]
    assert 1 <= found["served_adapters"] <= 4
    names = [f"a{k}" for k in reversed(range(6))]
    assert found["adapters"] == names[: found["served_adapters"]]
    assert found["left_out"] == names[found["served_adapters"] :]
    shown = cli("recommend", "--profile", LLAMA, "--adapters", path)
    assert f"left out ({len(found['left_out'])}): {', '.join(found['left_out'])}" in shown.out


def test_adapters_that_are_asked_for_rarely_are_not_left_out(cli, tmp_path):
    """The tail is less than a percent of the load: a tie, and yet it is served."""
    tail = [f"rare{k},0.0005,8" for k in range(12)]
    path = fleet_file(tmp_path, "a,1,8", "b,0.8,8", *tail)
    found = answer(cli, path, "--slots", "4,8")
    assert found["left_out"] == []
    assert found["served_adapters"] == 14


def test_one_adapter_too_wide_for_the_rest_is_left_out(tmp_path):
    """Slots of rank 512 for all would not fit beside the weights."""
    rows = [f"a{k},1,8" for k in range(8)]
    adapters = pt.adapters_from_csv(fleet_file(tmp_path, "wide,0.01,512", *rows))
    found = pt.recommend_fleet(LLAMA, adapters, slots=[8], duration_s=600)
    assert found.left_out == ("wide",)
    assert len(found.fitting) == 8
    assert found.answer.best.setting.max_lora_rank == 8
    more = found.answer.one_more_adapter
    assert "max_loras (8)" in more["error"]
    assert more["total_throughput"] is None


def test_own_lengths_of_adapters_count(tmp_path):
    header = "adapter,rate_rps,rank,prompt_tokens,output_tokens"
    path = fleet_file(tmp_path, "a,0.5,8,1000,20", "b,0.5,8,10,100", header=header)
    found = pt.recommend_fleet(LLAMA, pt.adapters_from_csv(path)).answer
    # Early ends take a little of the output away.
    assert found.best.throughput == pytest.approx(0.5 * 1020 + 0.5 * 110, rel=0.06)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ((), (), "holds no adapter"),
        (("a,0,8", "b,0,8"), (), "rates_rps (all 0) must hold a rate above 0"),
        (("a,1,513",), (), "rank (513) must be from 1 to 512"),
        (("a,-1,8",), (), "rate_rps (-1"),
        (("a,1,8", "a,1,8"), (), "must differ from those before it"),
        (("a,1,16",), ("--max-lora-rank", "8"), "rank (16) of adapter a must be <= max_lora_rank"),
        (("a,1,8",), ("--slots", "0"), "slots (0) must be from 1"),
        (("a,1,8",), ("--served", "4"), "adapters brings rates and ranks"),
    ],
)  # fmt: skip
def test_bad_fleets_are_one_line(cli, tmp_path, rows, options, message):
    path = fleet_file(tmp_path, *rows)
    done = cli("recommend", "--profile", LLAMA, "--adapters", path, *options)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_fleet_must_be_adapters():
    with pytest.raises(pt.WorkloadError, match=r"^adapters \(\[1\]\) must come from pt.adapters"):
        pt.recommend_fleet(LLAMA, [1])
    with pytest.raises(pt.WorkloadError, match="rates_rps"):
        pt.recommend_fleet(LLAMA, pt.adapters(0, 0.1))
