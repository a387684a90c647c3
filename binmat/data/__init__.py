"""Images and clips: reading, matting and writing them."""
