"""Questions with known answers: prompts, generation, scorers, and counts with their intervals."""
