"""Training of the networks that cut subjects out offline, on drawn composites only."""
