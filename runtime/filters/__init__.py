"""Output filters: words and expressions that an answer must not show, looked for while it streams. Texts, no files."""
