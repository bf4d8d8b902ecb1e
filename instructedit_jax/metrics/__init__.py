"""What an answer is worth: scores of single items, and their summaries."""
