"""Larq Compute Engine: lowered graphs as .tflite models, and its interpreter."""
