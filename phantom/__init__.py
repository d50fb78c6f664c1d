"""Simulated X-ray coronary angiograms with exact truth.

anatomy -> lesions -> carm + contrast -> rendering + thorax + detector -> masks, contours, labels -> files.
`make_phantom_dataset.py` is the command that uses it.
"""
