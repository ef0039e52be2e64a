"""The drawn world that the embedded models are trained on."""
