"""Export checkpoints as ONNX graphs: write them (`onnx`), pack them (`folder`), and prove their parity (`parity`)."""
