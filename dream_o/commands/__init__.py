"""What the scripts run: one prediction, and the server, both without Docker."""
