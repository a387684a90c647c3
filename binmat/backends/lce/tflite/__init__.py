"""TensorFlow Lite files written and read with `flatbuffers` alone."""
