"""A row is whole or not there, whoever was killed and whoever writes now."""

from pathlib import Path

from stages.runs import row_files


def test_a_line_cut_short_is_taken_away_by_its_own_rank_alone(tmp_path: Path):
    for rank in (0, 1):
        row_files.append(tmp_path, rank, [{"id": f"{rank}{number}"} for number in range(2)])
        with (tmp_path / f"predictions-{rank}.jsonl").open("a") as file:
            file.write('{"id": "hal')
    row_files.mend(tmp_path, 0)
    row_files.mend(tmp_path, 2)
    assert [row["id"] for row in row_files.rows(tmp_path)] == ["00", "01", "10", "11"]
    assert (tmp_path / "predictions-0.jsonl").read_text() == '{"id": "00"}\n{"id": "01"}\n'
    assert (tmp_path / "predictions-1.jsonl").read_text().endswith("hal"), "rank 1 may be in the middle of it"
    row_files.append(tmp_path, 0, [{"id": "02"}])
    assert [row["id"] for row in row_files.rows(tmp_path)] == ["00", "01", "02", "10", "11"]


def test_a_file_of_half_a_line_is_empty_afterwards(tmp_path: Path):
    (tmp_path / "predictions-0.jsonl").write_text('{"id": ')
    assert list(row_files.rows(tmp_path)) == []
    row_files.mend(tmp_path, 0)
    assert (tmp_path / "predictions-0.jsonl").read_text() == ""
