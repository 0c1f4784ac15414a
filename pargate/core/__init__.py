"""The vocabulary: values and pure arithmetic, without effects."""
