"""What is done to weights, under pruning and quantization alike."""
