"""Weights: fetching them, building a bundle from base model and adapters, and loading a bundle."""
