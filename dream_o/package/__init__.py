"""Folders that `cog build`, `cog predict` and `cog push` take as they are."""
