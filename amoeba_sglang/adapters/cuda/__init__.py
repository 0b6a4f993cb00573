"""Workers that compute on GPUs. Not yet run on one, nor served yet: --device cuda is refused."""
