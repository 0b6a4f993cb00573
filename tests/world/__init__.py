"""A seeded world: several real workers and the real router in one process, all else virtual.

schedulers.py   N real ElasticSchedulers in one process, built once and forked for every history
fibers.py       threads that run one at a time, over a virtual clock
surroundings.py clocks, peers, bells, links and helpers of the workers; sockets.py
plane.py        a data plane that computes nothing; shadow.py: what each slot's KV must be
router.py       the real router without sockets; clients.py, front_end.py: who asks, and what must
                come back
events.py       one history as a list; profiles.py and walk.py draw them from a seed
checks.py       the invariants (DESIGN, section 12); waiting.py: that nobody waits for nothing
play.py         plays one history; faults.py, operator.py and strikes.py do what its events say
rare.py         how often what is rare has happened; watched.py: what a worker's protocol does
runner.py       plays many, each in a fork; shrink.py finds the fewest events that still fail
campaign.py     `make world`; soak.py: `make soak`; results.py: what they sum up
mutants, hunt   `make world-mutants`; kept: found cases, which replay.py plays
commands.py     runs many commands after importing upstream once
"""
