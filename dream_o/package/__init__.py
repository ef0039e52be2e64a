"""Writes folders that `cog build`, `cog predict` and `cog push` can use directly."""
