"""A seeded world: several real workers and the real router in one process, all else virtual.

schedulers.py   N real ElasticSchedulers in one process, built once and forked for every history
fibers.py       threads that run one at a time, over a virtual clock
surroundings.py clocks, peers, bells, links and helpers of the workers
plane.py        a data plane that computes nothing; shadow.py: what each slot's KV must be
router.py       the real router without sockets; clients.py: who asks, and what must come back
events.py       one history as a list; profiles.py and walk.py draw them from a seed
checks.py       the invariants (DESIGN, section 12); waiting.py: that nobody waits for nothing
play.py         plays one history; faults.py and operator.py do what its events say
runner.py       plays many, each in a fork; shrink.py finds the fewest events that still fail
campaign.py     `make world`; mutants.py, hunt.py: `make world-mutants`; kept/: found cases
"""
