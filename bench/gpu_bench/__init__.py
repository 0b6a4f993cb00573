"""What somebody who would buy or run this on GPUs asks of it, measured on their own machine.

`make gpu-bench MODEL=DIR GPUS=n` starts servers like anybody's, one after the other, each with all
of the GPUs. Not yet run on a GPU; tests run all of it on the REFERENCE device with a tiny load,
where figures are withheld.
"""
