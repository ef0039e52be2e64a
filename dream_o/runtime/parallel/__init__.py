"""Context parallelism: several devices of a machine generate one image together.

Each device holds the whole transformer and computes a part of the text, image and reference
tokens. In attention, the devices exchange tokens for heads (Ulysses, as implemented in diffusers).
The main process is rank 0 and does everything else. For each further device it starts a follower,
`python -m dream_o.runtime.parallel`, which receives the arguments of each call of the transformer
and makes the same call. Followers only know calls, not requests: a request that ends between two
calls, for any reason, leaves no follower waiting.
"""
