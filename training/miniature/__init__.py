"""Trains a small DreamO from scratch on images that this package draws."""
