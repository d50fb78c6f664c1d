"""Models of all makers side by side: the same frames, the same prompts, a mask and a score from each."""
