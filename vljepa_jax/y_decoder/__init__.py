"""The Y-decoder of a trained model: its recipe, its training from text alone, and its use."""
