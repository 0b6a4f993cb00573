from types import SimpleNamespace

from amoeba_sglang.frontend.batches import Batches, prompt_id, remember_id


def part(prompt):
    return SimpleNamespace(obj=SimpleNamespace(prompt_id=prompt))


def test_the_name_of_a_batch_means_all_its_parts_and_a_part_itself():
    batches, parts = Batches(), {"job_0": part("job_0"), "job_1": part("job_1")}
    with batches.hold("job", parts):
        assert batches.abort("job_1") == ["job_1"]
        assert batches.is_aborted("job_1")
        assert not batches.is_aborted("job_0")
        assert batches.abort("jo") == []
        assert batches.abort("job") == ["job_0", "job_1"]
    assert batches.abort("job") == []


def test_samples_belong_to_the_prompt_that_they_are_copies_of():
    batches, parts = Batches(), {}
    with batches.hold(None, parts):
        parts |= {"x1": part("a"), "x2": part("a"), "y1": part("b")}
        assert batches.abort("a") == ["x1", "x2"]
        parts["x3"] = part("a")
        assert batches.is_aborted("x3")
        assert not batches.is_aborted("y1")


def test_a_copy_keeps_the_id_of_its_prompt():
    request = SimpleNamespace(rid="a")
    assert prompt_id(request) is None
    remember_id(request)
    copy = SimpleNamespace(**vars(request))
    copy.rid = "b"
    assert prompt_id(copy) == "a"
