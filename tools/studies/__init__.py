"""Scripts that answered one question each; the documents quote them. Not in the wheel."""
