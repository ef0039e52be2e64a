"""Many requests from a file, on one machine or on a Ray cluster. Only `on_ray` imports Ray."""
