"""Moves live KV units between pools on devices, in place, by a Triton kernel. Not run on a GPU.

Given the base addresses of all pools of a block as each process has them mapped, and who is live, a
change of layout is a few launches per worker: `plan_launches` says which, `turn_cycle` is the
kernel, and `DeviceKVMover` makes them, a barrier before and one behind.

The kernel has run in Triton's interpreter, on host memory, and compiles for sm_80, sm_90 and
sm_100, where it loads and stores units by 16 bytes; how fast it is, and that streams, peers and
barriers order it as they should, nobody has seen. Only `turn_cycle` imports Triton, and only
`device_mover` imports that.
"""
