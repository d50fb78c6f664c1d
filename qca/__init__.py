"""Quantitative coronary analysis: from a lumen and a calibration to MLD, reference, %DS and lengths."""
