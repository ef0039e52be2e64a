"""Training of the network that cuts subjects out offline, on drawn composites only."""
