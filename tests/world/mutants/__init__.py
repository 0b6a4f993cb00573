"""Faults that can be put into a copy of the package, to see whether the world finds them.

make world-mutants            plays until each is found, or its time is over (LIST=1: names)
make world MUTANT=name ...    plays with one of them
"""

from tests.world.mutants.faults import FAULTS
from tests.world.mutants.own import OWN

MUTANTS = FAULTS | OWN
