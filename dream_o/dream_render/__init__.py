"""DreamRender: text to image with Stable Diffusion 1.5 and SDXL checkpoints."""
