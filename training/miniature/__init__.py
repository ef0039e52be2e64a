"""A small DreamO, trained from scratch on images that this package draws."""
