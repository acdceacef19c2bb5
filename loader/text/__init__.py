"""From text to ids and back: tokenizers, and vocabularies that were cut."""
