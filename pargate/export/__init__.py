"""Graphs from checkpoints: written (`onnx`), packed with all they need (`folder`), and proven (`proof`)."""
