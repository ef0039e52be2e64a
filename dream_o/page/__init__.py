"""The page: DreamO in the browser, with Gradio."""
