"""A small DreamO, trained from nothing on pictures that this package draws itself."""
