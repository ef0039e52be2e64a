"""Downloads weights, builds bundles from the base model and adapters, and loads bundles."""
