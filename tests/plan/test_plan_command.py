import json

import pytest

from amoeba_sglang.plan.__main__ import main


def run(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_table_of_a_32b_model(capsys):
    code, out, err = run(capsys, "--model", "Qwen2.5-32B")
    assert (code, err) == (0, "")
    for text in (
        "device 80 GB (1 GB = 10^9 bytes), 90% of it for weights and KV; pages of 2048 KiB",
        "24,575",
        "255,998",
        "716,796",
        "0.00 GB (0.00%) hold no weights; shards padded to whole pages: 0.40 GB (0.74%)",
        "warning: degree 1 is starved of KV: 24,575 tokens are fewer than",
    ):
        assert text in out
    assert max(map(len, out.split("\nwarning")[0].splitlines())) <= 100


def test_data_instead_of_tables(capsys):
    code, out, _ = run(capsys, "--model", "Llama-3-8B", "--json", "--degrees", "1,2")
    data = json.loads(out)
    assert code == 0 and data["warnings"] == []
    assert [row["degree"] for row in data["capacity"]["degrees"]] == [1, 2]
    assert data["token_bytes"] == 131_072


def test_options_change_the_plan(capsys):
    def tokens(*options):
        _, out, _ = run(capsys, "--model", "Llama-3-8B", "--json", *options)
        return json.loads(out)["capacity"]["degrees"][0]["tokens"]

    plain = tokens()
    assert tokens("--kv-cache-dtype", "fp8_e4m3") > 1.9 * plain
    assert tokens("--dtype", "float32") < plain / 2
    assert tokens("--mem-fraction-static", "0.8") < plain < tokens("--device-memory-gb", "96")
    # Slots of 64 tokens, one of them padding and one cut off at most.
    assert tokens("--page-size", "64") in range(plain // 64 * 64 - 128, plain + 1, 64)


def test_a_model_that_is_too_large_gets_one_line_and_the_degrees_that_fit(capsys):
    code, out, err = run(capsys, "--model", "Qwen2.5-72B")
    assert (code, err) == (1, "")
    assert out.count("does not fit at degree 1") == 1 and "only those shown would fit" in out
    assert "163,836" in out
    code, out, _ = run(capsys, "--model", "Qwen2.5-72B", "--device-memory-gb", "24")
    assert code == 1 and "no degree fits" in out and "none would fit" in out


def test_pages_that_waste_too_much_are_reported_with_a_better_size(capsys, tmp_path):
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    _, out, _ = run(capsys, "--model", str(tmp_path), "--dtype", "float32")
    assert "shards padded to whole pages: 0.18 GB (58.02%)" in out
    assert "warning: pages of 2048 KiB lose 100.0% of the ideal; --page-size-kib 128 is" in out


def test_too_many_mappings_are_reported(capsys):
    _, out, _ = run(capsys, "--model", "Qwen2.5-32B", "--page-size-kib", "64", "--degrees", "1,2")
    assert "over 80% of vm.max_map_count 65530: raise --page-size-kib" in out


@pytest.mark.parametrize(
    "arguments, text",
    [
        ("", "--model"),
        ("--model nothing", "--model nothing: no config.json there, and none of the known names"),
        ("--model Qwen2.5-7B --degrees 1,2,4,8", "8 does not divide num_attention_heads 28"),
        ("--model Qwen2.5-7B --degrees 1,3,4", "--degrees 1,3,4: 4 is not a larger multiple of 3"),
        ("--model Qwen2.5-7B --degrees 1,x", "--degrees 1,x: not a list of integers"),
        ("--model Qwen2.5-7B --page-size-kib 3", "--page-size-kib 3: must be a power of two"),
        ("--model Qwen2.5-7B --page-size-kib 65536", "from 4 to 32768"),
        ("--model Qwen2.5-7B --page-size-kib two", "--page-size-kib"),
        ("--model Qwen2.5-7B --device-memory-gb 0", "--device-memory-gb 0: must be a number from"),
        ("--model Qwen2.5-7B --device-memory-gb inf", "--device-memory-gb inf"),
        ("--model Qwen2.5-7B --device-memory-gb nan", "--device-memory-gb nan"),
        ("--model Qwen2.5-7B --mem-fraction-static 1.1", "--mem-fraction-static 1.1: must be"),
        ("--model Qwen2.5-7B --dtype int3", "--dtype"),
        ("--model Qwen2.5-7B --unknown", "--unknown"),
    ],
)
def test_bad_input_is_one_line_that_names_the_flag(capsys, arguments, text):
    code, out, err = run(capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and text in err


def test_a_dry_run_of_one_change(capsys):
    code, out, err = run(
        capsys, "--model", "Qwen2.5-32B", "--transform", "1,1:2,2", "--layers-per-step", "32"
    )
    assert (code, err) == (0, "")
    assert "8192 live tokens, 1073.7 MB of KV change worker" in out
    assert "step 2: layers 0..31, then b = 0; at most" in out
    code, out, _ = run(capsys, "--model", "Qwen2.5-32B", "--transform", "2,2:1,1", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["kind"] == "split" and plan["steps"][0]["boundary"] == 64


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--transform", "1,1"), "--transform 1,1: not two lists"),
        (("--transform", "1,1:1,2"), "--transform 1,1:1,2: degrees: [1, 2] is not made of"),
        (("--transform", "1,1:1,1"), "not a merge or a split of one block"),
        (("--transform", "1,1:2,2", "--live-tokens", "-1"), "--live-tokens -1: must be at least 0"),
        (("--transform", "1,1:2,2", "--staging-mib", "0"), "--staging-mib 0: must be at least 1"),
    ],
)
def test_a_change_that_cannot_be_gets_one_line(capsys, options, says):
    code, out, err = run(capsys, "--model", "Qwen2.5-32B", *options)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1
