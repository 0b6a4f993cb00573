"""The upstream delta: a series of patches, and the tool that puts it on an SGLang and off again.

The series lives in `patches/sglang-<version>/` and changes files below `python/sglang/` of
upstream, so `git am` and `git apply` take it in an upstream checkout. This tool does the same,
there and to an installed package:

    python -m amoeba_sglang.patch apply|revert|status|check [--target DIR]

No stamp or journal is kept: the state of a target is read from its files alone. Every file that
the series touches has a few known contents, from pristine over "the first k patches" to patched.
Files are replaced one by one, each atomically, so a crash leaves a mixture of known contents;
`status` then says `partial`, and either `apply` or `revert` mends it. A file with any other content
is `modified` and is never written.

Nothing here imports sglang or torch, which takes seconds; hunks are matched by `git apply`.
"""
