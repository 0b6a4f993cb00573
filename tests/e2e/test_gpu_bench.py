"""`make gpu-bench` from end to end on the REFERENCE device, by FlashInfer; figures withheld."""

import json

from bench.gpu_bench import __main__ as gpu_bench
from tests.serving.servers import MODEL
from tests.serving.shallow_model import make_shallow


def test_all_of_it_runs_without_a_gpu(tmp_path, capsys):
    model = make_shallow(tmp_path, 2, source_dir=MODEL)
    code = gpu_bench.main(["--model", str(model), "--gpus", "2", "--reference", "sm80"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0, found
    text = json.dumps(found)
    assert text.count("withheld: the REFERENCE device says nothing of a GPU's speed") >= 4
    assert "output_throughput" not in text and "longest_gap_ms" not in text
    assert set(found["switches"]) == {"1->2", "2->1"}
    assert set(found["throughput"]) == {
        "runs", "degree 2 over --tp-size", "degree 1 over --dp-size",
    }  # fmt: skip
    kept = found["kept"]
    assert kept["of_these_whole"] == kept["requests_in_flight"] == 1
    assert kept["computed_once_more"] == 0 and kept["cached_tokens_kept"] > 0
    alone, merged = found["longest"]["by_degree"]
    for row in (alone, merged):
        assert row["served"] and row["longer_is_refused"]
    # Of the memory pages that its pool fills.
    assert alone["instance_tokens"] <= alone["planned_tokens"]
    assert merged["instance_tokens"] == merged["planned_tokens"]
    assert merged["longest_request"] > 2 * alone["longest_request"]
    first, last = found["likelihoods"]["at_first"], found["likelihoods"]["afterwards"]
    assert first == last and set(first) == {"1", "2"} and first["1"] != first["2"]
