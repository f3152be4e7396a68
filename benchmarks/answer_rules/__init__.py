"""Public answer keys, rules that keep or change an answer, and how models write answers down."""
