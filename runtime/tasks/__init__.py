"""What a head's numbers mean: arrays and ids alone, no text, no file."""
