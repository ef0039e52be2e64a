"""Weights: from the adapters and the base model to a bundle, and from a bundle to the pipeline."""
