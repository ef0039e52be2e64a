"""What bad input, load, kills and a full disk do to the servers."""
