"""What ``binmat convert`` writes, by name."""

FILES = ("model.safetensors", "model.tflite", "recipe.toml", "report.json", "report.md")
