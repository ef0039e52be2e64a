"""Context parallelism: several devices of a machine make one image together.

Each device holds the whole transformer and computes a part of the text, image and reference
tokens; in attention the devices exchange tokens for heads (Ulysses, as diffusers has it). The
process that was started is rank 0 and does all the rest of a request. For each further device it
starts a follower, `python -m dream_o.runtime.parallel`, which is told the arguments of each call of
the transformer and makes the same call. A follower knows nothing of requests, so that one that ends
between two calls, however it ends, leaves no follower waiting or ahead.
"""
