"""What `predict.py` does and leaves: jobs, a frame's answer, its records, pictures and page."""
