"""Every mutant is a change of the package as it is now."""

import shutil

import pytest

from tests.world.mutants import MUTANTS
from tests.world.mutants.mutant import PACKAGE, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_it_applies_and_is_python(name, tmp_path):
    for file, _, _ in MUTANTS[name].changes:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / PACKAGE / file, tmp_path / file)
    MUTANTS[name].apply(tmp_path)
    for file, _, _ in MUTANTS[name].changes:
        compile((tmp_path / file).read_text(), file, "exec")
