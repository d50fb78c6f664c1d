"""Processes and hosts that train one model: started, talking, watched, and ended together."""
