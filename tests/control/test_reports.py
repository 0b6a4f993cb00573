from amoeba_sglang.control.reports import TransformReport


def test_a_block_s_report_has_the_longest_times_and_all_bytes():
    reports = [
        TransformReport(seconds=1.0, moves=3, kv_bytes=5, weight_bytes=1, pace="two a step"),
        TransformReport(seconds=0.5, pause_seconds=0.4, moves=3, kv_bytes=7, pace="ignored"),
    ]
    merged = TransformReport.merged(reports)
    assert (merged.seconds, merged.pause_seconds, merged.moves) == (1.0, 0.4, 3)
    assert (merged.kv_bytes, merged.weight_bytes) == (12, 1)
    assert (merged.pace, merged.error) == ("two a step", "")


def test_an_entry_of_the_history_has_the_bytes_together():
    shown = TransformReport(seconds=9.0, kv_bytes=5, weight_bytes=1, pace="all").to_json()
    assert shown["bytes_moved"] == {"kv": 5, "weights": 1} and shown["pace"] == "all"
    assert not shown.keys() & {"seconds", "error", "kv_bytes", "weight_bytes"}
